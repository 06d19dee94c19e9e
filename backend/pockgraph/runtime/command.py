"""`python -m pockgraph.runtime out/ --data data.npz --steps 50`: train an artefact from the shell.

`python -m pockgraph.runtime evaluate out/ --data data.npz` evaluates it, see `evaluate_command.py`,
`python -m pockgraph.runtime predict out/ --data data.npz` predicts with it, see `predict_command.py`, and
`python -m pockgraph.runtime learn out/ --folder learner/` keeps learning, see `learn_command.py`.

Exit status: 0 done; 2 bad input or training diverged (one paragraph on stderr); 70 a bug of pockgraph;
128 + a signal that stopped it: 130 Ctrl-C, 143 TERM, 129 HUP, 141 nobody reads the output any more. A
second signal stops at once. `--debug` shows the traceback of an error.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from ..errors import BatchError, NonFiniteLoss, PockError
from ..files import require_working_folder, resolved, sweep
from ..foreign_exceptions import explain
from ..standard_streams import settle_streams
from . import evaluate_command, learn_command, predict_command
from .checkpoint import require_replaceable
from .command_line import (
    MOST,
    add_artifact_and_data,
    add_common_options,
    count,
    peak_memory,
    print_report,
)
from .data.opening import training_data
from .data.source import Data
from .options import OnNonfinite
from .process_memory import peak_resident_bytes
from .signals import StopRequest, stop_on_signal
from .trainer import Trainer

SAVE_EVERY = "60s"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, report; returns the exit status."""
    settle_streams("backslashreplace")  # names of files may be no text
    arguments = sys.argv[1:] if argv is None else list(argv)
    commands = {c.NAME: c for c in (evaluate_command, predict_command, learn_command)}
    named = commands.get(arguments[0] if arguments else "")
    if named:
        options, run = named.parser().parse_args(arguments[1:]), named.run
    else:
        options, run = _parser().parse_args(arguments), _run
    with stop_on_signal() as stop:
        try:
            require_working_folder()
            run(options, stop)
        except Exception as e:
            if options.debug:
                traceback.print_exc()
            text, status = explain(e, "--debug")
            print(f"error: {text}", file=sys.stderr)
            return status
        return stop.status


def _run(options: argparse.Namespace, stop: StopRequest) -> None:
    if options.save:
        sweep(options.save.parent)
    with Trainer.load(
        options.artifact,
        options.device,
        options.threads,
        allow_native_code=options.allow_native_code,
        on_nonfinite=options.on_nonfinite,
    ) as trainer:
        if options.resume:
            trainer.load_checkpoint(options.resume)
        data = training_data(options.data, trainer.manifest)
        held_out = training_data(options.eval, trainer.manifest) if options.eval else None
        began_at = trainer.steps
        saving = Saving(trainer, options.save, options.save_every)
        with saving.saved_on_refusal():
            _train(trainer, data, options, stop, saving)
        report: dict[str, Any] = {"event": "done", "step": trainer.steps}
        if trainer.skipped:
            report["skipped"] = trainer.skipped
        # A run that was stopped before its first step leaves an older checkpoint alone.
        if options.save and (trainer.steps > began_at or not stop.requested):
            report["checkpoint"] = str(trainer.save(options.save))
        if held_out is not None and not stop.requested:
            evaluation = trainer.evaluate(held_out.batches())
            report |= {"metric": evaluation.metric, "samples": evaluation.samples}
        report["peak_rss_bytes"] = peak_resident_bytes()
        print_report(report, _line, options.json, stop)


