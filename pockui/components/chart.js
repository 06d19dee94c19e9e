// A figure as Python made it, drawn as SVG: the few kinds of traces, shapes and labels of `info/charts.py`.
// A point with whole `customdata` can be taken, a shape that is `editable` moved, by mouse, finger or keyboard.

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

/**
 * A line that is moved along the horizontal axis.
 *
 * @param {SVGElement} svg
 * @param {(value: number | null, final: boolean) => void} send
 * @param {() => string} end what the right end means, where `null` is sent; empty: nothing but itself
 * @param {(x: number) => string} describe what stands at a place, in words; empty: the number is enough
 */
function movableLine(svg, send, end, describe) {
  const track = draw("g", svg, { class: "pock-limit" });
  const line = draw("line", track);
  const grip = draw("rect", track, { width: 12, fill: "transparent" });
  const handle = draw("rect", track, { class: "pock-limit-handle", width: 8, height: 22, rx: 4 });
  const word = draw("text", track);
  let value = 0;
  let text = "";
  let box = null;
  let ends = [0, 1];

  function put() {
    const [left, right] = ends;
    const fraction = clamp((value - left) / (right - left), 0, 1);
    const x = box.left + fraction * (box.right - box.left);
    for (const end of ["x1", "x2"]) line.setAttribute(end, x);
    grip.setAttribute("x", x - 6);
    handle.setAttribute("x", x - 4);
    const nearEnd = x > box.right - 60;
    word.setAttribute("x", x + (nearEnd ? -6 : 6));
    word.setAttribute("text-anchor", nearEnd ? "end" : "start");
    const unlimited = fraction >= 1 && end();
    word.textContent = unlimited || text;
    handle.setAttribute("aria-valuenow", String(Math.round(100 * fraction)));
    handle.setAttribute("aria-valuetext", unlimited || describe(value) || String(Number(value.toPrecision(4))));
  }
  const drag = slider(track, handle, {
    area: () => ({ left: svg.getBoundingClientRect().left + box.left, width: box.right - box.left }),
    read: () => (value - ends[0]) / (ends[1] - ends[0]),
    write: (fraction, final) => {
      value = ends[0] + fraction * (ends[1] - ends[0]);
      put();
      send(fraction >= 1 && end() ? null : value, final);
    },
    marks: () => [],
    quantise: (f) => f,
    step: () => 0.01,
    disabled: () => false,
  });
  return {
    handle,
    get value() { return value; },
    /** @param shape the figure's movable shape, if it has one; @param settled nothing newer is on its way */
    show(shape, inside, range, settled) {
      track.style.display = shape ? "" : "none";
      if (!shape) return;
      [box, ends] = [inside, range];
      if (settled && !drag.dragging) value = shape.x0;
      for (const [name, text] of Object.entries(stroke(shape.line))) line.setAttribute(name, text);
      for (const [part, top, height] of [[grip, box.top, box.bottom - box.top], [handle, box.bottom - 11, 22]]) {
        part.setAttribute("y", top);
        part.setAttribute("height", height);
      }
      text = shape.label.text;
      word.setAttribute("y", box.bottom - 16);
      word.setAttribute("font-size", shape.label.font.size);
      word.setAttribute("fill", shape.label.font.color);
      line.setAttribute("y1", box.top);
      line.setAttribute("y2", box.bottom);
      handle.setAttribute("fill", shape.line.color);
      handle.setAttribute("aria-label", shape.name);
      put();
    },
  };
}

