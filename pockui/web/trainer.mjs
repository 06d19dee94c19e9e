/**
 * Trains, evaluates and predicts with an ONNX artefact, in a browser or in Node.
 *
 * Depends on nothing but the `ort` that it is given (onnxruntime-web or onnxruntime-node). What an artefact
 * holds is told in docs/artefact.md; names and rules are those of the Python runtime.
 */

const ARTIFACT = "pockui.artifact/1";
const CHECKPOINT = "pockui.checkpoint/2";
const CONSTANTS = "train.onnx.bin"; // the large constants of all graphs
// What the first number of a result says when a check that the graph makes of its own integers failed.
const OUT_OF_BOUNDS = -(235 * 2 ** 23);
const INEXACT = -(233 * 2 ** 23);

/** The artefact, or a checkpoint of it, is not what it should be. */
export class ArtifactError extends Error {}
/** A batch does not fit. */
export class BatchError extends Error {}
/** A batch holds NaN or infinite values. */
export class NonFiniteBatch extends BatchError {}
/** The loss, or what a step would leave, is NaN or infinite; the step was undone. */
export class NonFiniteLoss extends Error {
  constructor(message, loss) {
    super(message);
    this.loss = loss;
  }
}

/** dtype -> the array that holds it, and what safetensors calls it. */
const DTYPES = {
  float32: [Float32Array, "F32"], float64: [Float64Array, "F64"], float16: [Uint16Array, "F16"],
  int8: [Int8Array, "I8"], int16: [Int16Array, "I16"], int32: [Int32Array, "I32"], int64: [BigInt64Array, "I64"],
  uint8: [Uint8Array, "U8"], uint16: [Uint16Array, "U16"], uint32: [Uint32Array, "U32"],
  uint64: [BigUint64Array, "U64"], bool: [Uint8Array, "BOOL"],
};

/**
 * Holds the state of one artefact, and trains it. Make one with `Trainer.load`.
 *
 * A batch is an object: entry -> typed array, array of numbers (nested or flat), or `{data, dims}`. Calls are
 * answered one after the other, in the order in which they were made.
 */
export class Trainer {
  /** What `manifest.json` says. */
  manifest;
  /** Steps taken, those that were left out included. */
  steps = 0;
  /** Steps that were left out because they were not finite. */
  skipped = 0;
  /** Of dropout. */
  seed = 0;

  #ort;
  #read;
  #state = new Map(); // slot name -> ort.Tensor
  #sessions = new Map(); // stem of a file -> promise of a session
  #last = Promise.resolve();
  #onNonfinite;
  #options;

  /**
   * Check an artefact's files and take its initial weights.
   *
   * @param {string|URL} url of the folder that pockgraph.compile wrote, for the target onnx.
   * @param {object} options
   * @param options.ort the module onnxruntime-web or onnxruntime-node.
   * @param {number} [options.seed] of dropout; the same seed gives the same masks on every target.
   * @param {"error"|"skip"} [options.onNonfinite] what a step does that is not finite: nothing of it reaches
   *     the state; `"error"` throws, `"skip"` goes on.
   * @param {object} [options.session] more options of the runtime's sessions, such as `executionProviders`.
   * @param {(name: string) => Promise<Uint8Array>} [options.read] reads a file of the folder.
   * @throws {ArtifactError} it is no artefact, of another version or target, or a file was changed.
   */
  static async load(url, { ort, seed = 0, onNonfinite = "error", session = {}, read } = {}) {
    if (!ort?.InferenceSession) {
      throw new ArtifactError("Pass {ort}: the module onnxruntime-web or onnxruntime-node.");
    }
    requireSeed(seed);
    requirePolicy(onNonfinite);
    const trainer = new Trainer();
    trainer.#ort = ort;
    trainer.#onNonfinite = onNonfinite;
    trainer.#read = read ?? reader(url);
    trainer.#options = { logSeverityLevel: 3, enableMemPattern: false, ...session };
    trainer.manifest = parseManifest(await trainer.#read("manifest.json"));
    trainer.#requireDtypes();
    await trainer.#session("train");
    await trainer.reset({ seed });
    return trainer;
  }

  /**
   * One step on one batch, of exactly the compiled size.
   *
   * @param {object} batch
   * @param {object} [options]
   * @param {number} [options.lr] the learning rate; the optimizer's own unless given.
   * @returns {Promise<{loss: number, step: number, ms: number, skipped: boolean}>} the loss before the update.
   * @throws {BatchError} the batch does not fit; `NonFiniteBatch`, a kind of it, holds NaN or infinite values.
   * @throws {NonFiniteLoss} the loss, or a weight or state after the update, is NaN or infinite.
   */
  step(batch, { lr = this.manifest.optimizer.lr } = {}) {
    return this.#inTurn(async () => {
      const start = performance.now();
      if (!(Number.isFinite(lr) && lr >= 0)) {
        throw new BatchError(`lr=${lr} is no learning rate: pass a finite number that is not negative.`);
      }
      let loss, skipped = false;
      try {
        loss = await this.#step(batch, lr);
      } catch (e) {
        const expected = e instanceof NonFiniteBatch || e instanceof NonFiniteLoss;
        if (!expected || this.#onNonfinite === "error") throw e;
        loss = e.loss ?? NaN;
        this.skipped += 1;
        skipped = true;
      }
      this.steps += 1;
      return { loss, step: this.steps, ms: performance.now() - start, skipped };
    });
  }

