"""`pockui train` and `pockui show`: train an artefact on its task's data or a file; say what it is."""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from pockgraph.errors import PockError

from ..info.format import flops, milliseconds, size
from ..info.parity import parity_badge
from ..training_study import Held, held_of, metrics, study_of
from .compiling import print_parity
from .output import JsonFlag, out, print_json, progress_bars, say, styled

if TYPE_CHECKING:
    from pockgraph.runtime import Trainer
    from pockgraph.runtime.command import Saving
    from pockgraph.runtime.data.source import Data
    from pockgraph.runtime.signals import StopRequest
    from pockgraph.study.recorder import Recorder
    from pockgraph.study.records import DataSplit

MOST = 2**31 - 1  # of steps, as on the device


def train(
    artifact: Annotated[Path, typer.Argument(help="The folder that `pockui compile` wrote.")],
    task: Annotated[
        str | None, typer.Argument(metavar="[MODULE:TASK]", help="Whose data to train on.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Or a file or folder that `pockui data` wrote, or images.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=MOST, help="How many steps to take.")] = 100,
    lr: Annotated[float | None, typer.Option(help="Learning rate; the artefact's own by default.")] = None,
    eval_data: Annotated[
        Path | None, typer.Option("--eval", help="Such data to evaluate on when done.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write a checkpoint here: now and then, when done, when stopped.")
    ] = None,
    save_every: Annotated[
        str, typer.Option(metavar="N|Ns", help="Steps, or with an s seconds, between two checkpoints.")
    ] = "60s",
    resume: Annotated[Path | None, typer.Option(help="Continue from this checkpoint.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST, help="Draws the order of a task's training samples.")
    ] = 0,
    device: Annotated[str, typer.Option(help="Processor, as the target's runtime calls it (CPU).")] = "CPU",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default all cores.")] = None,
    allow_native_code: Annotated[
        bool, typer.Option("--allow-native-code", help="Run the artefact's machine code: trust its author.")
    ] = False,
    on_nonfinite: Annotated[
        Literal["error", "skip"],
        typer.Option(help="What to do about a step whose batch, loss or update is NaN or infinite."),
    ] = "error",
    study: Annotated[
        Path | None,
        typer.Option(help="The study that keeps this run; else one of the artefact's task in this folder."),
    ] = None,
    no_study: Annotated[bool, typer.Option("--no-study", help="Keep this run in no study.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train an artefact, and evaluate it on held-out data when there is some.

    A study of its task keeps the run: the losses, and the metric before and after.
    """
    from pockgraph.files import sweep
    from pockgraph.runtime import Trainer
    from pockgraph.runtime.batch import learning_rate
    from pockgraph.runtime.command import Saving, save_interval
    from pockgraph.runtime.data.opening import training_data
    from pockgraph.runtime.signals import stop_on_signal
    from pockgraph.study import Run
    from pockgraph.study.recorder import recorded

    if (task is None) == (data is None):
        raise PockError("Say what to train on: either MODULE:TASK or --data data.npz.")
    if study is not None and no_study:
        raise PockError("Say either --study or --no-study.")
    try:
        save_interval(save_every)
    except argparse.ArgumentTypeError as e:
        raise PockError(f"--save-every: {e}.") from None
    if lr is not None:
        learning_rate(lr)  # before a study keeps the run
    if save is not None:
        sweep(save.parent)
    trainer = Trainer.load(
        artifact, device, threads, allow_native_code=allow_native_code, on_nonfinite=on_nonfinite
    )
    say(f"{parity_badge(trainer.manifest.parity_json).text} when it was compiled.")
    if resume is not None:
        trainer.load_checkpoint(resume)
    source = _of_task(task, seed, trainer) if task is not None else _of_file(data, trainer)
    began_at, held = trainer.steps, source.held
    if eval_data is not None:
        held = Held(_Again(training_data(eval_data, trainer.manifest)), None)

    keeper = None if no_study else study_of(trainer.plan, source.reference, study)
    run = Run(
        trainer.plan, name=f"pockui train, seed {seed}", origin="cli", target=trainer.manifest.target,
        device=device, seed=seed, lr=trainer.manifest.optimizer["lr"] if lr is None else lr,
        began_at=began_at, data=source.splits() if keeper else {},
    )  # fmt: skip
    saving, evaluation, result = Saving(trainer, save, save_every), None, {}
    with stop_on_signal() as stop, recorded(keeper, run, say) as kept:
        if keeper:
            say(f"The study {keeper.path} keeps this run. Evaluating before training …")
            kept.note(**metrics(trainer, held, before=True))
        with saving.saved_on_refusal():
            losses, times = _train(trainer, source.batches, steps, lr, saving, stop, kept)
        result |= {
            "steps": trainer.steps, "loss": statistics.fmean(losses[-10:]) if losses else None,
            "first_loss": losses[0] if losses else None,
            "step_ms": statistics.median(times) if times else None,
        }  # fmt: skip
        if trainer.skipped:
            result["skipped"] = trainer.skipped
        if save is not None and (trainer.steps > began_at or not stop.requested):
            result["checkpoint"] = str(trainer.save(save))
        if held.test is not None and not stop.requested:
            say("Evaluating …")
            evaluation = trainer.evaluate(held.test)
            result |= {"metric": evaluation.metric, "samples": evaluation.samples}
            kept.note(metric=evaluation.metric)
        if keeper and not stop.requested:
            kept.note(**metrics(trainer, Held(None, held.validation), before=False))
        kept.note(status="cancelled" if stop.requested else "done")
    if keeper:
        result |= {"study": str(keeper.path), "run": kept.run.id}
    _show(result, as_json)
    if stop.requested:
        raise typer.Exit(stop.status)


def show(
    artifact: Annotated[Path, typer.Argument(help="The folder that `pockui compile` wrote.")],
    as_json: JsonFlag = False,
) -> None:
    """Show what an artefact holds, and how it compares with PyTorch."""
    from pockgraph.runtime.artifact_files import read_manifest, read_plan, verify_files

    manifest = read_manifest(artifact)
    verify_files(artifact, manifest)
    plan, figures = read_plan(artifact), manifest.predicted
    if as_json:
        print_json(
            {
                "artifact": str(artifact),
                "task": manifest.task,
                "target": manifest.target,
                "options": manifest.options,
                "optimizer": manifest.optimizer,
                "tensors": {fqn: plan.ratio(fqn) for fqn in plan.tensors},
                "bytes": sum(f.bytes for f in manifest.files.values()),
                "predicted": figures,
                "versions": manifest.versions,
                "native_code": list(manifest.native_code),
                "parity": manifest.parity_json,
            }
        )
        return
    made = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    said = (
        f" for {manifest.target}: {len(plan.tensors)} of {len(plan.model)} tensors "
        f"learn by {manifest.optimizer['name']}, modelled peak {size(figures.get('peak_bytes'))}, "
        f"{flops(figures.get('step_flops'))} a step. Made with {made}."
    )
    out().print(styled((manifest.task, "bold"), said))
    if manifest.native_code:
        out().print(f"Holds native code, which loading it runs: {', '.join(manifest.native_code)}.")
    print_parity(manifest.parity_json)


class _Source(NamedTuple):
    """What to train on.

    Attributes:
        held: what is held out. splits: which data that is. reference: `module:task`; empty for a file.
    """

    batches: Iterator[Any]
    held: Held
    splits: Callable[[], dict[str, DataSplit]]
    reference: str


class _Again:
    """Batches of a file or a folder, as often as they are asked for."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        return self._data.batches()


def _of_task(reference: str, seed: int, trainer: Trainer) -> _Source:
    from pockgraph.study.data_splits import splits_of

    from ..project import load_task

    task = load_task(reference)
    # The step number picks the batch, as in `_of_file`.
    batches = itertools.islice(task.forever(seed), trainer.steps, None)
    return _Source(batches, held_of(task), lambda: splits_of(task), task.reference)


def _of_file(path: Path | None, trainer: Trainer) -> _Source:
    from pockgraph.runtime.data.opening import training_data
    from pockgraph.study.records import DataSplit

    assert path is not None
    source = training_data(path, trainer.manifest)

    def batches() -> Iterator[Any]:
        while True:  # the step number picks the batch, so a resumed run goes on in the data
            yield source.batch(trainer.steps)

    def splits() -> dict[str, DataSplit]:
        count = source.samples // source.batch_size
        return {"train": DataSplit(count, source.samples, source.digest()[:16])}

    return _Source(batches(), Held(None, None), splits, "")


def _train(
    trainer: Trainer,
    batches: Iterator[Any],
    steps: int,
    lr: float | None,
    saving: Saving,
    stop: StopRequest,
    kept: Recorder,
) -> tuple[list[float], list[float]]:
    """Losses, and ms of each step."""
    losses: list[float] = []
    times: list[float] = []
    kept.starts()
    with progress_bars() as bars:
        bar = bars.add_task("Training", total=steps, note="")
        while len(times) < steps and not stop.requested:
            result = trainer.step(next(batches), lr)
            times.append(result.duration_ms)
            kept.step(result.loss, result.duration_ms)
            if not result.skipped:
                losses.append(result.loss)
            note = f"loss {statistics.fmean(losses[-20:]):.4f}" if losses else ""
            bars.update(bar, advance=1, note=note)
            if not stop.requested and len(times) < steps:
                saving.after_step()
    return losses, times


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    skipped = result.get("skipped")
    parts = [f"{result['steps']} steps" + (f" ({skipped} skipped)" if skipped else "")]
    if result["loss"] is not None:
        parts.append(f"loss {result['first_loss']:.4f} → {result['loss']:.4f}")
        parts.append(f"{milliseconds(result['step_ms'])} a step")
    shown = [styled(part) for part in parts]
    if "metric" in result:
        metric = f"metric {result['metric']:.4f}", "bold"
        shown.append(styled(metric, f" on {result['samples']} held-out samples"))
    if "checkpoint" in result:
        shown.append(styled(f"saved to {result['checkpoint']}"))
    out().print(styled(", ").join(shown))
