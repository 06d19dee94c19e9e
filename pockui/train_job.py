"""Compile a plan and train it, as a process of its own: `python -m pockui.train_job`.

A `worker` that reads a `TrainSpec` and writes:

    {"kind": "stage", "text": …}                          what is being done
    {"kind": "compiled", "path", "bytes", "seconds", "predicted": {…}, "parity"}
    {"kind": "metric", "when": "before" | "after", "value", "samples"}
    {"kind": "loss", "step", "loss", "step_ms", "samples_per_s", "memory_bytes", "left_s"}
                                                          at most every tenth of a second
    {"kind": "validation", "step", "value", "samples"}    between steps, on a part of the validation data
    {"kind": "measured", "step_ms", "over_imported_bytes", …}
    {"kind": "result", "checkpoint", "steps", "losses": [[step, loss], …]}
    {"kind": "stopped", "checkpoint", "steps", "losses"}   instead of a result, where it was asked to end

Asked to end in the middle of steps it keeps what it has trained; else it ends at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pockgraph.files import sweep

from .info.optimizers import RULES, same_rule
from .train_loop import LiveMetric, take_steps
from .training_study import Held, held_of, metrics, study_at
from .worker import Reporter, Spec, Stop, run

if TYPE_CHECKING:
    from pockgraph.study.recorder import Recorder


@dataclass(frozen=True)
class TrainSpec(Spec):
    """What to train.

    Attributes:
        reference: `module:task` that makes the Task; the user named it, see `project.named_reference`.
        plan: a plan's JSON text.
        target: what to compile to.
        out: folder of the artefact; the checkpoint is put beside it.
        steps: how many.
        lr: learning rate; None takes the optimizer's.
        optimizer: as a plan describes one; empty takes the plan's.
        device: as the target's runtime calls it. precision: of activations and gradients.
        seed: order of the training samples.
        measure: also measure time and memory in a fresh process afterwards.
        study: the file of the study that keeps the run; empty keeps it in none.
        run: what the run is called everywhere, `Run.uid`; empty makes one up.
        resume: a checkpoint; `out` then holds the artefact, and `steps` count those taken before.
    """

    reference: str
    plan: str
    target: str
    out: str
    steps: int
    lr: float | None = None
    seed: int = 0
    measure: bool = True
    study: str = ""
    run: str = ""
    resume: str = ""
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    device: str = "CPU"
    precision: str = "f32"


def checkpoint_of(out: str | os.PathLike[str]) -> Path:
    """Where the weights trained with an artefact's folder are put: beside it, under its whole name."""
    return Path(f"{Path(out)}.safetensors")


def train(spec: TrainSpec, report: Reporter, stop: Stop | None = None) -> None:
    """Do what `spec` says.

    Raises:
        PockError: from any of the stages.
    """
    import pockgraph as pg
    from pockgraph.study import Run
    from pockgraph.study.data_splits import splits_of
    from pockgraph.study.recorder import recorded

    from .project import load_task

    stop = stop or Stop()
    report("stage", text="Loading the task")
    task = load_task(spec.reference)
    plan = pg.Plan.from_json(spec.plan)
    trainer = _resumed(spec, report) if spec.resume else _compiled(spec, task, plan, report)

    plan = trainer.plan

    with study_at(spec.study, plan, task.reference, any_optimizer=True) or nullcontext() as study:
        run = Run(
            plan, name=_name(spec, plan), origin="dashboard", target=spec.target, device=spec.device,
            seed=spec.seed, lr=plan.optimizer["lr"] if spec.lr is None else spec.lr,
            data=splits_of(task) if study else {}, uid=spec.run, began_at=trainer.steps,
            planned_steps=spec.steps, artifact=_from(spec.study, spec.out),
        )  # fmt: skip
        with recorded(study, run, lambda words: print(words, file=sys.stderr)) as kept:
            checkpoint, losses = _train(trainer, task, spec, report, kept, stop)
            if not stop.asked and spec.measure and spec.device.upper() == "CPU":
                from pockgraph.measure import figures_to_json, measure_step

                report("stage", text="Measuring time and memory in a fresh process")
                batch = {name: tensor.numpy() for name, tensor in task.example.items()}
                figures = figures_to_json(measure_step(spec.out, batch))
                report("measured", **figures)
                kept.note(measured=figures, measured_peak_bytes=figures["whole_peak_bytes"])
    if not stop.asked:
        report("result", checkpoint=str(checkpoint), steps=trainer.steps, losses=losses)