  async #step(batch, lr) {
    const { train, task, train_limits, train_guards, train_integers, nonfinite_entries } = this.manifest;
    const entries = fitBatch(this.manifest.batch, batch, task);
    checkLimits(entries, train_limits, task);
    checkFinite(entries, nonfinite_entries, task);
    const found = await this.#run("train", entries, {
      lr: () => Float32Array.of(lr),
      seed: () => stepKeys(this.seed, this.steps),
    }, train);
    const loss = Number(found.loss.data[0]);
    const wrong = failedCheck(found.loss.data, train_guards, train_integers);
    if (wrong) throw new BatchError(`In step ${this.steps + 1} ${wrong} The step was undone.`);
    const next = new Map();
    for (const slot of train.inputs.filter(isState)) {
      const value = found[nextName(slot)];
      if (value) next.set(slotName(slot), value);
    }
    const bad = this.#checkedState().filter((name) => next.has(name) && !isFinite_(next.get(name)));
    if (!Number.isFinite(loss) || bad.length) {
      const what = Number.isFinite(loss)
        ? `the update would leave NaN or infinite values in ${bad.join(", ")}` : `the loss became ${loss}`;
      throw new NonFiniteLoss(
        `In step ${this.steps + 1} (lr ${lr}) ${what}. The step was undone. Look at this batch, use a lower ` +
        'lr, or load with onNonfinite: "skip" to leave such steps out.', loss,
      );
    }
    for (const [name, value] of next) this.#state.set(name, value);
    return loss;
  }

  /**
   * The metric over batches, with the current weights, or with their average where the optimizer keeps one.
   *
   * A batch of fewer samples than the compiled one is filled up with its last sample, and its values are cut.
   *
   * @param {Iterable<object>} batches
   * @returns {Promise<{mean: number, values: Float32Array, samples: number}>}
   */
  evaluate(batches) {
    return this.#inTurn(async () => {
      const m = this.manifest;
      const samples = m.eval.outputs[0].shape[0];
      const values = [];
      for (const batch of batches) {
        const rows = Object.keys(m.batch).filter((name) => m.batch[name].shape[0] === samples);
        const count = countSamples(m.batch, rows, batch, m.task, samples);
        if (count > samples || (count < samples && !m.samples_apart)) {
          throw new BatchError(`This batch has ${count} samples instead of ${samples}.`);
        }
        const whole = fitBatch(resized(m.batch, rows, count), batch, m.task);
        const entries = cut(m.batch, whole, rows, 0, samples);
        checkLimits(entries, m.eval_limits, m.task);
        checkFinite(entries, m.nonfinite_entries, m.task);
        const { metric } = await this.#run("eval", entries, {}, m.eval);
        const wrong = failedCheck(metric.data, m.eval_guards, m.eval_integers);
        if (wrong) throw new BatchError(`In the evaluation of a batch ${wrong}`);
        values.push(...Array.from(metric.data.subarray(0, count), Number));
      }
      if (!values.length) throw new BatchError("There was nothing to evaluate: there is no batch.");
      const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
      return { mean, values: Float32Array.from(values), samples: values.length };
    });
  }

  /**
   * What the task predicts of a batch, of any number of samples where the outputs have a row for each.
   *
   * @param {object} batch
   * @returns {Promise<{data, dims} | Object<string, {data, dims}>>} the one array, or output -> array where the
   *     task predicts several.
   */
  predict(batch) {
    return this.#inTurn(async () => {
      const { predict: sizes, batch: trained, task } = this.manifest;
      if (!sizes.length) {
        throw new ArtifactError(`Task '${task}' was compiled without a prediction: Task(…, predict=…).`);
      }
      const specs = sizes.map((p) => specsOf(p.graph));
      const read = Object.fromEntries(
        Object.entries(batch).filter(([name]) => name in specs[0] || !(name in trained)),
      );
      const found = sizes[0].samples === null
        ? await this.#predicted(sizes[0], fitBatch(specs[0], read, task))
        : await this.#bySamples(sizes, specs, read);
      const outputs = sizes[0].graph.outputs;
      if (outputs.length === 1 && outputs[0].fqn === "") return found[slotName(outputs[0])];
      return Object.fromEntries(outputs.map((s) => [s.fqn, found[slotName(s)]]));
    });
  }

  async #bySamples(sizes, specs, batch) {
    const task = this.manifest.task;
    const rows = Object.keys(specs[0]).filter((n) => sizes.every((p, i) => specs[i][n].shape[0] === p.samples));
    const count = countSamples(specs[0], rows, batch, task, sizes.at(-1).samples);
    const compiled = sizes.map((p) => p.samples);
    if (!compiled.includes(count) && !sizes.every((p) => p.samples_apart)) {
      throw new BatchError(
        `This batch has ${count} samples, and what task '${task}' predicts of one depends on others. ` +
        `Give batches of ${compiled.join(" or ")}.`,
      );
    }
    const whole = fitBatch(resized(specs[0], rows, count), batch, task);
    const parts = [];
    for (let start = 0; start < count;) {
      const fits = compiled.findIndex((n) => n >= count - start);
      const at = fits < 0 ? sizes.length - 1 : fits;
      const real = Math.min(compiled[at], count - start);
      const found = await this.#predicted(sizes[at], cut(specs[at], whole, rows, start, compiled[at]));
      parts.push(mapValues(found, (value) => firstRows(value, real)));
      start += real;
    }
    return mapValues(parts[0], (_, name) => joinRows(parts.map((part) => part[name])));
  }

  async #predicted(prediction, entries) {
    checkLimits(entries, prediction.limits, this.manifest.task);
    checkFinite(entries, prediction.nonfinite_entries, this.manifest.task);
    const stem = prediction.samples === null ? "predict" : `predict-${prediction.samples}`;
    const found = await this.#run(stem, entries, {}, prediction.graph);
    const first = found[slotName(prediction.graph.outputs[0])];
    const wrong = failedCheck(first.data, prediction.guards, prediction.integers);
    if (wrong) throw new BatchError(`In the prediction of a batch ${wrong}`);
    return mapValues(found, ({ data, dims }) => ({ data, dims }));
  }

  /** Back to step 0: the artefact's initial weights and optimizer state. */
  reset({ seed = this.seed } = {}) {
    return this.#inTurn(async () => {
      requireSeed(seed);
      const { tensors } = parseSafetensors(await this.#verified("state.safetensors"), "state.safetensors");
      this.#take(tensors, "state.safetensors", false);
      [this.steps, this.skipped, this.seed] = [0, 0, seed];
    });
  }

  /**
   * A checkpoint: all state, the step, and dropout's seed, as one safetensors file that every runtime reads.
   *
   * @returns {Promise<Uint8Array>}
   */
  save() {
    return this.#inTurn(async () => {
      const { task, fingerprint, computation } = this.manifest;
      const header = { schema: CHECKPOINT, task, fingerprint, computation, step: this.steps, seed: this.seed };
      const arrays = this.#arrays();
      const sha256 = await digest(header, arrays);
      return writeSafetensors(arrays, { pockui: JSON.stringify({ ...header, sha256 }) });
    });
  }

  /**
   * Go on from a checkpoint that `save`, or another runtime, has written for this artefact.
   *
   * @param {Uint8Array} bytes
   * @throws {ArtifactError} damaged, or made for another artefact; the state stays as it was.
   */
  loadCheckpoint(bytes) {
    return this.#inTurn(async () => {
      const { tensors, metadata } = parseSafetensors(bytes, "The checkpoint");
      if (!metadata?.pockui) throw new ArtifactError("This is no checkpoint: its header says nothing of one.");
      const { sha256, ...header } = JSON.parse(metadata.pockui);
      const { fingerprint, computation, task } = this.manifest;
      if (header.schema !== CHECKPOINT) {
        throw new ArtifactError(`The checkpoint has schema '${header.schema}'; this version reads '${CHECKPOINT}'.`);
      }
      if (header.fingerprint !== fingerprint || (header.computation && computation !== header.computation)) {
        throw new ArtifactError(
          `The checkpoint (task '${header.task}', step ${header.step}) belongs to another artefact than this one ` +
          `(task '${task}').`,
        );
      }
      requireSeed(header.seed);
      const order = ["schema", "task", "fingerprint", "computation", "step", "seed"];
      const said = Object.fromEntries(order.map((key) => [key, header[key]]));
      if ((await digest(said, tensors)) !== sha256) {
        throw new ArtifactError("The checkpoint was damaged: its values or its header changed.");
      }
      const bad = Object.keys(tensors).filter((name) => !isFinite_(tensors[name]));
      if (bad.length) throw new ArtifactError(`The checkpoint holds NaN or infinite values in ${bad.join(", ")}.`);
      this.#take(tensors, "The checkpoint", true);
      [this.steps, this.skipped, this.seed] = [header.step, 0, header.seed];
    });
  }

  /** Slot name -> `{data, dims, dtype}`: a copy of all state. */
  state() {
    return this.#inTurn(async () => mapValues(this.#arrays(), (a) => ({ ...a, data: a.data.slice() })));
  }

  /** Free the runtime's memory. */
  close() {
    return this.#inTurn(async () => {
      for (const session of this.#sessions.values()) await (await session).release();
      this.#sessions.clear();
    });
  }

  // ---------------------------------------------------------------- inside

  #inTurn(act) {
    const result = this.#last.then(act);
    this.#last = result.catch(() => {});
    return result;
  }

  #arrays() {
    const slots = this.manifest.train.inputs.filter(isState);
    return Object.fromEntries(slots.map((slot) => {
      const name = slotName(slot);
      return [name, { data: this.#state.get(name).data, dims: slot.shape, dtype: slot.dtype }];
    }));
  }

  /** Use these tensors as the state: exactly those of the manifest, or more where `exactly` is false. */
  #take(tensors, what, exactly) {
    const slots = this.manifest.train.inputs.filter(isState);
    const names = new Set(slots.map(slotName));
    const wrong = slots.filter((slot) => {
      const found = tensors[slotName(slot)];
      return !found || found.dtype !== slot.dtype || String(found.dims) !== String(slot.shape);
    }).map(slotName);
    if (exactly) wrong.push(...Object.keys(tensors).filter((name) => !names.has(name)));
    if (wrong.length) throw new ArtifactError(`${what} does not hold this artefact's state: ${wrong.join(", ")}.`);
    for (const slot of slots) {
      const name = slotName(slot);
      this.#state.set(name, new this.#ort.Tensor(slot.dtype, tensors[name].data.slice(), slot.shape));
    }
  }

  #checkedState() {
    const made = new Set(this.manifest.train.outputs.map(slotName));
    const telling = this.manifest.telling_state;
    return this.manifest.train.inputs
      .filter((slot) => isState(slot) && made.has(nextName(slot)) && /^b?float/.test(slot.dtype))
      .map(slotName)
      .filter((name) => telling === null || telling.includes(name));
  }

  /** Outputs by name. `fed`: input -> what makes its value, for inputs that are neither batch nor state. */
  async #run(stem, entries, fed, graph) {
    const session = await this.#session(stem);
    const slots = Object.fromEntries(graph.inputs.map((slot) => [slotName(slot), slot]));
    const feeds = {};
    for (const name of session.inputNames) {
      const slot = slots[name];
      if (!slot) throw new ArtifactError(`${stem}.onnx and the manifest disagree on ${name}. Compile it again.`);
      const data = slot.role === "batch" ? entries[slot.fqn].data : fed[name]?.();
      feeds[name] = data === undefined
        ? this.#state.get(name) : new this.#ort.Tensor(slot.dtype, data, slot.shape);
    }
    return session.run(feeds);
  }

  #session(stem) {
    if (!this.#sessions.has(stem)) {
      const opened = this.#open(stem);
      this.#sessions.set(stem, opened);
      opened.catch(() => this.#sessions.delete(stem)); // what could not be read may be there later
    }
    return this.#sessions.get(stem);
  }

  async #open(stem) {
    const model = await this.#verified(`${stem}.onnx`);
    const path = [`${stem}.onnx.bin`, CONSTANTS].find((name) => name in this.manifest.files);
    const externalData = path ? [{ path, data: await this.#verified(path) }] : [];
    return this.#ort.InferenceSession.create(model, { ...this.#options, externalData });
  }

  async #verified(name) {
    const file = this.manifest.files[name];
    if (!file) throw new ArtifactError(`${name} is not listed in the manifest. Compile the artefact again.`);
    const bytes = await this.#read(name);
    if (bytes.length !== file.bytes || (await sha256Hex(bytes)) !== file.sha256) {
      throw new ArtifactError(`${name} was changed or cut short. Copy the artefact again.`);
    }
    return bytes;
  }

  #requireDtypes() {
    const graphs = [this.manifest.train, this.manifest.eval, ...this.manifest.predict.map((p) => p.graph)];
    for (const slot of graphs.flatMap((g) => [...g.inputs, ...g.outputs])) {
      const held = slot.role === "batch" || isState(slot);
      if (held && !(slot.dtype in DTYPES)) {
        throw new ArtifactError(`${slotName(slot)} is ${slot.dtype}, which a browser has no arrays for.`);
      }
    }
  }
}

