// A chart that is looked into and edited: a point with whole `customdata` can be taken, a shape that is `editable`
// moved, by mouse, finger or keyboard. What is drawn, and where: `chart_drawing.js`.

/**
 * A line that is moved along the horizontal axis.
 *
 * @param {SVGElement} svg
 * @param {(value: number | null, final: boolean) => void} send
 * @param {() => string} end what the right end means, where `null` is sent; empty: nothing but itself
 * @param {(x: number) => string} describe what stands at a place, in words; empty: the number is enough
 */
function movableLine(svg, send, end, describe) {
  const track = draw("g", svg, { class: "pock-movable" });
  track.style.display = "none"; // until a figure says where it stands: a slider without a value has no name
  const line = draw("line", track);
  const grip = draw("rect", track, { width: 12, fill: "transparent" });
  const handle = draw("rect", track, { class: "pock-movable-handle", width: 8, height: 22, rx: 4 });
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
  const movable = movableLine(
    svg, (value, final) => edit.send({ kind: "move", value, final }), () => model.get("end_text"),
    (x) => {
      const found = nearest({ x: scales.across(x) });
      if (found && movable.handle.matches(":focus-visible")) explain(found);
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
    const editable = layout.shapes.find((s) => s.editable);
    for (const shape of layout.shapes) if (!shape.editable) drawShape(clip, shape, box, across, up);
    traces.forEach((trace, i) => drawArea(clip, trace, traces[i - 1], across, up, box.bottom));
    for (const trace of traces) drawLine(clip, trace, across, up);
    for (const trace of traces) drawPoints(trace, across, up);
    for (const label of layout.annotations) drawLabel(scene, label, box, across, up);
    lines = traces.filter((trace) => trace.mode === "lines" && trace.hovertemplate).map((trace) => ({
      trace, places: trace.points.map(({ x, y }) => [across(x), up(y)]),
    }));
    scales = { across, byPlace: layout.hovermode === "x" };
    movable.show(editable, box, [left, right], edit.settled);
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
      const isButton = Number.isInteger(index);
      if (!isButton && trace.mode.includes("lines")) continue;
      spot.setAttribute("role", isButton ? "button" : "img");
      spot.setAttribute("aria-label", said.map(([, line]) => line).join(", "));
      if (!isButton) continue;
      spot.setAttribute("class", "pock-point");
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
    const best = scales.byPlace && !event.target.closest(".pock-movable") ? under(event) : null;
    const index = best?.trace.customdata?.[best.i];
    if (Number.isInteger(index)) edit.send({ kind: "click", index });
  });
  movable.handle.addEventListener("focus", () => {
    const found = nearest({ x: scales.across(movable.value) });
    if (found && movable.handle.matches(":focus-visible")) explain(found);
  });
  movable.handle.addEventListener("blur", tip.hide);
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
