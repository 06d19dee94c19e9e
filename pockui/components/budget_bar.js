// One budget: how much the plan uses, where the limit stands, and what well-known plans need.

function render({ model, el }) {
  const root = make("div", "pock-budget", el);
  const top = make("div", "pock-budget-top", root);
  const label = make("span", "pock-budget-label", top);
  const entry = make("label", "pock-entry", top);
  const input = make("input", "", entry);
  input.type = "text";
  input.inputMode = "decimal";
  const unit = make("span", "pock-unit", entry);
  const track = make("div", "pock-budget-track", root);
  const rail = make("div", "pock-budget-rail", track);
  const short = make("i", "pock-short-of", rail);
  const used = make("i", "pock-used", rail);
  const marks = make("div", "pock-budget-marks", rail);
  const handle = make("div", "pock-budget-handle", rail);
  const legend = make("div", "pock-legend", root);
  const tip = tooltip(root);
  const edit = edits(model);
  let value = null; // as typed or dragged; the track's resolution does not round it

  const range = () => [model.get("start"), model.get("end")];
  const toFraction = (value) => {
    const [start, end] = range();
    return end > start ? clamp((value - start) / (end - start), 0, 1) : 1;
  };
  const toValue = (f) => {
    const [start, end] = range();
    return f >= 1 ? null : start + f * (end - start); // the right end means no limit
  };
  const digits = () => {
    const [start, end] = range();
    return end - start < 10 ? 2 : end - start < 100 ? 1 : 0;
  };
  const text = (value) => (value === null ? "no limit" : value.toFixed(digits()));

  const fractionOf = (v) => (v === null ? 1 : toFraction(v));

  function paint(overwrite = false) {
    const fraction = fractionOf(value);
    handle.style.left = `${100 * fraction}%`;
    handle.setAttribute("aria-valuenow", String(Math.round(100 * fraction)));
    handle.setAttribute("aria-valuetext", value === null ? "no limit" : `${text(value)} ${model.get("unit")}`);
    const typing = el.getRootNode().activeElement === input;
    if (overwrite || !typing) input.value = text(value);
    const use = model.get("used");
    used.style.width = use === null ? "0" : `${100 * toFraction(use)}%`;
    used.classList.toggle("pock-over", use !== null && value !== null && use > value * 1.0001);
    short.style.width = `${100 * toFraction(model.get("floor"))}%`;
  }
  const write = (to, final) => {
    value = to;
    paint();
    edit.send({ kind: "budget", value, final });
  };
  const drag = slider(track, handle, {
    read: () => fractionOf(value),
    write: (fraction, final) => write(toValue(fraction), final),
    marks: () => model.get("marks").map((m) => toFraction(m.value)),
    quantise: (f) => f,
    step: () => 0.01,
    disabled: () => model.get("disabled"),
  });

  // Python reads what was typed, with units and all; leaving the field brings the figure back that stands.
  const enter = () => edit.send({ kind: "budget", text: input.value, final: true });
  input.addEventListener("keydown", (e) => {
    if (e.key === "Escape") paint(true);
    if (e.key === "Enter" || e.key === "Escape") input.blur(); // a changed text fires "change" first
  });
  input.addEventListener("change", enter);
  input.addEventListener("focus", () => input.select());
  input.addEventListener("blur", () => paint(true));

  function show() {
    label.textContent = model.get("label");
    unit.textContent = model.get("unit");
    input.setAttribute("aria-label", `${model.get("label")} in ${model.get("unit")}`);
    handle.setAttribute("aria-label", model.get("label"));
    input.disabled = model.get("disabled");
    root.classList.toggle("pock-disabled", model.get("disabled"));
    const inside = model.get("marks").filter((m) => m.value <= model.get("end"));
    marks.replaceChildren(...inside.map((m) => {
      const mark = make("i", "");
      mark.style.left = `${100 * toFraction(m.value)}%`;
      return mark;
    }));
    legend.replaceChildren();
    for (const m of model.get("marks")) {
      const button = make("button", "pock-chip", legend, m.name);
      button.type = "button";
      button.disabled = model.get("disabled");
      button.title = `${m.help} Needs ${text(m.value)} ${model.get("unit")}.`;
      button.addEventListener("click", () => {
        write(m.value >= model.get("end") ? null : m.value, true);
      });
    }
    if (!drag.dragging && edit.settled) value = model.get("value");
    paint();
  }
  const explain = () => tip.show(track, model.get("label"), model.get("help"));
  label.addEventListener("pointerenter", explain);
  label.addEventListener("pointerleave", tip.hide);
  for (const name of ["label", "unit", "value", "used", "start", "end", "floor", "marks", "disabled", "ack"]) {
    model.on(`change:${name}`, show);
  }
  show();
}

export default { render };