// ---------------------------------------------------------------- the manifest

function parseManifest(bytes) {
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (e) {
    throw new ArtifactError(`manifest.json is not valid: ${e.message}.`);
  }
  if (manifest?.schema !== ARTIFACT) {
    throw new ArtifactError(`manifest.json has schema '${manifest?.schema}'; this version reads '${ARTIFACT}'.`);
  }
  if (manifest.target !== "onnx") {
    throw new ArtifactError(
      `The artefact was compiled for ${manifest.target}. Compile it with target="onnx": pockui compile --target onnx.`,
    );
  }
  const lists = ["predict", "train_limits", "eval_limits", "train_guards", "eval_guards", "train_integers",
    "eval_integers"];
  const later = { ...Object.fromEntries(lists.map((key) => [key, []])), telling_state: null,
    nonfinite_entries: null, samples_apart: true, computation: "" };
  return { ...later, ...manifest };
}

const isState = (slot) => slot.trained || slot.changes || slot.role === "opt_state";

function slotName({ role, fqn, key, trained }) {
  if (["lr", "seed", "loss", "metric"].includes(role)) return role;
  return [role === "param" && trained ? "trained" : role, fqn, key].filter(Boolean).join(":");
}

const nextName = ({ role, fqn, key }) => [`new_${role}`, fqn, key].filter(Boolean).join(":");

