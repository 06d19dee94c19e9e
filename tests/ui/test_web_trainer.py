"""The runtime for browsers, in Node: what Python's gives for the same artefact."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawings import compiled, drawings
from web_artifact import as_json, node, required_runtime

import pockgraph as pg
import pockui.web
from pockgraph.runtime import Trainer

TRAINER = Path(pockui.web.__file__).parent / "trainer.mjs"
SEED = 3
OPTIMIZERS = {"momentum": pg.SGD(lr=0.05, momentum=0.9), "adam": pg.Adam(lr=0.01, ema_decay=0.9)}

SCRIPT = """
import fs from "node:fs";
import {{ pathToFileURL }} from "node:url";
import * as ort from {runtime};
import {{ Trainer, stepKeys }} from {trainer};
const given = JSON.parse(fs.readFileSync({given}));
const load = (options) => Trainer.load(pathToFileURL({folder}), {{ ort, seed: {seed}, ...options }});
const failing = async (act) => {{
  try {{ await act(); return "nothing"; }} catch (e) {{ return `${{e.constructor.name}}: ${{e.message}}`; }}
}};
const said = await (async () => {{ {body} }})();
console.log(JSON.stringify(said));
"""


def run(body: str, folder: Path, given: Any = None) -> Any:
    """What `body`, the inside of an async function, returns."""
    runtime = required_runtime() / "dist" / "ort.node.min.mjs"
    asked = folder.parent / "given.json"
    asked.write_text(json.dumps(given))
    text = SCRIPT.format(
        runtime=json.dumps(runtime.as_uri()), trainer=json.dumps(TRAINER.as_uri()), seed=SEED, body=body,
        given=json.dumps(str(asked)), folder=json.dumps(str(folder)),
    )  # fmt: skip
    script = folder.parent / "script.mjs"
    script.write_text(text)
    done = subprocess.run([node(), str(script)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=list(OPTIMIZERS))
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    required_runtime()
    return compiled(tmp_path_factory.mktemp(request.param) / "out", OPTIMIZERS[request.param])


def test_ten_steps_an_evaluation_and_predictions_equal_python(artifact: Path) -> None:
    batches = drawings()
    trainer = Trainer.load(artifact, seed=SEED)
    losses = [trainer.step(batches[i % len(batches)]).loss for i in range(10)]
    short = {n: a[:3] for n, a in batches[0].items()}
    images = np.concatenate([b["x"] for b in batches])[:7]
    found = run(
        """
        const trainer = await load();
        const losses = [];
        for (let i = 0; i < 10; i += 1) losses.push((await trainer.step(given.batches[i % 6])).loss);
        const { values } = await trainer.evaluate([...given.batches, given.short]);
        const { data, dims } = await trainer.predict({ x: given.images });
        return { losses, values: [...values], data: [...data], dims };
        """,
        artifact,
        {"batches": [as_json(b) for b in batches], "short": as_json(short), "images": images.tolist()},
    )
    assert found["losses"] == pytest.approx(losses, rel=1e-5)
    expected = trainer.evaluate([*batches, short])
    assert found["values"] == expected.values.tolist()
    predicted = trainer.predict({"x": images})
    assert found["dims"] == list(predicted.shape)
    assert found["data"] == pytest.approx(predicted.ravel().tolist(), abs=1e-5)


def test_a_checkpoint_goes_to_the_browser_and_back_to_the_bit(artifact: Path, tmp_path: Path) -> None:
    trainer = Trainer.load(artifact, seed=SEED)
    for batch in drawings():
        trainer.step(batch)
    first, second = tmp_path / "python.ckpt", tmp_path / "browser.ckpt"
    trainer.save(first)
    before = {n: a.copy() for n, a in trainer.state().items()}
    loss = run(
        """
        const trainer = await load({ seed: 0 });
        await trainer.loadCheckpoint(new Uint8Array(fs.readFileSync(given.first)));
        fs.writeFileSync(given.second, await trainer.save());
        return [trainer.steps, trainer.seed, (await trainer.step(given.batch)).loss];
        """,
        artifact,
        {"first": str(first), "second": str(second), "batch": as_json(drawings()[0])},
    )
    other = Trainer.load(artifact)
    other.load_checkpoint(second)
    assert (other.steps, other.seed) == (len(drawings()), SEED) == tuple(loss[:2])
    assert all(np.array_equal(a, before[n]) for n, a in other.state().items())
    assert other.step(drawings()[0]).loss == pytest.approx(loss[2], rel=1e-5)


def test_what_is_wrong_is_refused_and_changes_nothing(artifact: Path) -> None:
    good = drawings()[0]
    said = run(
        """
        const trainer = await load(), { x, y } = given;
        const flipped = (bytes, at) => bytes.map((b, i) => (i === at ? b ^ 1 : b));
        const before = await trainer.save();
        const refused = [
          await failing(() => trainer.step({ x, y: [0, 1, 2, 9] })),
          await failing(() => trainer.step({ x: { ...x, data: x.data.map(() => NaN) }, y })),
          await failing(() => trainer.step({ x, z: y })),
          await failing(() => trainer.step({ x: x.data.slice(1), y })),
          await failing(() => trainer.step({ x, y: [0.5, 1, 2, 3] })),
          await failing(() => trainer.step({ x, y }, { lr: -1 })),
          await failing(() => trainer.predict({ x: [] })),
          await failing(() => trainer.evaluate([])),
          await failing(() => trainer.loadCheckpoint(before.slice(0, 500))),
          await failing(() => trainer.loadCheckpoint(flipped(before, before.length - 1))),
        ];
        const large = { x: { ...x, data: x.data.map(() => 3e38) }, y };
        const diverged = await failing(() => trainer.step(large));
        const after = await trainer.save();
        const skipping = await load({ onNonfinite: "skip" });
        const step = await skipping.step(large);
        const same = Buffer.compare(before, after) === 0;
        return { refused, diverged, same, skipped: step.skipped, steps: skipping.steps };
        """,
        artifact,
        as_json(good),
    )
    fit = "BatchError: This batch does not fit what was compiled for task 'drawings':"
    expected = [
        "BatchError: Batch entry 'y' of task 'drawings' holds 9, but these are class labels of a loss over 5",
        "NonFiniteBatch: Batch entry 'x'",
        f"{fit} 'y' is missing, 'z' is unexpected",
        f"{fit} 'x' has 255 values instead of [4,1,8,8]",
        f"{fit} 'y' holds values that are not int64",
        "BatchError: lr=-1 is no learning rate",
        "BatchError: The entries of a batch for task 'drawings' have 0 samples",
        "BatchError: There was nothing to evaluate",
        "ArtifactError: The checkpoint is damaged or no safetensors file",
        "ArtifactError: The checkpoint was damaged: its values or its header changed",
    ]  # fmt: skip
    for found, start in zip(said["refused"], expected, strict=True):
        assert found.startswith(start)
    assert said["diverged"].startswith("NonFiniteLoss: In step 1")
    assert said["same"]
    assert (said["skipped"], said["steps"]) == (True, 1)


def test_files_that_were_changed_or_are_of_another_version_are_refused(artifact: Path) -> None:
    said = run(
        """
        const changing = (name, change) => async (asked) => {
          const bytes = new Uint8Array(fs.readFileSync(`${given}/${asked}`));
          return asked === name ? change(bytes) : bytes;
        };
        const manifest = (from, to) => changing("manifest.json", (bytes) =>
          new TextEncoder().encode(new TextDecoder().decode(bytes).replace(from, to)));
        return [
          await failing(() => load({ read: changing("train.onnx", (b) => b.map((v, i) => v ^ (i === 50))) })),
          await failing(() => load({ read: changing("state.safetensors", (b) => b.slice(1)) })),
          await failing(() => load({ read: manifest("pockui.artifact/1", "pockui.artifact/9") })),
          await failing(() => load({ read: manifest('"target": "onnx"', '"target": "openvino"') })),
          await failing(() => load({ ort: undefined })),
        ];
        """,
        artifact,
        str(artifact),
    )
    assert said[:2] == [
        f"ArtifactError: {name} was changed or cut short. Copy the artefact again."
        for name in ("train.onnx", "state.safetensors")
    ]
    assert said[2].startswith("ArtifactError: manifest.json has schema 'pockui.artifact/9'")
    assert said[3].startswith("ArtifactError: The artefact was compiled for openvino.")
    assert said[4].startswith("ArtifactError: Pass {ort}")


def test_the_shortest_trainer_of_the_documents_runs(tmp_path: Path) -> None:
    """What docs/artefact.md shows, with the import that it names in a folder where npm has installed it."""
    text = (Path(__file__).parents[2] / "docs" / "artefact.md").read_text()
    folder = compiled(tmp_path / "out", OPTIMIZERS["momentum"], dropout=False)
    batches = drawings()
    given = {"batches": [{n: a.ravel().tolist() for n, a in b.items()} for b in batches]}
    (tmp_path / "given.json").write_text(json.dumps(given))
    (tmp_path / "node_modules").symlink_to(required_runtime().parent)
    script = tmp_path / "train.mjs"
    script.write_text(text.split("```js\n")[1].split("```")[0])
    command = [node(), str(script), str(folder), str(tmp_path / "given.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    trainer = Trainer.load(folder)
    losses = [trainer.step(b).loss for b in batches]
    assert [float(line) for line in done.stdout.split()] == pytest.approx(losses, rel=1e-5)
