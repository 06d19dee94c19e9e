// A figure as Python made it, drawn as SVG: the few kinds of traces, shapes and labels of `info/charts.py`.

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, parent, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent?.appendChild(element);
  return element;
}

const DASHES = {
  dash: "6 4", dot: "1.5 3.5", dashdot: "6 3 1.5 3", longdash: "11 4", longdashdot: "11 3 1.5 3",
};

function stroke(line = {}) {
  return {
    stroke: line.color ?? "currentColor", "stroke-width": line.width ?? 1,
    "stroke-dasharray": DASHES[line.dash] ?? "none",
  };
}

/** Ends of an axis: as given, or around all values. */
function rangeOf(axis, values) {
  if (axis.range) return axis.range;
  const low = Math.min(...values, axis.rangemode === "tozero" ? 0 : Infinity);
  const high = Math.max(...values);
  const pad = 0.06 * (high - low) || Math.abs(high) * 0.06 || 1;
  return [axis.rangemode === "tozero" && low === 0 ? 0 : low - pad, high + pad];
}

/** About `count` round numbers between two ends, with their texts. */
function ticksOf(axis, [low, high], count) {
  if (axis.tickvals) return axis.tickvals.map((value, i) => [value, axis.ticktext[i]]);
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
    const value = i * step || 0; // not −0
    out.push([value, value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
      .replace("-", "−")]);
  }
  return out;
}

function drawMarker(parent, x, y, { size = 7, color, line = {}, symbol = "" }) {
  const r = size / 2;
  const open = symbol.endsWith("-open");
  const look = {
    fill: open ? "none" : color,
    stroke: open ? color : line.color ?? "none",
    "stroke-width": line.width ?? (open ? 1.5 : 0),
  };
  if (symbol.startsWith("diamond")) {
    return draw("path", parent, { d: `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z`, ...look });
  }
  return draw("circle", parent, { cx: x, cy: y, r, ...look });
}

function drawAxes(parent, layout, box, xTicks, yTicks, across, up) {
  const grid = { stroke: layout.xaxis.gridcolor, "stroke-width": 1, "shape-rendering": "crispEdges" };
  const words = { fill: layout.xaxis.tickfont.color, "font-size": layout.xaxis.tickfont.size };
  const marks = draw("g", parent, { "aria-hidden": "true" });
  for (const [value, text] of yTicks) {
    draw("line", marks, { x1: box.left, x2: box.right, y1: up(value), y2: up(value), ...grid });
    draw("text", marks, { x: box.left - 7, y: up(value) + 4, "text-anchor": "end", ...words }).textContent = text;
  }
  for (const [value, text] of xTicks) {
    draw("line", marks, { x1: across(value), x2: across(value), y1: box.top, y2: box.bottom, ...grid });
    draw("text", marks, { x: across(value), y: box.bottom + 17, "text-anchor": "middle", ...words }).textContent = text;
  }
  const titled = { fill: layout.xaxis.title.font.color, "font-size": 12, "text-anchor": "middle" };
  draw("text", marks, { x: (box.left + box.right) / 2, y: box.bottom + 36, ...titled })
    .textContent = layout.xaxis.title.text;
  const middle = (box.top + box.bottom) / 2;
  draw("text", marks, { x: 12, y: middle, transform: `rotate(-90 12 ${middle})`, ...titled })
    .textContent = layout.yaxis.title.text;
}

function drawShape(parent, shape, box, across, up) {
  const x = (v) => (shape.xref === "x domain" ? box.left + v * (box.right - box.left) : across(v));
  const y = (v) => (shape.yref === "y domain" ? box.bottom - v * (box.bottom - box.top) : up(v));
  const opacity = shape.opacity ?? 1;
  if (shape.type === "rect") {
    draw("rect", parent, {
      x: x(shape.x0), y: y(shape.y1), width: Math.max(0, x(shape.x1) - x(shape.x0)),
      height: y(shape.y0) - y(shape.y1), fill: shape.fillcolor, opacity,
    });
  } else {
    const ends = { x1: x(shape.x0), x2: x(shape.x1), y1: y(shape.y0), y2: y(shape.y1) };
    draw("line", parent, { ...ends, opacity, ...stroke(shape.line) }).dataset.x = Math.round(shape.x0);
  }
}

/** `L` or steps from point to point, without the first point's `M`. */
function pathThrough(points, steps, across, up) {
  return points.map(({ x, y }) => (steps ? `H${across(x)}V${up(y)}` : `L${across(x)} ${up(y)}`)).join("");
}