const specsOf = (graph) => Object.fromEntries(
  graph.inputs.filter((s) => s.role === "batch").map((s) => [s.fqn, { shape: s.shape, dtype: s.dtype }]),
);

function reader(url) {
  const base = new URL(String(url).replace(/\/?$/, "/"), globalThis.location?.href);
  return async (name) => {
    const place = new URL(encodeURIComponent(name), base);
    if (place.protocol === "file:" && globalThis.process) {
      return new Uint8Array(await (await import("node:fs/promises")).readFile(place));
    }
    const answer = await fetch(place);
    if (!answer.ok) throw new ArtifactError(`${place} cannot be read: ${answer.status} ${answer.statusText}.`);
    return new Uint8Array(await answer.arrayBuffer());
  };
}

function requireSeed(seed) {
  if (!Number.isSafeInteger(seed)) throw new ArtifactError(`seed=${seed}: a seed is an integer below 2^53.`);
}

function requirePolicy(policy) {
  if (policy !== "error" && policy !== "skip") {
    throw new BatchError(`onNonfinite is '${policy}'; it is 'error' or 'skip'.`);
  }
}

// ---------------------------------------------------------------- batches

const size = (dims) => dims.reduce((product, n) => product * n, 1);
const mapValues = (object, act) =>
  Object.fromEntries(Object.entries(object).map(([name, value]) => [name, act(value, name)]));

