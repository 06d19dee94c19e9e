// A Plotly figure exactly as Python made it. Material's page restyles Panel's own Plotly pane
// (margins, fonts, markers); this one is left alone. Plotly itself comes from Panel's bundle.

function adoptPlotlyStyles(root) {
  // Plotly puts its rules into the document, where a shadow root does not see them.
  const rules = [...document.querySelectorAll('style[id^="plotly.js-style"]')]
    .flatMap((style) => [...style.sheet.cssRules].map((rule) => rule.cssText));
  const style = make("style", "", root);
  style.textContent = rules.join("\n");
}

function render({ model, el }) {
  const root = make("div", "pock-chart", el);
  root.setAttribute("role", "img");
  const plot = make("div", "", root);
  const edit = edits(model);
  let styled = false;

  function draw() {
    const { data, layout } = model.get("figure");
    if (!data || !window.Plotly) return;
    root.style.height = `${layout.height}px`;
    root.setAttribute("aria-label", model.get("label"));
    window.Plotly.react(plot, data, { ...layout, width: root.clientWidth || undefined }, {
      displayModeBar: false,
      displaylogo: false,
      showTips: false,
    });
    if (!styled) {
      styled = true;
      adoptPlotlyStyles(root);
      plot.on("plotly_click", (event) => {
        const point = event.points.find((p) => Number.isInteger(p.customdata));
        if (point) edit.send({ kind: "click", index: point.customdata });
      });
    }
  }
  let width = 0;
  const sizes = new ResizeObserver(() => {
    if (root.clientWidth && root.clientWidth !== width) {
      width = root.clientWidth;
      draw();
    }
  });
  sizes.observe(root);
  model.on("change:figure", draw);
  draw();
  return () => {
    sizes.disconnect();
    if (window.Plotly) window.Plotly.purge(plot);
  };
}

export default { render };