/** The room between a line and the one before it, or the axis, as Plotly's `fill` has it. */
function drawArea(clip, trace, before, across, up, bottom) {
  if (!trace.fillcolor || !trace.points.length) return;
  const steps = trace.line?.shape === "hv";
  const { points } = trace;
  const top = `M${across(points[0].x)} ${up(points[0].y)}` + pathThrough(points.slice(1), steps, across, up);
  let under = `L${across(points.at(-1).x)} ${bottom}L${across(points[0].x)} ${bottom}`;
  if (trace.fill === "tonexty") {
    const back = [...before.points].reverse();
    under = `L${across(back[0].x)} ${up(back[0].y)}`;
    for (const { x, y } of back.slice(1)) under += steps ? `V${up(y)}H${across(x)}` : `L${across(x)} ${up(y)}`;
  }
  draw("path", clip, { d: `${top}${under}Z`, fill: trace.fillcolor, stroke: "none" });
}

function drawLine(clip, trace, across, up) {
  if (trace.line?.width === 0) return;
  if (trace.mode.includes("lines") && trace.points.length) {
    const steps = trace.line?.shape === "hv";
    const [first, ...rest] = trace.points;
    const d = `M${across(first.x)} ${up(first.y)}${pathThrough(rest, steps, across, up)}`;
    draw("path", clip, { d, fill: "none", "stroke-linejoin": "round", ...stroke(trace.line) });
  }
  const error = trace.error_y;
  const opacity = trace.points.length > 8 ? 0.4 : 1; // many intervals would hide what they belong to
  for (const { x, y, i } of error ? trace.points : []) {
    const [top, bottom] = [up(y + error.array[i]), up(y - (error.arrayminus ?? error.array)[i])];
    if (bottom - top < 0.5) continue;
    const at = across(x);
    const d = `M${at} ${top}V${bottom}M${at - 3} ${top}h6M${at - 3} ${bottom}h6`;
    draw("path", clip, { d, fill: "none", stroke: error.color, "stroke-width": error.thickness, opacity });
  }
}

function drawName(parent, trace, i, x, y) {
  const [vertical, side] = trace.textposition[i].split(" ");
  draw("text", parent, {
    x: x + (side === "left" ? -7 : 7), y: y + (vertical === "top" ? -6 : 15),
    "text-anchor": side === "left" ? "end" : "start",
    fill: trace.textfont.color, "font-size": trace.textfont.size, class: "pock-mark-name",
  }).textContent = trace.text[i];
}

function drawLabel(parent, label, box, across, up) {
  const x = label.xref === "paper" ? box.left + label.x * (box.right - box.left) : across(label.x);
  const y = label.yref === "paper" ? box.bottom - label.y * (box.bottom - box.top) : up(label.y);
  const nearEnd = x > box.right - 50;
  draw("text", parent, {
    x: x + (nearEnd ? -4 : 4), y: y - 4, fill: label.font.color, "font-size": label.font.size,
    "text-anchor": nearEnd ? "end" : "start",
  }).textContent = label.text.trim();
}

/** Text without markup, from one with it; nothing in it is run. */
function plain(markup) {
  return new DOMParser().parseFromString(markup, "text/html").documentElement.textContent;
}

/** A hover template's lines for one point. */
function linesAt(trace, i) {
  const { x, y } = trace.points[i];
  const filled = trace.hovertemplate.replace("<extra></extra>", "").replace("%{x}", x)
    .replace("%{y:.4g}", Number(y.toPrecision(4))).replace("%{text}", () => trace.text[i]);
  return filled.split("<br>").map((line) => ["", plain(line)]);
}

const ROW_PX = 18;

/** Names of the lines and areas, side by side at the top, in as many rows as they need; returns how many. */
function drawLegend(parent, traces, left, right, font) {
  const legend = draw("g", parent);
  let [x, row] = [left, 0];
  for (const trace of traces) {
    const entry = draw("g", legend);
    const text = draw("text", entry, { y: 4, fill: font.color, "font-size": font.size });
    text.textContent = plain(trace.name);
    if (trace.fillcolor) {
      draw("rect", entry, { width: 11, height: 11, y: -6, rx: 2, fill: trace.fillcolor });
    } else {
      draw("line", entry, { x1: 0, x2: 22, y1: 0, y2: 0, ...stroke(trace.line) });
    }
    const before = trace.fillcolor ? 16 : 27;
    text.setAttribute("x", before);
    const width = before + text.getComputedTextLength();
    if (x > left && x + width > right) [x, row] = [left, row + 1];
    entry.setAttribute("transform", `translate(${x} ${12 + row * ROW_PX})`);
    x += width + 18;
  }
  return row + 1;
}
