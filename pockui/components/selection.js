// Several rows of a list that are set, locked or let go together. Part of `layer_bars.js`.

const SWEEP_PX = 5; // a pointer that moves less than that clicks
const EDGE_PX = 24; // from the list's end within which a sweep scrolls it
const SHARES = [[0, "Frozen"], [0.25, "25 %"], [0.5, "50 %"], [1, "100 %"]];

/**
 * @param {HTMLElement} tools where the count, and what can be done to the selected rows, stand
 * @param {{rows: () => {id: string, fixed: boolean}[], parts: (id: string) => {element: HTMLElement, handle: HTMLElement},
 *          say: (text: string) => void, set: (ids: string[], ratio: number) => void,
 *          lock: (ids: string[], on: boolean) => void}} list
 */
function selection(tools, list) {
  const chosen = new Set();
  let anchor = "";
  let swept = null; // {y, from, kept} while a pointer goes over rows
  let sweeping = false;

  const count = make("span", "pock-count", tools);
  count.setAttribute("role", "status");
  const all = chip("Select all", () => choose(movable()));
  const acts = make("span", "pock-acts", tools);
  acts.setAttribute("role", "group");
  acts.setAttribute("aria-label", "What is selected");
  const number = make("span", "pock-number", acts);
  for (const [ratio, text] of SHARES) chip(text, () => list.set([...chosen], ratio), acts);
  chip("Lock", () => list.lock([...chosen], true), acts);
  chip("Unlock", () => list.lock([...chosen], false), acts);
  chip("Clear", () => { choose([]); all.focus(); }, acts);

  function chip(text, act, parent = tools) {
    const button = make("button", "pock-chip", parent, text);
    button.type = "button";
    button.addEventListener("click", act);
    return button;
  }
  /** Ids of the rows that can be set, in their order. */
  function movable() {
    return list.rows().filter((row) => !row.fixed).map((row) => row.id);
  }
  function between(one, other) {
    const ids = list.rows().map((row) => row.id);
    const [from, to] = [ids.indexOf(one), ids.indexOf(other)].sort((a, b) => a - b);
    return ids.slice(Math.max(0, from), to + 1);
  }
  /** Select these and no others; the head is never among them. */
  function choose(ids, silently) {
    const before = chosen.size;
    chosen.clear();
    const can = new Set(movable());
    for (const id of ids) if (can.has(id)) chosen.add(id);
    show();
    if (!silently && before !== chosen.size) list.say(chosen.size ? `${chosen.size} selected` : "none selected");
  }
  function toggle(id) {
    anchor = id;
    choose(chosen.has(id) ? [...chosen].filter((other) => other !== id) : [...chosen, id]);
  }
  function show() {
    const rows = list.rows();
    const there = new Set(rows.map((row) => row.id));
    for (const id of [...chosen]) if (!there.has(id)) chosen.delete(id); // what is not seen is not changed
    for (const { id } of rows) {
      const { element, handle } = list.parts(id);
      element.classList.toggle("pock-chosen", chosen.has(id));
      if (chosen.has(id)) handle.setAttribute("aria-description", "selected");
      else handle.removeAttribute("aria-description");
    }
    acts.hidden = !chosen.size;
    all.hidden = chosen.size > 0 || movable().length < 2;
    number.textContent = `${chosen.size} selected`;
  }

  return {
    show,
    get sweeping() { return sweeping; },
    /** What an edit of one row concerns: all that is selected, where it is one of them. */
    with: (id) => (chosen.has(id) ? [...chosen] : [id]),
    count(text, refused) {
      count.textContent = text;
      count.classList.toggle("pock-refused", refused);
      count.setAttribute("role", refused ? "alert" : "status");
    },
    extend(from, to) {
      if (!chosen.has(from) || !anchor) anchor = from;
      choose([...new Set([...chosen, ...between(anchor, from), ...between(anchor, to)])]
        .filter((id) => between(anchor, to).includes(id) || !between(anchor, from).includes(id)));
    },
    /** A click on a name; returns whether it was about the selection. */
    clicked(event, id) {
      if (event.shiftKey) choose([...chosen, ...between(anchor || id, id)]);
      else if (event.ctrlKey || event.metaKey || (chosen.size && event.pointerType === "touch")) toggle(id);
      else {
        anchor = id;
        return false;
      }
      return true;
    },
    pressed(event, id) {
      if (event.key === " ") toggle(id);
      else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a") choose(movable());
      else if (event.key === "Escape" && chosen.size) choose([]);
      else return false;
      return true;
    },
    /** Have a mouse or pen that is drawn over names and bars select the rows that it passes. */
    sweep(area, begin) {
      let y = 0;
      let frame = 0;
      const at = () => {
        const inside = area.getBoundingClientRect();
        const x = inside.left + 4;
        const row = area.getRootNode().elementFromPoint(x, clamp(y, inside.top + 1, inside.bottom - 2));
        return row?.closest("[data-tensor]")?.dataset.tensor;
      };
      const take = () => {
        const id = at();
        if (id) choose([...swept.kept, ...between(swept.from, id)], true);
      };
      const scroll = () => {
        if (!swept) return;
        const inside = area.getBoundingClientRect();
        const by = Math.min(0, y - inside.top - EDGE_PX) + Math.max(0, y - inside.bottom + EDGE_PX);
        if (by) {
          area.scrollTop += by / 3;
          take();
        }
        frame = requestAnimationFrame(scroll);
      };
      area.addEventListener("pointerdown", (event) => {
        const row = event.target.closest("[data-tensor]");
        if (event.button || event.pointerType === "touch" || !row) return;
        if (event.target.closest(".pock-track, .pock-lock")) return;
        const more = event.ctrlKey || event.metaKey || event.shiftKey;
        swept = { y: event.clientY, from: row.dataset.tensor, kept: more ? [...chosen] : [] };
      });
      area.addEventListener("pointermove", (event) => {
        if (swept && !event.buttons) stop(); // it was released outside
        if (!swept) return;
        y = event.clientY;
        if (!sweeping && Math.abs(y - swept.y) < SWEEP_PX) return;
        if (!sweeping) {
          sweeping = true;
          anchor = swept.from;
          area.setPointerCapture(event.pointerId); // a name under it is not clicked
          begin();
          frame = requestAnimationFrame(scroll);
        }
        take();
      });
      function stop() {
        cancelAnimationFrame(frame);
        if (sweeping) list.say(`${chosen.size} selected`);
        swept = null;
        sweeping = false;
      }
      for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) area.addEventListener(end, stop);
    },
  };
}