/** A batch with exactly the entries, shapes and dtypes of `specs`: entry -> `{data, dims, dtype}`. */
function fitBatch(specs, batch, task) {
  const wrong = Object.keys(specs).filter((name) => !(name in batch)).map((name) => `'${name}' is missing`);
  wrong.push(...Object.keys(batch).filter((name) => !(name in specs)).map((name) => `'${name}' is unexpected`));
  const fitted = {};
  for (const [name, { shape, dtype }] of Object.entries(specs)) {
    if (!(name in batch)) continue;
    const { data, dims } = entry(batch[name]);
    if (data.length !== size(shape) || (dims && String(dims) !== String(shape))) {
      wrong.push(`'${name}' has ${dims ? `shape [${dims}]` : `${data.length} values`} instead of [${shape}]`);
      continue;
    }
    const cast_ = cast(data, dtype);
    if (cast_) fitted[name] = { data: cast_, dims: shape, dtype };
    else wrong.push(`'${name}' holds values that are not ${dtype}`);
  }
  if (wrong.length) {
    const held = Object.entries(specs).map(([name, s]) => `${name} ${s.dtype} [${s.shape}]`).join(" and ");
    throw new BatchError(`This batch does not fit what was compiled for task '${task}': ${wrong.join(", ")}. ` +
      `A batch holds ${held}.`);
  }
  return fitted;
}

