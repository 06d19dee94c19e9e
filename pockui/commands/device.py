"""`pockui train` and `pockui show`: train an artefact on its task's data or an npz file; say what it is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pockgraph.errors import PockError

from ..info.format import flops, milliseconds, size
from ..info.parity import parity_badge
from .output import JsonFlag, interrupt_as_flag, out, print_json, progress_bars, say
from .projects import print_parity

if TYPE_CHECKING:
    from pockgraph.runtime import Trainer


def train(
    artifact: Annotated[Path, typer.Argument(help="The folder that `pockui compile` wrote.")],
    task: Annotated[
        str | None, typer.Argument(metavar="[MODULE:TASK]", help="Whose data to train on.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Or an npz file: an array [N, …] per batch entry.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="How many steps to take.")] = 100,
    lr: Annotated[float | None, typer.Option(help="Learning rate; the artefact's own by default.")] = None,
    eval_data: Annotated[Path | None, typer.Option("--eval", help="npz to evaluate on when done.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write a checkpoint here when done, and on Ctrl-C.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue from this checkpoint.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the order of a task's training samples.")] = 0,
    device: Annotated[str, typer.Option(help="Device name of the artefact's target.")] = "CPU",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default all cores.")] = None,
    allow_native_code: Annotated[
        bool, typer.Option("--allow-native-code", help="Run the artefact's machine code: trust its author.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train an artefact, and evaluate it on held-out data when there is some."""
    from pockgraph.runtime import Trainer

    if (task is None) == (data is None):
        raise PockError("Say what to train on: either MODULE:TASK or --data data.npz.")
    trainer = Trainer.load(artifact, device, threads, allow_native_code=allow_native_code)
    say(f"{parity_badge(trainer.manifest.parity_json).text} when it was compiled.")
    if resume is not None:
        trainer.load_checkpoint(resume)
    batches, held_out = _task_data(task, seed) if task is not None else _file_data(data, trainer)
    if eval_data is not None:
        from pockgraph.runtime.__main__ import Data

        held_out = Data.load(eval_data, trainer.manifest).batches()

    losses, times, stopped = _train(trainer, batches, steps, lr)
    result: dict[str, Any] = {
        "steps": trainer.steps, "loss": statistics.fmean(losses[-10:]) if losses else None,
        "first_loss": losses[0] if losses else None, "step_ms": statistics.median(times) if times else None,
    }  # fmt: skip
    if save is not None:
        result["checkpoint"] = str(trainer.save(save))
    if held_out is not None and not stopped:
        say("Evaluating …")
        evaluation = trainer.evaluate(held_out)
        result |= {"metric": evaluation.metric, "samples": evaluation.samples}
    _show(result, as_json)
    if stopped:
        raise KeyboardInterrupt


def show(
    artifact: Annotated[Path, typer.Argument(help="The folder that `pockui compile` wrote.")],
    as_json: JsonFlag = False,
) -> None:
    """Show what an artefact holds, and how it compares with PyTorch."""
    from pockgraph.runtime.manifest import read_manifest, read_plan, verify_files

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
    out().print(
        f"[bold]{manifest.task}[/] for {manifest.target}: {len(plan.tensors)} of {len(plan.model)} tensors "
        f"learn by {manifest.optimizer['name']}, modelled peak {size(figures.get('peak_bytes'))}, "
        f"{flops(figures.get('step_flops'))} a step. Made with {made}."
    )
    if manifest.native_code:
        out().print(f"Holds native code, which loading it runs: {', '.join(manifest.native_code)}.")
    print_parity(manifest.parity_json)


def _task_data(reference: str, seed: int) -> tuple[Iterator[Any], Iterable[Any]]:
    from ..project import load_task

    task = load_task(reference)
    return task.forever(seed), task.eval


def _file_data(path: Path | None, trainer: Trainer) -> tuple[Iterator[Any], None]:
    from pockgraph.runtime.__main__ import Data

    assert path is not None
    source = Data.load(path, trainer.manifest)

    def batches() -> Iterator[Any]:
        while True:  # the step number picks the batch, so a resumed run goes on in the data
            yield source.batch(trainer.steps)

    return batches(), None


def _train(
    trainer: Trainer, batches: Iterator[Any], steps: int, lr: float | None
) -> tuple[list[float], list[float], bool]:
    """Losses, ms of each step, and whether Ctrl-C ended it."""
    losses: list[float] = []
    times: list[float] = []
    with progress_bars() as bars, interrupt_as_flag() as stopped:
        bar = bars.add_task("Training", total=steps, note="")
        while len(losses) < steps and not stopped():
            result = trainer.step(next(batches), lr)
            losses.append(result.loss)
            times.append(result.duration_ms)
            bars.update(bar, advance=1, note=f"loss {statistics.fmean(losses[-20:]):.4f}")
        return losses, times, stopped()


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    parts = [f"{result['steps']} steps"]
    if result["loss"] is not None:
        parts.append(f"loss {result['first_loss']:.4f} → {result['loss']:.4f}")
        parts.append(f"{milliseconds(result['step_ms'])} a step")
    if "metric" in result:
        parts.append(f"[bold]metric {result['metric']:.4f}[/] on {result['samples']} held-out samples")
    if "checkpoint" in result:
        parts.append(f"saved to {result['checkpoint']}")
    out().print(", ".join(parts))
