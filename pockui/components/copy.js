// A button that copies a text.

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedByCommand(text); // on a page that came over plain http from elsewhere there is no clipboard
  }
}

function copiedByCommand(text) {
  const field = make("textarea", "", document.body);
  field.value = text;
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

function render({ model, el }) {
  const root = make("div", "pock-files", el);
  const button = make("button", "pock-chip", root, model.get("label"));
  button.type = "button";
  const said = make("span", "pock-said", root);
  said.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    const done = await copied(model.get("text"));
    button.focus();
    said.textContent = done ? "Copied" : "The browser does not allow it: select the text and copy it.";
  });
  model.on("change:text", () => { said.textContent = ""; });
}

export default { render };
