// What belongs to the whole page: its address, undo by keyboard, and a connection that was lost.

const TYPED = "input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, [contenteditable]";

// Panel's HTML view styles its container when it becomes visible, also before it is drawn and has one: the error
// would end the message that says so, and the page would miss the rest of it. Until then it has this one.
function giveUndrawnHtmlAContainer() {
  const view = window.Bokeh?.Models.get("panel.models.markup.HTML")?.prototype.default_view.prototype;
  if (view && !view.container) view.container = document.createElement("div");
}

giveUndrawnHtmlAContainer(); // with the page's first message, not when this part is drawn

function render({ model, el }) {
  const edit = edits(model);

  function showAddress() {
    const url = new URL(window.location.href);
    for (const [key, value] of Object.entries(model.get("query"))) {
      if (value === null) url.searchParams.delete(key);
      else url.searchParams.set(key, value);
    }
    // Not a new entry of the browser's history: "back" leaves the page, undo goes back inside it.
    if (url.href !== window.location.href) window.history.replaceState(window.history.state, "", url);
  }

  function pressed(event) {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    const kind = key === "z" ? (event.shiftKey ? "redo" : "undo") : key === "y" && !event.shiftKey ? "redo" : null;
    const target = event.composedPath()[0];
    if (!kind || (target instanceof Element && target.matches(TYPED))) return; // a field has an undo of its own
    event.preventDefault();
    edit.send({ kind });
  }

  let leaving = false;
  let lost = false;
  const left = () => { leaving = true; };

  async function reconnect() {
    if (lost || leaving) return;
    lost = true;
    const notice = make("div", "", document.body, "The connection to the server is lost. Trying again …");
    notice.setAttribute("role", "alert");
    notice.style.cssText =
      "position: fixed; inset: auto 0 0 0; z-index: 2000; padding: 10px 16px; text-align: center;" +
      "font: 14px Roboto, system-ui, sans-serif; background: #1c2126; color: #fff;";
    for (let wait_ms = 500; ; wait_ms = Math.min(2 * wait_ms, 5000)) {
      await new Promise((resolve) => setTimeout(resolve, wait_ms));
      try {
        await fetch(window.location.href, { method: "HEAD", cache: "no-store" }); // any answer will do
      } catch {
        continue;
      }
      window.location.reload(); // the address has all that was chosen
      return;
    }
  }

  document.addEventListener("keydown", pressed);
  window.addEventListener("beforeunload", left);
  for (const each of window.Bokeh?.documents ?? []) each.on_event("connection_lost", reconnect);
  model.on("change:query", showAddress);
  showAddress();
  return () => {
    document.removeEventListener("keydown", pressed);
    window.removeEventListener("beforeunload", left);
  };
}

export default { render };
