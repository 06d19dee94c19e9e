// Two-sided bars: what each tensor gains and costs, and a handle for the share of it that is trained.

const PADLOCK = {
  open: "M6 10V7a4 4 0 0 1 7.7-1.5l1.9-.7A6 6 0 0 0 4 7v3H3v10h14V10Zm-1 2h10v6H5Z",
  shut: "M6 10V7a4 4 0 0 1 8 0v3h3v10H3V10Zm2 0h4V7a2 2 0 0 0-4 0Z",
};

function padlock(shut) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 22");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", shut ? PADLOCK.shut : PADLOCK.open);
  path.setAttribute("fill-rule", "evenodd");
  svg.appendChild(path);
  return svg;
}

/** Linear between the measured ratios; nothing is gained at ratio 0. */
function gainAt(gains, ratio) {
  let before = [0, 0, 0, 0];
  for (const point of gains) {
    if (point[0] >= ratio) {
      const share = point[0] === before[0] ? 1 : (ratio - before[0]) / (point[0] - before[0]);
      return [1, 2, 3].map((i) =>
        point[i] === null || before[i] === null ? null : before[i] + share * (point[i] - before[i]));
    }
    before = point;
  }
  return before.slice(1);
}

function ratioText(row, ratio) {
  if (row.counted) return `${Math.round(ratio * row.steps)} / ${row.steps}`;
  if (ratio <= 0) return "frozen";
  const percent = 100 * ratio;
  return `${Math.abs(percent - Math.round(percent)) > 0.05 ? percent.toFixed(1) : Math.round(percent)} %`;
}

