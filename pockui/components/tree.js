// A tree of rows with figures: parts are opened and closed, by mouse or keyboard, without Python.

function render({ model, el }) {
  const root = make("div", "pock-tree", el);
  const table = make("table", "", root);
  table.setAttribute("role", "treegrid");
  const head = make("thead", "", table);
  const body = make("tbody", "", table);
  const open = new Set();
  let current = "";

  function showHead() {
    head.replaceChildren();
    const line = make("tr", "", head);
    make("th", "pock-tree-name", line, model.get("first")).scope = "col";
    for (const column of model.get("columns")) {
      const cell = make("th", "", line, column.title);
      cell.scope = "col";
      cell.title = column.help;
    }
  }

  /** The rows whose parents are open. */
  function visible() {
    let closed = Infinity; // the level of the nearest closed row above
    return model.get("rows").filter((row) => {
      if (row.level > closed) return false;
      closed = row.opens && !open.has(row.id) ? row.level : Infinity;
      return true;
    });
  }

  function show() {
    const hadFocus = body.contains(root.getRootNode().activeElement);
    table.setAttribute("aria-label", model.get("label"));
    const rows = visible();
    if (!rows.some((row) => row.id === current)) current = rows[0]?.id ?? "";
    body.replaceChildren();
    for (const row of rows) {
      const line = make("tr", `pock-tree-${row.state}`, body);
      line.dataset.row = row.id;
      line.setAttribute("aria-level", row.level);
      if (row.opens) line.setAttribute("aria-expanded", String(open.has(row.id)));
      line.tabIndex = row.id === current ? 0 : -1;
      const name = make("th", `pock-tree-name pock-tree-level-${row.level}`, line);
      name.scope = "row";
      const mark = make("span", "pock-tree-mark", name, row.opens ? (open.has(row.id) ? "▾" : "▸") : "");
      mark.setAttribute("aria-hidden", "true");
      make("span", "", name, row.name);
      for (const cell of row.cells) make("td", "", line, cell);
      line.addEventListener("click", () => {
        current = row.id;
        toggle(row);
      });
    }
    if (hadFocus) focus();
  }

  function focus() {
    for (const line of body.children) {
      line.tabIndex = line.dataset.row === current ? 0 : -1;
      if (line.tabIndex === 0) line.focus();
    }
  }

  function toggle(row, on = !open.has(row.id)) {
    if (!row.opens) return;
    if (on) open.add(row.id);
    else open.delete(row.id);
    show();
    focus();
  }

  body.addEventListener("keydown", (event) => {
    const rows = visible();
    const at = rows.findIndex((row) => row.id === current);
    const row = rows[at];
    if (!row) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to !== undefined) {
      current = rows[clamp(to, 0, rows.length - 1)].id;
      focus();
    } else if (event.key === "Enter" || event.key === " ") toggle(row);
    else if (event.key === "ArrowRight") {
      if (row.opens && !open.has(row.id)) toggle(row, true);
      else if (row.opens) {
        current = rows[at + 1]?.id ?? current;
        focus();
      }
    } else if (event.key === "ArrowLeft") {
      if (row.opens && open.has(row.id)) toggle(row, false);
      else {
        const parent = rows.slice(0, at).findLast((other) => other.level < row.level);
        if (parent) current = parent.id;
        focus();
      }
    } else return;
    event.preventDefault();
  });

  for (const name of ["rows", "label"]) model.on(`change:${name}`, show);
  for (const name of ["columns", "first"]) model.on(`change:${name}`, showHead);
  showHead();
  show();
}

export default { render };