/** `{data, dims}` of what a user passed; dims is undefined where only the number of values is known. */
function entry(value) {
  if (value?.data !== undefined) return { data: value.data, dims: value.dims };
  if (ArrayBuffer.isView(value)) return { data: value, dims: undefined };
  if (!Array.isArray(value)) return { data: [value], dims: [] };
  return { data: value.flat(Infinity), dims: undefined };
}

/** Values as the array of a dtype, or null where they are none: fractions for integers, or too large. */
function cast(data, dtype) {
  const [Kind] = DTYPES[dtype];
  if (data instanceof Kind) {
    return dtype === "bool" && data.some((v) => v > 1) ? null : data;
  }
  if (dtype === "float16") return null; // pass a Uint16Array of their bits
  const values = Array.from(data, Number);
  if (dtype.startsWith("float")) return Kind.from(values);
  if (!values.every(Number.isSafeInteger)) return null;
  const made = dtype.endsWith("64") ? Kind.from(values, BigInt) : Kind.from(values);
  const same = values.every((v, i) => Number(made[i]) === v && (dtype !== "bool" || v < 2));
  return same ? made : null;
}

const resized = (specs, rows, count) => mapValues(
  specs, (spec, name) => rows.includes(name) ? { ...spec, shape: [count, ...spec.shape.slice(1)] } : spec,
);

/** How many samples a batch has, by the entries that have a row for each; `samples` where none has. */
function countSamples(specs, rows, batch, task, samples) {
  const counts = rows.filter((name) => name in batch).map((name) => {
    return entry(batch[name]).data.length / size(specs[name].shape.slice(1));
  });
  if (!counts.length) {
    fitBatch(specs, batch, task); // where rows are missing, it says which
    return samples;
  }
  if (new Set(counts).size > 1 || !Number.isInteger(counts[0]) || !counts[0]) {
    throw new BatchError(`The entries of a batch for task '${task}' have ${counts.join(" and ")} samples.`);
  }
  return counts[0];
}

/** `count` samples of a batch from `start` on; the last one is repeated where there are fewer. */
function cut(specs, whole, rows, start, count) {
  return mapValues(whole, (held, name) => {
    if (!rows.includes(name)) return held;
    const row = size(held.dims.slice(1));
    const data = new held.data.constructor(count * row);
    for (let i = 0; i < count; i += 1) {
      const from = Math.min(start + i, held.dims[0] - 1) * row;
      data.set(held.data.subarray(from, from + row), i * row);
    }
    return { ...held, data, dims: specs[name].shape };
  });
}

const firstRows = ({ data, dims }, count) => ({
  data: data.subarray(0, count * size(dims.slice(1))), dims: [count, ...dims.slice(1)],
});

function joinRows(parts) {
  if (parts.length === 1) return parts[0];
  const data = new parts[0].data.constructor(parts.reduce((sum, p) => sum + p.data.length, 0));
  let at = 0;
  for (const part of parts) {
    data.set(part.data, at);
    at += part.data.length;
  }
  return { data, dims: [parts.reduce((sum, p) => sum + p.dims[0], 0), ...parts[0].dims.slice(1)] };
}