class Saving:
    """Writes a checkpoint from time to time while it trains.

    Args:
        path: of the checkpoint; None saves nothing.
        every: steps (`500`) or seconds (`60s`) between two.

    Raises:
        ArtifactError: something else than a checkpoint lies there; said before any step is taken.
    """

    def __init__(self, trainer: Trainer, path: Path | None, every: str = SAVE_EVERY) -> None:
        self._trainer, self._path = trainer, path
        if path is not None:
            require_replaceable(resolved(path))
        self._seconds = every.endswith("s")
        self._every = int(every.removesuffix("s"))
        self._saved = self._now()

    def after_step(self) -> None:
        """Save, when it is time."""
        if self._path is not None and self._now() - self._saved >= self._every:
            self._trainer.save(self._path)
            self._saved = self._now()

    @contextmanager
    def saved_on_refusal(self) -> Iterator[None]:
        """Save when a step is refused or was undone: the state is that of the step before it."""
        began_at = self._trainer.steps
        try:
            yield
        except (BatchError, NonFiniteLoss) as e:
            if self._path is not None and self._trainer.steps > began_at:
                try:
                    saved = f"The state of step {self._trainer.steps} was saved to"
                    e.args = (f"{e} {saved} {self._trainer.save(self._path)}; --resume goes on from it.",)
                except PockError as failed:
                    e.args = (f"{e} The steps before it are lost: {failed}",)
            raise

    def _now(self) -> float:
        return time.monotonic() if self._seconds else self._trainer.steps


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m pockgraph.runtime",
        usage="%(prog)s ARTIFACT --data DATA --steps N [options], see --help\n"
        "       %(prog)s evaluate ARTIFACT --data DATA [options], see evaluate --help\n"
        "       %(prog)s predict ARTIFACT --data DATA [options], see predict --help\n"
        "       %(prog)s learn ARTIFACT --folder FOLDER [options], see learn --help",
        description="Train a compiled artefact. (A folder of a command's name: ./predict)",
    )
    add_artifact_and_data(p)
    p.add_argument("--steps", type=count, required=True, help="how many steps to take")
    p.add_argument("--lr", type=float, help="learning rate; the artefact's own by default")
    p.add_argument("--eval", type=Path, help="data to evaluate on when done, of the same forms")
    p.add_argument(
        "--save", type=Path, help="write a checkpoint here: from time to time, when done, when stopped"
    )
    p.add_argument(
        "--save-every",
        type=save_interval,
        default=SAVE_EVERY,
        metavar="N|Ns",
        help=f"steps, or with an s seconds, between two checkpoints (default: {SAVE_EVERY})",
    )
    p.add_argument("--resume", type=Path, help="continue from this checkpoint")
    p.add_argument(
        "--on-nonfinite", choices=get_args(OnNonfinite), default="error",
        help="a step whose batch, loss or update is NaN or infinite changes nothing: stop there (default) "
        "and keep the state before it in --save, or skip it",
    )  # fmt: skip
    p.add_argument("--every", type=count, default=10, help="steps between two lines of output (default: 10)")
    add_common_options(p)
    return p


def save_interval(text: str) -> str:
    """`500` (steps) or `60s` (seconds).

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    number = text.removesuffix("s")
    if not (number.isascii() and number.isdigit() and 0 < int(number[:20]) <= MOST):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is neither steps (500) nor seconds (60s)")
    return text


def _train(
    trainer: Trainer, data: Data, options: argparse.Namespace, stop: StopRequest, saving: Saving
) -> None:
    losses: list[float] = []
    times: list[float] = []
    for done in range(1, options.steps + 1):
        if stop.requested:
            return
        # The step number picks the batch, so a resumed run sees the data a longer run would have seen.
        result = trainer.step(data.batch(trainer.steps), options.lr)
        if not result.skipped:
            losses.append(result.loss)
        times.append(result.duration_ms)
        if done % options.every == 0 or done == options.steps or stop.requested:
            mean = statistics.fmean(losses) if losses else None  # all of these were skipped
            report = {"loss": mean, "step_ms": statistics.median(times)}
            print_report({"event": "step", "step": trainer.steps, **report}, _line, options.json, stop)
            losses, times = [], []
        if not stop.requested and done < options.steps:
            saving.after_step()


def _line(report: dict[str, Any]) -> str:
    if report["event"] == "step":
        speed = f"{report['step_ms']:.1f} ms a step"
        loss = "no finite loss" if report["loss"] is None else f"loss {report['loss']:.4f}"
        return f"step {report['step']}: {loss}, {speed}"
    skipped = report.get("skipped")
    parts = [f"{report['step']} steps" + (f" ({skipped} skipped)" if skipped else "")]
    if "metric" in report:
        parts.append(f"metric {report['metric']:.4f} on {report['samples']} samples")
    parts += peak_memory(report)
    if "checkpoint" in report:
        parts.append(f"saved to {report['checkpoint']}")
    return "done: " + ", ".join(parts)
