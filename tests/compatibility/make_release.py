"""`python tests/compatibility/make_release.py`: what this release leaves on devices, for later ones to open.

A folder with the release's number: an artefact for each target (zipped), a checkpoint, batches, and what came
of them. Random weights, nobody else's data. What a release wrote is never written again: it is the point.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import pockgraph as pg
from pockgraph.runtime import Trainer
from pockgraph.version import __version__

HERE = Path(__file__).parent
TARGETS = ("onnx", "openvino", "torch")
SEED, STEPS, SAVED_AFTER = 3, 3, 2
ROWS = 4


def main() -> None:
    """Write the folder of this release."""
    release = HERE / __version__
    if release.exists():
        raise SystemExit(f"{release} is there. What a release wrote is not written again.")
    draw = np.random.default_rng(0)
    x = draw.standard_normal((STEPS * ROWS, 6), np.float32)
    y = np.arange(STEPS * ROWS) % 3
    task = make_task({"x": x, "y": y})
    graph = pg.build(task, pg.SGD(lr=0.1, momentum=0.9))
    plan = pg.Plan.of(graph, {"0.weight": [1, 2, 5], "1.weight": 1.0, "4.weight": 1.0, "4.bias": 1.0})
    release.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        for target in TARGETS:
            artifact = pg.compile(graph, plan, target=target, out=Path(scratch) / target)
            with zipfile.ZipFile(release / f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(artifact.path.iterdir()):
                    archive.write(path, path.name)
        expected = run(Path(scratch) / TARGETS[0], {"x": x, "y": y}, release / "checkpoint")
    np.savez(release / "batches.npz", x=x, y=y)
    (release / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def make_task(data: dict[str, np.ndarray]) -> pg.Task:
    """A network with a part of each kind of state: batch statistics, a tensor trained in part, dropout."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 3))
    batches = pg.Batches(data, batch_size=ROWS)
    return pg.Task(
        name="stored",
        model=net,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch["x"]), batch["y"]),
        metric=lambda model, batch: (
            -nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        ),
        train=batches,
        eval=batches,
        predict=lambda model, batch: model(batch["x"]),
        predict_sizes=(ROWS,),
        batch_norm="batch",
        dropout=True,
    )


def run(folder: Path, data: dict[str, np.ndarray], checkpoint: Path) -> dict:
    """Losses, and metric and predictions after the last step; saves the state before it."""
    losses = []
    with Trainer.load(folder, threads=1, seed=SEED) as trainer:
        for number in range(STEPS):
            if number == SAVED_AFTER:
                trainer.save(checkpoint)
            rows = slice(number * ROWS, (number + 1) * ROWS)
            losses.append(trainer.step({n: a[rows] for n, a in data.items()}).loss)
        metric = trainer.evaluate([{n: a[:ROWS] for n, a in data.items()}]).metric
        predictions = np.asarray(trainer.predict({"x": data["x"][:ROWS]}))
    return {
        "seed": SEED,
        "rows": ROWS,
        "saved_after": SAVED_AFTER,
        "losses": losses,
        "metric": metric,
        "predictions": predictions.tolist(),
    }


if __name__ == "__main__":
    # Graphs name the lines that they come from: here by a file name that is the same on every machine.
    scope = {"__name__": "make_release", "__file__": __file__}
    exec(compile(Path(__file__).read_text(encoding="utf-8"), "make_release.py", "exec"), scope)
    scope["main"]()  # pyright: ignore[reportCallIssue]
