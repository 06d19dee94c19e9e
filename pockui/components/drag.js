// Shared by every component here: a slider that mouse, finger and keyboard can drag.
// The Python side puts this file in front of the component's own, so both are one module.

const KEYS_REST_MS = 600; // keys pressed in a row are one edit, which ends when they rest this long
const SNAP = 0.018; // how near, as a share of the track, a drag must come to a mark to land on it

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/**
 * The way of edits to Python. One property carries them all: two would race each other.
 *
 * Python sets `ack` to the number of the edit it has dealt with. Until then the positions of a drag
 * wait, and only the last of them is sent: a slow answer makes a drag coarser, never late.
 */
function edits(model) {
  let sequence = model.get("ack");
  let waiting = null;
  const send = (edit) => {
    waiting = null;
    model.set("edit", { ...edit, seq: ++sequence });
    model.save_changes();
    return sequence;
  };
  model.on("change:ack", () => {
    if (waiting) send(waiting);
  });
  return {
    get settled() { return model.get("ack") >= sequence; },
    send(edit) {
      if (edit.final === false && model.get("ack") < sequence) waiting = edit;
      else send(edit);
    },
  };
}

/**
 * Make `handle` a slider along `track`, in fractions from 0 to 1.
 *
 * @param {HTMLElement} track  what the pointer may press and drag along
 * @param {HTMLElement} handle what takes the keyboard focus and the ARIA role
 * @param {{read: () => number, write: (fraction: number, final: boolean) => void,
 *          marks: () => number[], quantise: (fraction: number) => number, step: () => number,
 *          disabled: () => boolean, area?: () => {left: number, width: number}, key?: (event: KeyboardEvent) => boolean}} on
 *        `area` is where 0 and 1 lie, if not at the ends of the track; `key` takes a key that means something else here
 */
function slider(track, handle, on) {
  let dragging = null;
  let frame = 0;
  let burst = null; // where keys have moved it, while they are pressed in a row
  let rest = 0;
  handle.setAttribute("role", "slider");
  handle.setAttribute("aria-valuemin", "0");
  handle.setAttribute("aria-valuemax", "100");
  handle.tabIndex = 0;
  handle.dataset.lmSuppressShortcuts = "true"; // in JupyterLab arrow keys would leave the cell

  const at = (event) => {
    const box = on.area?.() ?? track.getBoundingClientRect();
    const fraction = clamp((event.clientX - box.left) / box.width, 0, 1);
    const mark = on.marks().find((m) => Math.abs(m - fraction) < SNAP);
    return on.quantise(mark ?? fraction);
  };
  track.addEventListener("pointerdown", (event) => {
    if (on.disabled() || event.button !== 0) return;
    event.preventDefault();
    settle();
    track.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    dragging = { value: at(event) };
    on.write(dragging.value, false);
  });
  track.addEventListener("pointermove", (event) => {
    if (!dragging) return;
    const value = at(event);
    if (value === dragging.value) return;
    dragging.value = value;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (dragging) on.write(dragging.value, false);
    });
  });
  const stop = (event) => {
    if (!dragging) return;
    const value = event.type === "pointerup" ? at(event) : dragging.value;
    cancelAnimationFrame(frame);
    frame = 0;
    dragging = null;
    on.write(value, true);
  };
  track.addEventListener("pointerup", stop);
  track.addEventListener("pointercancel", stop);

  function settle() {
    clearTimeout(rest);
    if (burst === null) return;
    const value = burst;
    burst = null;
    on.write(value, true);
  }
  handle.addEventListener("blur", settle);
  handle.addEventListener("keydown", (event) => {
    if (on.key?.(event)) {
      event.preventDefault();
      return;
    }
    if (on.disabled()) return;
    if (event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key.length === 1) settle(); // before what a shortcut does, as undo
      return;
    }
    const now = burst ?? on.read();
    const step = Math.max(on.step(), event.shiftKey ? 0.1 : 0.01);
    const to = {
      ArrowRight: now + step, ArrowUp: now + step, PageUp: now + 0.1,
      ArrowLeft: now - step, ArrowDown: now - step, PageDown: now - 0.1,
      Home: 0, End: 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    burst = on.quantise(clamp(to, 0, 1));
    on.write(burst, false);
    clearTimeout(rest);
    rest = setTimeout(settle, KEYS_REST_MS);
  });
  return { get dragging() { return dragging !== null || burst !== null; } };
}

function make(tag, className, parent, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  if (parent) parent.appendChild(element);
  return element;
}

/** A small card with label-value lines, shown beside what the pointer or the focus is on. */
function tooltip(root) {
  const card = make("div", "pock-tip", root);
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  return {
    hide() { card.hidden = true; },
    show(target, title, lines) {
      card.replaceChildren();
      if (title) make("div", "pock-tip-title", card, title);
      for (const [label, value] of lines) {
        const line = make("div", "pock-tip-line", card);
        if (label) make("span", "pock-tip-label", line, label);
        make("span", label ? "" : "pock-tip-note", line, value);
      }
      card.hidden = false;
      const around = root.getBoundingClientRect();
      const box = target.getBoundingClientRect();
      const below = box.bottom - around.top + 6;
      const fits = below + card.offsetHeight < around.height;
      card.style.top = `${fits ? below : Math.max(0, box.top - around.top - card.offsetHeight - 6)}px`;
      card.style.left = `${clamp(box.left - around.left, 0, Math.max(0, around.width - card.offsetWidth))}px`;
    },
  };
}