function render({ model, el }) {
  const root = make("div", "pock-chart", el);
  const svg = draw("svg", root, { role: "group" });
  const scene = draw("g", svg); // drawn anew with every figure
  const limit = movableLine(
    svg, (value, final) => edit.send({ kind: "limit", value, final }), () => model.get("end_text"),
    (x) => {
      const found = nearest({ x: scales.across(x) });
      if (found && limit.handle.matches(":focus-visible")) explain(found);
      return found ? said(found) : "";
    },
  );
  const tip = tooltip(root);
  const edit = edits(model);
  let width = 0;
  let lines = []; // those without points of their own, which the pointer looks for
  let scales = { across: (x) => x, byPlace: false };

  function paint() {
    const { data, layout } = model.get("figure");
    if (!data || !width) return;
    const focused = root.getRootNode().activeElement?.dataset?.key;
    scene.replaceChildren();
    svg.setAttribute("width", width);
    svg.setAttribute("aria-label", model.get("label"));
    svg.style.fontFamily = layout.font.family;
    const traces = data.map((trace) => ({ ...trace, points: trace.x.map((x, i) => ({ x, y: trace.y[i], i })) }));
    const heights = traces.flatMap(({ points, error_y: e }) => points.flatMap(({ y, i }) =>
      e ? [y + e.array[i], y - (e.arrayminus ?? e.array)[i]] : [y]));
    const [left, right] = rangeOf(layout.xaxis, traces.flatMap((t) => t.x));
    const [low, high] = rangeOf(layout.yaxis, heights);
    const yTicks = ticksOf(layout.yaxis, [low, high], layout.height / 55);
    const longest = Math.max(...yTicks.map(([, text]) => text.length));
    const [inLeft, inRight] = [26 + 6.4 * longest, width - layout.margin.r];
    const named = traces.filter((trace) => trace.showlegend !== false);
    const rows = layout.showlegend ? drawLegend(scene, named, inLeft, inRight, layout.font) : 1;
    const height = layout.height + (rows - 1) * ROW_PX;
    root.style.height = `${height}px`;
    svg.setAttribute("height", height);
    const box = {
      left: inLeft, right: inRight, top: layout.margin.t + (rows - 1) * ROW_PX, bottom: height - layout.margin.b,
    };
    const across = (x) => box.left + ((x - left) / (right - left)) * (box.right - box.left);
    const up = (y) => box.bottom - ((y - low) / (high - low)) * (box.bottom - box.top);

    drawAxes(scene, layout, box, ticksOf(layout.xaxis, [left, right], (box.right - box.left) / 75), yTicks, across, up);
    const clip = draw("svg", scene, {
      x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top,
      viewBox: `${box.left} ${box.top} ${box.right - box.left} ${box.bottom - box.top}`,
    });
    const movable = layout.shapes.find((s) => s.editable);
    for (const shape of layout.shapes) if (!shape.editable) drawShape(clip, shape, box, across, up);
    traces.forEach((trace, i) => drawArea(clip, trace, traces[i - 1], across, up, box.bottom));
    for (const trace of traces) drawLine(clip, trace, across, up);
    for (const trace of traces) drawPoints(trace, across, up);
    for (const label of layout.annotations) drawLabel(scene, label, box, across, up);
    lines = traces.filter((trace) => trace.mode === "lines" && trace.hovertemplate).map((trace) => ({
      trace, places: trace.points.map(({ x, y }) => [across(x), up(y)]),
    }));
    scales = { across, byPlace: layout.hovermode === "x" };
    limit.show(movable, box, [left, right], edit.settled);
    rove();
    if (focused) scene.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  function drawPoints(trace, across, up) {
    if (trace.mode === "lines") return;
    const texts = trace.hovertext ?? trace.text;
    for (const { x, y, i } of trace.points) {
      const [px, py] = [across(x), up(y)];
      const spot = draw("g", scene);
      if (trace.mode.includes("markers")) drawMarker(spot, px, py, trace.marker);
      const radius = Math.max(9, (trace.marker?.size ?? 0) / 2 + 3);
      const target = draw("circle", spot, { cx: px, cy: py, r: radius, fill: "transparent" });
      const said = String(texts[i]).split("<br>").map((line) => ["", line]);
      const explain = () => tip.show(target, "", said);
      target.addEventListener("pointerenter", explain);
      target.addEventListener("pointerleave", tip.hide);
      if (trace.mode.includes("text")) drawName(spot, trace, i, px, py);
      const index = trace.customdata?.[i];
      if (!Number.isInteger(index)) continue;
      spot.setAttribute("role", "button");
      spot.setAttribute("class", "pock-point");
      spot.setAttribute("aria-label", said.map(([, line]) => line).join(", "));
      spot.dataset.key = `point-${index}`;
      const take = () => edit.send({ kind: "click", index });
      spot.addEventListener("click", take);
      spot.addEventListener("focus", () => { rove(spot); explain(); });
      spot.addEventListener("blur", tip.hide);
      spot.addEventListener("keydown", (event) => pressed(event, spot, take));
    }
  }

  // One tab stop for all points; arrows go from one to the next, from left to right.
  const spots = () => [...scene.querySelectorAll(".pock-point")];
  function rove(to) {
    const all = spots();
    const key = to?.dataset.key ?? root.dataset.current;
    const chosen = all.find((spot) => spot.dataset.key === key) ?? all[0];
    for (const spot of all) spot.setAttribute("tabindex", spot === chosen ? "0" : "-1");
    if (chosen) root.dataset.current = chosen.dataset.key;
  }
  function pressed(event, spot, take) {
    const all = spots();
    const at = all.indexOf(spot);
    const to = {
      ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1,
      Home: 0, End: all.length - 1,
    }[event.key];
    if (to !== undefined) all[clamp(to, 0, all.length - 1)].focus();
    else if (event.key === "Enter" || event.key === " ") take();
    else return;
    event.preventDefault();
  }

  /** The point of a line that is nearest to a place on the page, if one is near. */
  function nearest({ x: px, y: py = null }) {
    if (py === null && !scales.byPlace) return null;
    let best = null;
    for (const { trace, places } of lines) {
      places.forEach(([x, y], i) => {
        const away = scales.byPlace ? Math.abs(x - px) : Math.hypot(x - px, y - py);
        if (away < (best?.away ?? (scales.byPlace ? Infinity : 40))) best = { away, trace, i, x, y };
      });
    }
    return best;
  }
  const said = ({ trace, i }) => linesAt(trace, i).map(([, line]) => line).join(", ");
  function explain({ trace, i, x, y }) {
    const around = svg.getBoundingClientRect();
    const at = { left: around.left + x, top: around.top + y, bottom: around.top + y };
    tip.show({ getBoundingClientRect: () => at }, "", linesAt(trace, i));
  }
  const under = (event) => {
    const around = svg.getBoundingClientRect();
    return nearest({ x: event.clientX - around.left, y: event.clientY - around.top });
  };
  svg.addEventListener("pointermove", (event) => {
    if (!lines.length) return;
    const best = under(event);
    if (best) explain(best);
    else tip.hide();
  });
  svg.addEventListener("click", (event) => {
    const best = scales.byPlace && !event.target.closest(".pock-limit") ? under(event) : null;
    const index = best?.trace.customdata?.[best.i];
    if (Number.isInteger(index)) edit.send({ kind: "click", index });
  });
  limit.handle.addEventListener("focus", () => {
    const found = nearest({ x: scales.across(limit.value) });
    if (found && limit.handle.matches(":focus-visible")) explain(found);
  });
  limit.handle.addEventListener("blur", tip.hide);
  svg.addEventListener("pointerleave", tip.hide);
  const sizes = new ResizeObserver(() => {
    if (root.clientWidth && root.clientWidth !== width) {
      width = root.clientWidth;
      paint();
    }
  });
  sizes.observe(root);
  model.on("change:figure", () => {
    tip.hide();
    paint();
  });
  for (const name of ["label", "end_text"]) model.on(`change:${name}`, paint);
  return () => sizes.disconnect();
}

export default { render };
