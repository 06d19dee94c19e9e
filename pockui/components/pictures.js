// Charts to take away: as SVG, which Python draws, or as PNG, which is that drawing in pixels.

const PIXELS = 2; // a side of one unit of the drawing

function saved(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function pixels(svg) {
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = PIXELS * picture.naturalWidth;
  canvas.height = PIXELS * picture.naturalHeight;
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("no picture");
  return blob;
}

function render({ model, el }) {
  const root = make("div", "pock-files", el);
  const edit = edits(model);
  const list = make("ul", "pock-pictures", root);
  const said = make("span", "pock-said", root);
  said.setAttribute("role", "status");

  function show() {
    list.replaceChildren();
    for (const { key, title } of model.get("pictures")) {
      const line = make("li", "", list);
      make("span", "pock-picture-title", line, title);
      for (const format of ["SVG", "PNG"]) {
        const button = make("button", "pock-chip", line, format);
        button.type = "button";
        button.setAttribute("aria-label", `Download ${title} as ${format}`);
        button.addEventListener("click", () => {
          said.textContent = "";
          edit.send({ kind: "picture", key, format });
        });
      }
    }
  }

  async function take() {
    const { name, format, svg } = model.get("picture");
    if (!svg) return;
    try {
      const blob = format === "PNG" ? await pixels(svg) : new Blob([svg], { type: "image/svg+xml" });
      saved(blob, `${name}.${format.toLowerCase()}`);
    } catch {
      said.textContent = `The browser could not make ${name}.png: it may be too large. Take the SVG.`;
    }
  }
  model.on("change:pictures", show);
  model.on("change:picture", take);
  show();
}

export default { render };