def _name(spec: TrainSpec, plan: Any) -> str:
    """`12 tensors, AdamW, bf16, seed 0`: what is not as the plan has it is named."""
    asked = json.loads(spec.plan)["optimizer"]
    other = [] if same_rule(plan.optimizer, asked) else [RULES[plan.optimizer["name"]].label]
    other += [] if spec.precision == "f32" else [spec.precision]
    return ", ".join([f"{len(plan.tensors)} tensors", *other, f"seed {spec.seed}"])


def _compiled(spec: TrainSpec, task: Any, plan: Any, report: Reporter) -> Any:
    """A trainer of the plan, compiled here."""
    import pockgraph as pg
    from pockgraph.optimizer import optimizer_from_dict

    report("stage", text="Deriving the training graph")
    graph = pg.build(task, optimizer_from_dict(spec.optimizer or plan.optimizer))
    report("stage", text=f"Compiling for {spec.target}")
    start = time.perf_counter()
    options = {} if spec.precision == "f32" else {"precision": spec.precision}
    artifact = pg.compile(graph, plan, target=spec.target, out=spec.out, options=options)
    trainer = artifact.trainer(device=spec.device)
    report(
        "compiled", path=str(artifact.path), bytes=artifact.nbytes, seconds=time.perf_counter() - start,
        predicted=artifact.manifest.predicted, parity=artifact.manifest.parity_json,
    )  # fmt: skip
    return trainer


def _resumed(spec: TrainSpec, report: Reporter) -> Any:
    """A trainer of the artefact that is there, where its checkpoint left off."""
    from pockgraph.runtime import Trainer

    report("stage", text="Loading the artefact")
    trainer = Trainer.load(spec.out, device=spec.device)
    trainer.load_checkpoint(spec.resume)
    manifest = trainer.manifest
    report(
        "compiled", path=spec.out, bytes=sum(f.bytes for f in manifest.files.values()), seconds=None,
        predicted=manifest.predicted, parity=manifest.parity_json,
    )  # fmt: skip
    return trainer


def _from(study: str, path: str | Path) -> str:
    """A path as it is found from a study's folder; as it is where there is no study, or another drive."""
    with suppress(ValueError):
        return Path(os.path.relpath(path, Path(study).resolve().parent)).as_posix() if study else str(path)
    return str(path)


def _train(
    trainer: Any, task: Any, spec: TrainSpec, report: Reporter, kept: Recorder, stop: Stop
) -> tuple[Path, list[list[float]]]:
    """Train between two evaluations; returns the checkpoint, and [step, loss] of each step."""
    held = held_of(task)
    place = checkpoint_of(spec.out)

    def evaluate(when: str) -> None:
        report("stage", text=f"Evaluating {when} training")
        found = trainer.evaluate(held.test)
        report("metric", when=when, value=found.metric, samples=found.samples)
        before = when == "before"
        kept.note(**{"baseline" if before else "metric": found.metric})
        if kept.run.id is not None:
            kept.note(**metrics(trainer, Held(None, held.validation), before))

    evaluate("before")
    report("stage", text="Training")
    live = LiveMetric(trainer, held.validation, report, spec.steps - trainer.steps)
    with stop.kept():
        losses = take_steps(
            trainer, task.forever(spec.seed), spec.steps, spec.lr, kept, report, live, lambda: stop.asked
        )
        kept.note(validation_curve=tuple(live.curve))
        if stop.asked:
            kept.note(status="cancelled")
        checkpoint = trainer.save(place)
        kept.note(checkpoint=_from(spec.study, checkpoint))
        if stop.asked:
            report("stopped", checkpoint=str(checkpoint), steps=trainer.steps, losses=losses)
    if not stop.asked:
        evaluate("after")
    return checkpoint, losses


def drop_folder(out: str | os.PathLike[str]) -> None:
    """Remove what a run that ended early left: half an artefact, and a folder that was made for one."""
    sweep(Path(out).parent)
    with suppress(OSError):
        os.rmdir(out)


if __name__ == "__main__":
    sys.exit(run(train, TrainSpec, tidy=lambda spec: drop_folder(spec.out)))
