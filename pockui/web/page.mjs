import * as ort from "./ort/ort.wasm.min.mjs";
import { Pad, enlarged } from "./drawing.mjs";
import { Memory } from "./memory.mjs";
import { Trainer } from "./trainer.mjs";

const STEPS = 5; // after each drawing that is named
const KEPT = 20; // samples of each class, of which every step sees some
const THREADS = 4;

const $ = (id) => document.getElementById(id);
const say = (text, kind = "") => {
  $("status").textContent = text;
  $("status").className = kind;
};

const config = await (await fetch("page.json")).json();
const given = new Float32Array(await (await fetch("examples.bin")).arrayBuffer());
ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(THREADS, navigator.hardwareConcurrency) : 1;
ort.env.wasm.wasmPaths = new URL("ort/", document.baseURI).href;

let trainer, memory, examples, losses, named;
let busy = false;

/** Run one action at a time; what fails is said. */
async function only(act) {
  if (busy) return;
  busy = true;
  $("controls").disabled = true;
  try {
    await act();
  } catch (e) {
    console.error(e);
    say(e.message, "problem");
  } finally {
    busy = false;
    $("controls").disabled = false;
  }
}

/** A drawing as the artefact's image; null where nothing is drawn. */
function sample() {
  const [, channels, height, width] = config.shape;
  const grey = pad.pixels(config.drawn_px);
  if (!grey) return null;
  const image = enlarged(grey, config.drawn_px, height, width);
  const data = new Float32Array(channels * image.length);
  for (let c = 0; c < channels; c += 1) {
    const [subtract, divide] = [config.subtract, config.divide].map((v) => v[v.length === 1 ? 0 : c]);
    data.set(image.map((v) => (v - subtract) / divide), c * image.length);
  }
  return data;
}

async function predict() {
  const data = sample();
  if (!data) return;
  const start = performance.now();
  const { data: scores } = await trainer.predict({ [config.image]: { data, dims: [1, ...config.shape.slice(1)] } });
  const ms = performance.now() - start;
  const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a]);
  $("answer").textContent = config.labels[order[0]];
  $("scores").replaceChildren(...order.slice(0, 3).map((i) => bar(config.labels[i], scores[i])));
  say(`Predicted in ${ms.toFixed(0)} ms. Say what it is, and the network learns it.`);
}

function bar(label, score) {
  const row = document.createElement("div");
  row.className = "score";
  const share = Math.min(Math.max(score, 0), 1);
  const [name, track, value] = ["span", "span", "span"].map((tag) => document.createElement(tag));
  [name.textContent, value.textContent] = [label, score.toFixed(2)];
  track.className = "track";
  track.style.setProperty("--share", `${100 * share}%`);
  row.append(name, track, value);
  return row;
}

/** Learn that the drawing is of a class, from it and from drawings that were named before. */
async function learn(label) {
  const data = sample();
  if (!data) {
    say("Draw something first.");
    return;
  }
  named += 1;
  const own = examples[label];
  // Reservoir sampling: each of a class's drawings is kept with the same chance.
  own.seen += 1;
  const at = own.kept.length < KEPT ? own.kept.length : Math.floor(Math.random() * own.seen);
  if (at < KEPT) own.kept[at] = data;
  let took = 0;
  for (let i = 0; i < STEPS; i += 1) {
    const step = await trainer.step(batchWith(data, label));
    took += step.ms;
    losses.push(step.loss);
    say(`Learning: step ${i + 1} of ${STEPS}, loss ${step.loss.toFixed(3)}`);
    showLosses();
    await new Promise((drawn) => setTimeout(drawn)); // a step keeps the page from being drawn
  }
  await memory.put({ checkpoint: await trainer.save(), examples, losses, named });
  await predict();
  showFigures(took / STEPS);
}

