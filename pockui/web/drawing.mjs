/** A pad to draw on, light on dark, and what a drawing is as pixels. */

const WIDTH = 0.08; // of a stroke, as a share of the pad's side
const FILLED = 5 / 7; // of the image's side, by the longer side of the drawing

export class Pad {
  #canvas;
  #context;
  #last = null;

  /** `drawn`: called after each stroke. */
  constructor(canvas, drawn) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
    this.clear();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#last = this.#place(event);
      this.#line(this.#last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.#last) return;
      for (const part of event.getCoalescedEvents?.() ?? [event]) this.#line(this.#place(part));
    });
    const ended = () => {
      if (!this.#last) return;
      this.#last = null;
      drawn();
    };
    canvas.addEventListener("pointerup", ended);
    canvas.addEventListener("pointercancel", ended);
  }

  clear() {
    this.#context.fillStyle = "#000";
    this.#context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    const scale = this.#canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  #line(to) {
    const c = this.#context;
    [c.strokeStyle, c.lineWidth, c.lineCap] = ["#fff", WIDTH * this.#canvas.width, "round"];
    c.beginPath();
    c.moveTo(...this.#last);
    c.lineTo(...to);
    c.stroke();
    this.#last = to;
  }

  /**
   * The drawing as grey values 0 to 255, `side` squared, enlarged or reduced so that its longer side fills five
   * sevenths, with its centre of mass in the middle, as handwritten digits are kept; null where nothing is drawn.
   */
  pixels(side) {
    const { width, height } = this.#canvas;
    const grey = this.#context.getImageData(0, 0, width, height).data;
    let [left, right, top, bottom, mass, x, y] = [width, -1, height, -1, 0, 0, 0];
    for (let i = 0; i < width * height; i += 1) {
      const value = grey[4 * i];
      if (!value) continue;
      const [column, row] = [i % width, Math.floor(i / width)];
      [left, right] = [Math.min(left, column), Math.max(right, column)];
      [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
      mass += value;
      x += value * (column + 0.5);
      y += value * (row + 0.5);
    }
    if (!mass) return null;
    const scale = (FILLED * side) / Math.max(right - left + 1, bottom - top + 1);
    return sampled(this.#canvas, side, (c) => {
      c.translate(side / 2, side / 2);
      c.scale(scale, scale);
      c.translate(-x / mass, -y / mass);
      c.drawImage(this.#canvas, 0, 0);
    });
  }
}

/** Grey values of what `draw` draws on `side` squared black pixels. */
function sampled(canvas, side, draw) {
  // A browser averages few pixels when it reduces much: reduce a larger picture once more.
  const more = 4;
  const large = canvasOf(side * more);
  large.scale(more, more);
  draw(large);
  const small = canvasOf(side);
  small.drawImage(large.canvas, 0, 0, side, side);
  const found = small.getImageData(0, 0, side, side).data;
  return Float32Array.from({ length: side * side }, (_, i) => found[4 * i]);
}

function canvasOf(side) {
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  [context.imageSmoothingEnabled, context.imageSmoothingQuality] = [true, "high"];
  context.fillStyle = "#000";
  context.fillRect(0, 0, side, side);
  return context;
}

/** Grey values `from` squared as `height` × `width`, bilinearly, as PyTorch's `interpolate` enlarges. */
export function enlarged(grey, from, height, width) {
  const place = (i, to) => Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
  return Float32Array.from({ length: height * width }, (_, i) => {
    const [y, x] = [place(Math.floor(i / width), height), place(i % width, width)];
    const [top, left] = [Math.floor(y), Math.floor(x)];
    const [bottom, right] = [Math.min(top + 1, from - 1), Math.min(left + 1, from - 1)];
    const row = (r) => grey[r * from + left] * (1 - (x - left)) + grey[r * from + right] * (x - left);
    return row(top) * (1 - (y - top)) + row(bottom) * (y - top);
  });
}
