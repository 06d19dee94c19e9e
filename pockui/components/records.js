// Runs and plans as a table: choose some to compare, pin one as the baseline, open one.

function render({ model, el }) {
  const root = make("div", "pock-records", el);
  const edit = edits(model);
  let columns = "";

  const table = make("table", "", root);
  const head = make("thead", "", table);
  const body = make("tbody", "", table);

  function showHead() {
    head.replaceChildren();
    const line = make("tr", "", head);
    make("th", "pock-record-name", line, "Run or plan").scope = "col";
    for (const column of model.get("columns")) {
      const cell = make("th", "", line, column.title);
      cell.scope = "col";
      cell.title = column.help;
    }
  }

  function button(parent, text, label, key, pressed, send) {
    const made = make("button", "pock-chip", parent, text);
    made.type = "button";
    made.dataset.key = key;
    made.setAttribute("aria-label", label);
    if (pressed !== null) made.setAttribute("aria-pressed", String(pressed));
    made.addEventListener("click", send);
  }

  function show() {
    const focused = el.getRootNode().activeElement?.dataset?.key;
    const titles = JSON.stringify(model.get("columns"));
    if (titles !== columns) showHead();
    columns = titles;
    body.replaceChildren();
    for (const row of model.get("rows")) {
      const line = make("tr", row.pinned ? "pock-pinned" : "", body);
      line.dataset.record = row.id;
      const name = make("th", "pock-record-name", line);
      name.scope = "row";
      const label = make("label", "", name);
      const box = make("input", "", label);
      box.type = "checkbox";
      box.checked = row.on;
      box.dataset.key = `on ${row.id}`;
      box.setAttribute("aria-label", `Compare ${row.name}`);
      box.addEventListener("change", () => edit.send({ kind: "choose", id: row.id, on: box.checked }));
      const words = make("span", "", label);
      make("span", "pock-record-title", words, row.name);
      make("span", "pock-record-note", words, row.note);
      const actions = make("div", "pock-record-actions", name);
      const pin = row.pinned ? "Unpin" : "Pin";
      button(actions, pin, `${pin} ${row.name} as the baseline`, `pin ${row.id}`, row.pinned,
        () => edit.send({ kind: "pin", id: row.id }));
      if (row.opens) {
        button(actions, "Open", `Make ${row.name} the current plan`, `open ${row.id}`, null,
          () => edit.send({ kind: "open", id: row.id }));
      }
      for (const cell of row.cells) {
        const place = make("td", "", line);
        make("span", "pock-record-figure", place, cell.text);
        if (cell.delta) make("span", `pock-delta ${cell.level ? `pock-${cell.level}` : ""}`, place, cell.delta);
      }
    }
    if (focused) root.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }
  for (const name of ["columns", "rows"]) model.on(`change:${name}`, show);
  show();
}

export default { render };