/** A batch of the compiled size: half of it the drawing, the others of any class that there are samples of. */
function batchWith(data, label) {
  const count = config.shape[0];
  const any = (list) => list[Math.floor(Math.random() * list.length)];
  const classes = examples.flatMap(({ kept }, y) => (kept.length ? [{ kept, y }] : []));
  const other = () => {
    const { kept, y } = any(classes);
    return { x: any(kept), y };
  };
  const chosen = Array.from({ length: count }, (_, i) => (i < Math.ceil(count / 2) ? { x: data, y: label } : other()));
  const x = new Float32Array(count * data.length);
  chosen.forEach((one, i) => x.set(one.x, i * data.length));
  return { [config.image]: { data: x, dims: config.shape }, [config.label]: chosen.map((one) => one.y) };
}

function showLosses() {
  const shown = losses.slice(-100);
  const most = Math.max(...shown, 1e-9);
  const points = shown.map((loss, i) => `${(300 * i) / Math.max(shown.length - 1, 1)},${58 - (56 * loss) / most}`);
  $("loss").querySelector("polyline").setAttribute("points", points.join(" "));
  $("loss").setAttribute("aria-label", `Loss of the last ${shown.length} steps, now ${shown.at(-1)?.toFixed(3)}`);
  $("chart").hidden = shown.length < 2;
}

function showFigures(stepMs) {
  const used = performance.memory?.usedJSHeapSize;
  const parts = [
    `${trainer.steps.toLocaleString()} steps on ${named.toLocaleString()} drawings`,
    ...(stepMs ? [`${stepMs.toFixed(0)} ms a step`] : []),
    `${ort.env.wasm.numThreads} thread${ort.env.wasm.numThreads > 1 ? "s" : ""}`,
    ...(used ? [`${(used / 1e6).toFixed(0)} MB of JavaScript memory, without WebAssembly's`] : []),
  ];
  $("figures").textContent = parts.join(" · ");
}

/** Back to the samples that came with the site. */
function forget() {
  examples = config.labels.map(() => ({ seen: 0, kept: [] }));
  const row = given.length / Math.max(config.examples.length, 1);
  config.examples.forEach((y, i) => {
    examples[y].kept.push(given.slice(i * row, (i + 1) * row));
    examples[y].seen += 1;
  });
  [losses, named] = [[], 0];
}

async function save() {
  const file = new Blob([await trainer.save()], { type: "application/octet-stream" });
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(file), download: `${config.task}-step-${trainer.steps}.ckpt`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  say("Saved. Trainer.load_checkpoint in Python reads the file.");
}

async function restore(file) {
  await trainer.loadCheckpoint(new Uint8Array(await file.arrayBuffer()));
  forget();
  await memory.put({ checkpoint: await trainer.save(), examples, losses, named });
  showLosses();
  showFigures();
  say(`Loaded: ${trainer.steps} steps.`);
}

async function reset() {
  await memory.clear();
  await trainer.reset();
  forget();
  showLosses();
  showFigures();
  say("As it was compiled.");
}

const pad = new Pad($("pad"), () => only(predict));
$("classes").append(...config.labels.map((label, i) => {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: label });
  button.addEventListener("click", () => only(() => learn(i)));
  return button;
}));
$("clear").addEventListener("click", () => {
  pad.clear();
  $("answer").textContent = "";
  $("scores").replaceChildren();
});
$("save").addEventListener("click", () => only(save));
$("reset").addEventListener("click", () => only(reset));
$("restore").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) only(() => restore(file));
  event.target.value = "";
});
document.title = `${config.task}: learns what you draw`;

await only(async () => {
  say("Loading the network …");
  const start = performance.now();
  trainer = await Trainer.load(new URL("artifact/", document.baseURI), { ort, session: { executionProviders: ["wasm"] } });
  forget();
  memory = await Memory.open(trainer.manifest.fingerprint);
  const checkpoint = await memory.get("checkpoint");
  if (checkpoint) {
    await trainer.loadCheckpoint(checkpoint);
    [examples, losses, named] = await Promise.all(["examples", "losses", "named"].map((key) => memory.get(key)));
  }
  showLosses();
  showFigures();
  say(`Ready after ${((performance.now() - start) / 1000).toFixed(1)} s. Draw on the dark square.`);
});
navigator.serviceWorker?.register("service_worker.js").catch((e) => console.warn(e));