/** Refuse values that no row of the model stands for. */
function checkLimits(entries, limits, task) {
  for (const limit of limits) {
    const values = part(entries[limit.entry], limit.places);
    const allowed = (v) => (v >= limit.low && v <= limit.high) || limit.also.includes(v);
    const bad = values.find((v) => !allowed(v));
    const numbers = `${limit.low} to ${limit.high}`;
    const about = `Batch entry '${limit.entry}' of task '${task}'`;
    if (bad !== undefined) {
      throw new BatchError(`${about} holds ${bad}, but these are ${limit.why}: ${numbers}. ${limit.remedy}`.trim());
    }
    if (limit.reached && !values.includes(limit.high)) {
      throw new BatchError(`${about} must hold ${limit.high} once: these are ${limit.why}.`);
    }
    for (const [kind, sign] of [["descending", 1], ["ascending", -1]]) {
      if (limit[kind] && values.some((v, i) => i && sign * (v - values[i - 1]) > 0)) {
        throw new BatchError(`${about} is not in ${kind} order, as ${limit.why} must be. ${limit.remedy}`.trim());
      }
    }
  }
}

/** The numbers of a part of an array: a slice for each dimension, flat places, or null for all. */
function part({ data, dims }, places) {
  if (places === null || places === undefined) return Array.from(data, Number);
  if (!Array.isArray(places[0])) return places.map((i) => Number(data[i]));
  let flat = [0];
  dims.forEach((n, d) => {
    const [start, stop, step] = places[d];
    const next = [];
    for (const base of flat) {
      for (let i = start; i < Math.min(stop, n); i += step) next.push(base * n + i);
    }
    flat = next;
  });
  return flat.map((i) => Number(data[i]));
}

function checkFinite(entries, mayBeNonfinite, task) {
  for (const [name, held] of Object.entries(entries)) {
    if (mayBeNonfinite?.includes(name) || isFinite_(held)) continue;
    if (mayBeNonfinite === null && !held.data.some(Number.isNaN)) continue;
    throw new NonFiniteBatch(`Batch entry '${name}' of task '${task}' holds NaN or infinite values.`);
  }
}

function isFinite_({ data, dtype, type }) {
  const kind = dtype ?? type;
  if (kind === "float16") return data.every((bits) => (bits & 0x7c00) !== 0x7c00);
  if (!kind.startsWith("float")) return true;
  let sum = 0;
  for (let i = 0; i < data.length; i += 1) sum += data[i] - data[i]; // NaN for NaN and infinite values, else 0
  return sum === 0;
}

function failedCheck(data, indices, integers) {
  const all = (mark) => data.length > 0 && Array.prototype.every.call(data, (v) => Number(v) === mark);
  if (indices.length && all(OUT_OF_BOUNDS)) {
    return `an index that the model computes from the batch is out of bounds: ${indices.join(", ")}. ` +
      "Correct the data, or the model.";
  }
  if (integers.length && all(INEXACT)) {
    return `an integer that the model computes is beyond 2**24: ${integers.join(", ")}. Use smaller numbers.`;
  }
  return "";
}

// ---------------------------------------------------------------- checkpoints

function parseSafetensors(bytes, what) {
  try {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const length = Number(view.getBigUint64(0, true));
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, 8 + length));
    const { __metadata__: metadata, ...held } = JSON.parse(text);
    const kinds = Object.fromEntries(Object.entries(DTYPES).map(([dtype, [, kind]]) => [kind, dtype]));
    const tensors = mapValues(held, ({ dtype: kind, shape, data_offsets: [start, stop] }) => {
      const dtype = kinds[kind];
      const [Kind] = DTYPES[dtype];
      const copied = bytes.slice(8 + length + start, 8 + length + stop); // aligned, as typed arrays must be
      if (copied.length !== size(shape) * Kind.BYTES_PER_ELEMENT) throw new Error("it was cut short");
      return { data: new Kind(copied.buffer), dims: shape, dtype };
    });
    return { tensors, metadata };
  } catch (e) {
    throw new ArtifactError(`${what} is damaged or no safetensors file (${e.message}).`);
  }
}

