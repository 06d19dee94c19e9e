"""Writes a site that trains an artefact in a browser. Any static server serves it; then it works offline."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pockgraph.errors import ArtifactError, PockError, listing, reason
from pockgraph.files import replacing
from pockgraph.runtime.artifact_files import MANIFEST, PLAN, read_manifest, verify_files
from pockgraph.runtime.data.opening import training_data
from pockgraph.runtime.manifest import Manifest

HERE = Path(__file__).parent
PAGE = ("index.html", "page.css", "page.mjs", "drawing.mjs", "memory.mjs", "trainer.mjs")
WORKER = "service_worker.js"
RUNTIME = "onnxruntime-web"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
CONFIG = "page.json"
EXAMPLES = "examples.bin"
MAX_CLASSES = 50
EXAMPLES_PER_CLASS = 8


@dataclass(frozen=True)
class Drawings:
    """How a drawing becomes a sample of the artefact's batch, and what the classes are called.

    Attributes:
        labels: of the classes, in their order; empty counts from 0.
        subtract, divide: a pixel is `(value - subtract) / divide`, value from 0 to 255: one number for all
            channels, or one each.
        drawn_px: side in which a drawing is sampled before it is enlarged to the batch's; None: the batch's.
        examples: an npz file of samples, as `pockui data` writes it. Every step sees some of them beside what
            is drawn: of drawings of one class alone a network learns to answer nothing else.
    """

    labels: tuple[str, ...] = ()
    subtract: tuple[float, ...] = (0.0,)
    divide: tuple[float, ...] = (255.0,)
    drawn_px: int | None = None
    examples: Path | None = None


@dataclass(frozen=True)
class Site:
    """What was written: `bytes` in all, of them `model_bytes` of the artefact and `runtime_bytes`."""

    folder: Path
    files: int
    bytes: int
    model_bytes: int
    runtime_bytes: int


def write_site(
    artifact: Path, out: Path, drawings: Drawings | None = None, runtime: Path | None = None
) -> Site:
    """Write the site, whole or not at all; a site that is there is replaced.

    Args:
        artifact: compiled for the target onnx, of a task that classifies images and predicts.
        runtime: the folder of the npm package onnxruntime-web; None looks for `node_modules` here and above.

    Raises:
        ArtifactError: it is none, or not one that drawings can train.
        PockError: there is no runtime, or `out` holds something else or cannot be written.
    """
    manifest = read_manifest(artifact)
    verify_files(artifact, manifest)
    config = _config(artifact, manifest, drawings or Drawings())
    images, config["examples"] = _examples(manifest, config, drawings.examples if drawings else None)
    dist = runtime_folder(runtime)
    _require_replaceable(out)
    try:
        with replacing(out) as new:
            new.mkdir()
            (new / EXAMPLES).write_bytes(images.astype("<f4").tobytes())
            return _write(new, out, artifact, manifest, config, dist)
    except OSError as e:
        raise PockError(
            f"Cannot write {out}: {reason(e)}. Choose another place, or make room there."
        ) from None


def runtime_folder(given: Path | None) -> Path:
    """The folder of the runtime's files.

    Raises:
        PockError: they are not there.
    """
    places = [given] if given else [p / "node_modules" / RUNTIME for p in (Path.cwd(), *Path.cwd().parents)]
    for place in places:
        for dist in (place / "dist", place):
            if all((dist / name).is_file() for name in RUNTIME_FILES):
                return dist
    where = f"in {given}" if given else "in node_modules, here or above"
    raise PockError(
        f"There is no {RUNTIME} {where}. Run `npm install {RUNTIME}`, or pass the package's folder with "
        "--runtime."
    )


def _config(artifact: Path, manifest: Manifest, drawings: Drawings) -> dict[str, Any]:
    """What the page reads.

    Raises:
        ArtifactError: saying why drawings cannot train the artefact.
    """
    if manifest.target != "onnx":
        raise ArtifactError(
            f"{artifact} was compiled for {manifest.target}, and a browser runs ONNX. Compile it with "
            "--target onnx."
        )
    images = [n for n, s in manifest.batch.items() if s.dtype == "float32" and len(s.shape) == 4]
    labels = [n for n, s in manifest.batch.items() if s.dtype.startswith("int") and len(s.shape) == 1]
    own = "For another task, write a page of your own with trainer.mjs: docs/artefact.md tells how."
    if len(manifest.batch) != 2 or not images or not labels:
        held = listing([f"{n} {s.dtype} {list(s.shape)}" for n, s in manifest.batch.items()])
        raise ArtifactError(
            "The page draws images and names their classes, for which a batch holds one float32 "
            f"[N, channels, height, width] and one entry of labels [N]; this one holds {held}. {own}"
        )
    shape = manifest.batch[images[0]].shape
    outputs = {o.shape[1:] for p in manifest.predict for o in p.graph.outputs if len(o.shape) == 2}
    single = all(len(p.graph.outputs) == 1 for p in manifest.predict)
    if not manifest.predict or len(outputs) != 1 or not single:
        raise ArtifactError(
            f"The page shows a score for each class, and task {manifest.task!r} predicts none: give it "
            'Task(…, predict=lambda model, batch: model(batch["x"]).softmax(1)), and compile it again.'
        )
    classes = outputs.pop()[0]
    if shape[1] not in (1, 3) or not 2 <= classes <= MAX_CLASSES:
        raise ArtifactError(
            f"The page draws images of one or three channels in 2 to {MAX_CLASSES} classes; these have "
            f"{shape[1]} channels, in {classes} classes. {own}"
        )
    named = drawings.labels or tuple(str(i) for i in range(classes))
    if len(named) != classes:
        raise ArtifactError(f"--labels names {len(named)} classes, and the artefact has {classes}.")
    for option, values in (("--subtract", drawings.subtract), ("--divide", drawings.divide)):
        if len(values) not in (1, shape[1]):
            raise ArtifactError(f"{option} has {len(values)} numbers, and an image has {shape[1]} channels.")
    if 0.0 in drawings.divide:
        raise ArtifactError("--divide is 0.")
    return {
        "task": manifest.task, "image": images[0], "label": labels[0], "shape": shape, "labels": named,
        "subtract": drawings.subtract, "divide": drawings.divide,
        "drawn_px": drawings.drawn_px or min(shape[2:]),
    }  # fmt: skip


def _examples(
    manifest: Manifest, config: Mapping[str, Any], path: Path | None
) -> tuple[np.ndarray, list[int]]:
    """The first samples of each class, as float32 `[samples, channels, height, width]`, and their labels.

    Raises:
        PockError: the file is none of the task's data.
    """
    image, label = config["image"], config["label"]
    shape = config["shape"][1:]
    if path is None:
        return np.zeros((0, *shape), np.float32), []
    found = training_data(path, manifest)
    data = found.read(0, found.samples)
    x, y = data[image], data[label]
    if x.shape[1:] != shape or y.ndim != 1:
        raise PockError(
            f"{path} does not hold samples of task {manifest.task!r}: {image} "
            f"[N, {', '.join(map(str, shape))}] and {label} [N]. Write it with `pockui data`."
        )
    chosen = [i for c in range(len(config["labels"])) for i in np.flatnonzero(y == c)[:EXAMPLES_PER_CLASS]]
    return x[chosen].astype(np.float32), [int(y[i]) for i in chosen]


def _require_replaceable(out: Path) -> None:
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / CONFIG).is_file())):
        raise PockError(
            f"{out} holds something else than a site, so it is not replaced. Choose another folder, or move "
            "it away."
        )


def _write(
    new: Path, out: Path, artifact: Path, manifest: Manifest, config: Mapping[str, Any], dist: Path
) -> Site:
    for name in PAGE:
        shutil.copyfile(HERE / name, new / name)
    (new / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    model = _copy(artifact, new / "artifact", [MANIFEST, *(n for n in manifest.files if n != PLAN)])
    runtime = _copy(dist, new / "ort", RUNTIME_FILES)
    files = sorted(p.relative_to(new).as_posix() for p in new.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for name in files:
        digest.update(name.encode() + hashlib.sha256((new / name).read_bytes()).digest())
    worker = (HERE / WORKER).read_text(encoding="utf-8")
    made = {"VERSION": digest.hexdigest()[:16], "FILES": ["./", *files]}
    for name, value in made.items():
        worker = re.sub(rf"^const {name} = .*;$", f"const {name} = {json.dumps(value)};", worker, flags=re.M)
    (new / WORKER).write_text(worker, encoding="utf-8")
    total = sum(p.stat().st_size for p in new.rglob("*") if p.is_file())
    return Site(out, len(files) + 1, total, model, runtime)


def _copy(source: Path, target: Path, names: Sequence[str]) -> int:
    """How many bytes were copied."""
    target.mkdir()
    for name in names:
        shutil.copyfile(source / name, target / name)
    return sum((target / name).stat().st_size for name in names)