function render({ model, el }) {
  const root = make("div", "pock-layers", el);
  const tools = make("div", "pock-several", root);
  const head = make("div", "pock-row pock-head", root);
  make("span", "pock-name", head, "Tensor");
  const gainHead = make("span", "pock-gain", head);
  const costHead = make("span", "pock-cost", head);
  make("span", "pock-ratio-head", head, "Trained share");
  const list = make("div", "pock-list", root);
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", "Tensors. Up and down arrows: another tensor. Left and right arrows: its share. "
    + "L: lock. Enter: show its curves. Space: select it, with others. Shift and arrows: select more. "
    + "Control and A: select all. What is done to one of several selected is done to all of them.");
  const empty = make("div", "pock-empty", root);
  const live = make("div", "pock-live", root);
  live.setAttribute("aria-live", "polite");
  const tip = tooltip(root);
  const edit = edits(model);
  const shown = new Map(); // id -> parts of the row on screen
  const several = selection(tools, {
    rows: () => model.get("rows"),
    parts: (id) => shown.get(id),
    say: (text) => { live.textContent = text; },
    set: (ids, ratio) => write(ids, ratio, true),
    lock: (ids, on) => lock(ids, on),
  });
  let current = ""; // id of the row that the Tab key comes to; arrows reach the others

  const ratioOf = (id) => model.get("ratios")[id] ?? 0;
  const place = (element, from, to) => {
    element.style.left = `${100 * Math.min(from, to)}%`;
    element.style.width = `${100 * Math.abs(to - from)}%`;
  };

  function paint(parts, ratio) {
    const { row } = parts;
    const scale = model.get("scale");
    const span = scale.gain_high - scale.gain_low || 1;
    const across = (gain) => (scale.gain_high - gain) / span; // gains grow to the left
    const zero = across(0);
    parts.zero.style.left = `${100 * zero}%`;
    const best = row.gains.length ? row.gains[row.gains.length - 1].slice(1) : null;
    const now = row.gains.length && ratio > 0 ? gainAt(row.gains, ratio) : null;
    place(parts.gainAll, zero, best ? across(best[0]) : zero);
    place(parts.gainNow, zero, now ? across(now[0]) : zero);
    parts.gainAll.classList.toggle("pock-loss", Boolean(best && best[0] < 0));
    parts.gainNow.classList.toggle("pock-loss", Boolean(now && now[0] < 0));
    const reach = now ?? best;
    parts.whisker.hidden = !reach || reach[1] === null;
    if (!parts.whisker.hidden) place(parts.whisker, across(reach[2]), across(reach[1]));
    const full = scale.cost_high ? row.cost / scale.cost_high : 0;
    place(parts.costAll, 0, full);
    place(parts.costNow, 0, full * ratio);
    parts.fill.style.width = `${100 * ratio}%`;
    parts.handle.style.left = `${100 * ratio}%`;
    parts.handle.setAttribute("aria-valuenow", String(Math.round(100 * ratio)));
    parts.handle.setAttribute("aria-valuetext", ratioText(row, ratio));
    parts.text.textContent = ratioText(row, ratio);
    parts.element.classList.toggle("pock-trained", ratio > 0);
  }

  function build(id) {
    const parts = { id, ratio: 0 };
    const element = (parts.element = make("div", "pock-row"));
    element.dataset.tensor = id;
    const name = make("button", "pock-name", element);
    name.type = "button";
    name.tabIndex = -1;
    parts.prefix = make("span", "pock-prefix", name);
    parts.short = make("span", "pock-short", name);
    const gain = make("div", "pock-gain", element);
    parts.gainAll = make("i", "pock-bar pock-all", gain);
    parts.gainNow = make("i", "pock-bar pock-now", gain);
    parts.whisker = make("i", "pock-whisker", gain);
    parts.zero = make("i", "pock-zero", gain);
    parts.none = make("span", "pock-none", gain, "not measured");
    const cost = make("div", "pock-cost", element);
    parts.costAll = make("i", "pock-bar pock-all", cost);
    parts.costNow = make("i", "pock-bar pock-now", cost);
    parts.track = make("div", "pock-track", element);
    parts.rail = make("div", "pock-rail", parts.track);
    parts.fill = make("i", "pock-fill", parts.rail);
    parts.marks = make("div", "pock-marks", parts.rail);
    parts.handle = make("div", "pock-handle", parts.rail);
    parts.text = make("span", "pock-ratio", element);
    parts.lock = make("button", "pock-lock", element);
    parts.lock.type = "button";
    parts.lock.tabIndex = -1;

    parts.quantise = (f) => {
      const n = parts.row.steps;
      return f <= 0.5 / n && f < SNAP ? 0 : n === 1 ? Math.round(f) : Math.round(f * n) / n;
    };
    parts.slider = slider(parts.rail, parts.handle, {
      read: () => parts.ratio,
      write: (ratio, final) => write(several.with(id), ratio, final, id),
      marks: () => parts.row.marks,
      quantise: parts.quantise,
      step: () => 1 / parts.row.steps,
      disabled: () => parts.row.fixed,
      key: (event) => pressed(event, parts),
    });
    parts.handle.setAttribute("aria-keyshortcuts", "L Enter Space Shift+ArrowDown Shift+ArrowUp Control+A");
    parts.select = () => edit.send({ kind: "select", id });
    parts.toggleLock = () => lock(several.with(id), !model.get("locked").includes(id), id);
    name.addEventListener("click", (event) => several.clicked(event, id) || parts.select());
    parts.lock.addEventListener("click", parts.toggleLock);
    const explain = () => several.sweeping
      || tip.show(element, id, [...parts.row.tip, ["Trained share", parts.text.textContent]]);
    for (const part of [name, gain, cost]) {
      part.addEventListener("pointerenter", (e) => e.pointerType !== "touch" && explain());
      part.addEventListener("pointerleave", tip.hide);
    }
    parts.handle.addEventListener("focus", () => {
      setCurrent(id);
      // Focus may scroll the list, which hides the card.
      if (parts.handle.matches(":focus-visible")) requestAnimationFrame(explain);
    });
    parts.handle.addEventListener("blur", tip.hide);
    return parts;
  }

  /** Set some rows, each to the share that it can have; `id` is the one that was moved. */
  function write(ids, ratio, final, id = ids[0]) {
    for (const parts of ids.map((each) => shown.get(each))) {
      parts.ratio = parts.id === id ? ratio : parts.quantise(ratio);
      parts.edited = true;
      paint(parts, parts.ratio);
    }
    const row = shown.get(id).row;
    if (final) live.textContent = `${ids.length > 1 ? `${ids.length} tensors` : id}: ${ratioText(row, ratio)}`;
    edit.send({ kind: "ratio", id, ratio, final, ...(ids.length > 1 ? { ids } : {}) });
  }
  function lock(ids, on, id = ids[0]) {
    live.textContent = `${ids.length > 1 ? `${ids.length} tensors` : id}: ${on ? "locked" : "not locked"}`;
    edit.send({ kind: "lock", id, on, ratio: shown.get(id).ratio, ...(ids.length > 1 ? { ids } : {}) });
  }

  function setCurrent(id) {
    current = id;
    for (const parts of shown.values()) parts.handle.tabIndex = parts.id === id ? 0 : -1;
  }

  /** Keys of the list: another row, a lock, the curves. Returns whether it was one. */
  function pressed(event, parts) {
    if (several.pressed(event, parts.id)) return true;
    if (event.altKey || event.metaKey) return false;
    const rows = model.get("rows").map((row) => row.id);
    const at = rows.indexOf(parts.id);
    const to = {
      ArrowDown: at + 1, ArrowUp: at - 1,
      Home: event.ctrlKey ? 0 : undefined, End: event.ctrlKey ? rows.length - 1 : undefined,
    }[event.key];
    if (to !== undefined) {
      const next = shown.get(rows[clamp(to, 0, rows.length - 1)]);
      if (event.shiftKey) several.extend(parts.id, next.id);
      next.handle.focus({ preventScroll: true });
      next.element.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter") {
      parts.select();
    } else if (event.key.toLowerCase() === "l" && !event.ctrlKey) {
      if (!parts.row.fixed) parts.toggleLock();
    } else {
      return false;
    }
    return true;
  }

  function showRows() {
    const rows = model.get("rows");
    const scale = model.get("scale");
    gainHead.textContent = scale.gain_title;
    gainHead.title = scale.gain_help;
    costHead.textContent = scale.cost_title;
    costHead.title = scale.cost_help;
    const wanted = new Set(rows.map((r) => r.id));
    for (const [id, parts] of shown) {
      if (!wanted.has(id)) {
        parts.element.remove();
        shown.delete(id);
      }
    }
    let after = null;
    for (const row of rows) {
      const parts = shown.get(row.id) ?? build(row.id);
      shown.set(row.id, parts);
      parts.row = row;
      parts.prefix.textContent = row.prefix;
      parts.short.textContent = row.short;
      parts.none.hidden = row.gains.length > 0 || row.fixed;
      parts.whisker.hidden = !row.gains.length;
      parts.marks.replaceChildren(...row.marks.filter((m) => m > 0 && m < 1).map((m) => {
        const mark = make("i", "");
        mark.style.left = `${100 * m}%`;
        return mark;
      }));
      parts.handle.setAttribute("aria-label", `Trained share of ${row.id}`);
      parts.handle.setAttribute("aria-disabled", String(row.fixed));
      parts.element.classList.toggle("pock-fixed", row.fixed);
      const next = after ? after.nextSibling : list.firstChild;
      if (next !== parts.element) list.insertBefore(parts.element, next); // keeps the focus where it is
      after = parts.element;
    }
    empty.textContent = model.get("empty");
    empty.hidden = rows.length > 0;
    setCurrent(wanted.has(current) ? current : rows[0]?.id);
    several.show();
    showRatios(true);
    showLocks();
    showSelected();
  }
  function showRatios(all) {
    for (const parts of shown.values()) {
      // An echo of an older position would pull the handle back.
      if (parts.slider.dragging || (parts.edited && !edit.settled)) continue;
      parts.edited = false;
      const ratio = parts.row.fixed ? 1 : ratioOf(parts.id);
      if (all !== true && ratio === parts.ratio) continue;
      parts.ratio = ratio;
      paint(parts, ratio);
    }
  }
  function showCount() {
    several.count(model.get("count"), model.get("refused"));
  }
  function showLocks() {
    const locked = new Set(model.get("locked"));
    for (const parts of shown.values()) {
      const on = parts.row.fixed || locked.has(parts.id);
      parts.lock.replaceChildren(padlock(on));
      parts.lock.disabled = parts.row.fixed;
      parts.lock.setAttribute("aria-pressed", String(on));
      parts.lock.setAttribute("aria-label", `Lock ${parts.id}`);
      parts.lock.title = parts.row.fixed
        ? "The head is trained in every plan"
        : on ? "Locked: searching keeps this share. Click to release" : "Lock: keep this share when the budget moves";
      parts.element.classList.toggle("pock-locked", on);
    }
  }
  function showSelected() {
    for (const parts of shown.values()) {
      parts.element.classList.toggle("pock-selected", parts.id === model.get("selected"));
    }
  }

  several.sweep(list, tip.hide);
  list.addEventListener("scroll", tip.hide, { passive: true });
  model.on("change:rows", showRows);
  model.on("change:scale", showRows);
  model.on("change:empty", showRows);
  model.on("change:ratios", () => showRatios());
  model.on("change:ack", () => showRatios());
  model.on("change:count", showCount);
  model.on("change:refused", showCount);
  model.on("change:locked", showLocks);
  model.on("change:selected", showSelected);
  showRows();
  showCount();
}

export default { render };
