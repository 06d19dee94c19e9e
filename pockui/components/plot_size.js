// Plotly measures its element when it draws. In a notebook that is before the element stands in the page, or
// while its tab is hidden, and what is drawn then keeps a width of 700 px. It measures anew when the window is
// resized, so a chart whose own size changes says so. Each chart of a page loads this; the first does it for all.
if (!window.pockPlotSizes) {
  window.pockPlotSizes = new ResizeObserver(() => window.dispatchEvent(new Event("resize")));
  document.addEventListener("plotlywidget-after-render", (event) => {
    window.pockPlotSizes.observe(event.detail.element);
  });
  document.querySelectorAll(".js-plotly-plot").forEach((plot) => window.pockPlotSizes.observe(plot));
}

export default { render() {} };