function writeSafetensors(arrays, metadata) {
  // Large elements first, as each must lie at a multiple of its size.
  const width = (name) => arrays[name].data.BYTES_PER_ELEMENT;
  const names = Object.keys(arrays).sort((a, b) => width(b) - width(a) || byCodePoints(a, b));
  const held = {};
  let end = 0;
  for (const name of names) {
    const { data, dims, dtype } = arrays[name];
    held[name] = { dtype: DTYPES[dtype][1], shape: dims, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
  }
  let header = new TextEncoder().encode(JSON.stringify({ __metadata__: metadata, ...held }));
  const length = Math.ceil(header.length / 8) * 8;
  const file = new Uint8Array(8 + length + end).fill(0x20, 8, 8 + length);
  new DataView(file.buffer).setBigUint64(0, BigInt(length), true);
  file.set(header, 8);
  for (const name of names) file.set(bytesOf(arrays[name].data), 8 + length + held[name].data_offsets[0]);
  return file;
}

/** The digest of a checkpoint: of what its header says, and of every array with its name, dtype and shape. */
async function digest(header, arrays) {
  const parts = [encode(pythonList(Object.values(header)))];
  for (const name of Object.keys(arrays).sort(byCodePoints)) {
    const { data, dims, dtype } = arrays[name];
    const shape = dims.length === 1 ? `(${dims[0]},)` : `(${dims.join(", ")})`;
    parts.push(encode(`${name} ${dtype} ${shape};`), bytesOf(data));
  }
  const all = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const p of parts) {
    all.set(p, at);
    at += p.length;
  }
  return sha256Hex(all);
}

const encode = (text) => new TextEncoder().encode(text);
const bytesOf = (data) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** Texts and integers as Python's `json.dumps` writes a list of them. */
function pythonList(values) {
  const escaped = (text) => text.replace(/[^ -~]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return `[${values.map((v) => escaped(JSON.stringify(v))).join(", ")}]`;
}

function byCodePoints(a, b) {
  const [one, other] = [Array.from(a), Array.from(b)];
  const at = one.findIndex((c, i) => c !== other[i]);
  if (at < 0) return one.length - other.length;
  return other[at] === undefined ? 1 : one[at].codePointAt(0) - other[at].codePointAt(0);
}

async function sha256Hex(bytes) {
  if (!globalThis.crypto?.subtle) {
    throw new ArtifactError("Files can be verified on https and on localhost only: serve the page from there.");
  }
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(found, (b) => b.toString(16).padStart(2, "0")).join("");
}

// ---------------------------------------------------------------- random numbers

/** The `seed` input of the step after `step` others: four keys, each 11 bits of a hash. */
export function stepKeys(seed, step) {
  const bytes = shake256(encode(`pockgraph step ${seed} ${step}`), 8);
  const words = new DataView(bytes.buffer);
  return Float32Array.from({ length: 4 }, (_, i) => (words.getUint16(2 * i, true) >> 5) / 2048);
}

/** SHAKE-256 (FIPS 202) of up to 135 bytes. */
function shake256(message, length) {
  const RATE = 136;
  const padded = new Uint8Array(RATE);
  padded.set(message);
  padded[message.length] = 0x1f;
  padded[RATE - 1] |= 0x80;
  const lanes = new BigUint64Array(25);
  const view = new DataView(padded.buffer);
  for (let i = 0; i < RATE / 8; i += 1) lanes[i] = view.getBigUint64(8 * i, true);
  keccak(lanes);
  return new Uint8Array(lanes.buffer).slice(0, length);
}

function keccak(a) {
  const MASK = (1n << 64n) - 1n;
  const rotated = (x, n) => ((x << n) | (x >> (64n - n))) & MASK;
  let lfsr = 1;
  for (let round = 0; round < 24; round += 1) {
    const column = [0, 1, 2, 3, 4].map((x) => a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20]);
    for (let i = 0; i < 25; i += 1) a[i] ^= column[(i + 4) % 5] ^ rotated(column[(i + 1) % 5], 1n);
    let [x, y, held] = [1, 0, a[1]];
    for (let t = 0; t < 24; t += 1) {
      [x, y] = [y, (2 * x + 3 * y) % 5];
      const kept = a[x + 5 * y];
      a[x + 5 * y] = rotated(held, BigInt((((t + 1) * (t + 2)) / 2) % 64));
      held = kept;
    }
    for (let row = 0; row < 25; row += 5) {
      const r = a.slice(row, row + 5);
      for (let i = 0; i < 5; i += 1) a[row + i] = r[i] ^ (~r[(i + 1) % 5] & MASK & r[(i + 2) % 5]);
    }
    for (let j = 0; j < 7; j += 1) {
      if (lfsr & 1) a[0] ^= 1n << BigInt(2 ** j - 1);
      lfsr = lfsr & 0x80 ? ((lfsr << 1) ^ 0x171) : lfsr << 1;
    }
  }
}
