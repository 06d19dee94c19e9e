"""`python -m pockgraph.runtime out/ --data data.npz --steps 50`: train an artefact from the shell.

Exit status: 0 done; 2 bad input or training diverged (one paragraph on stderr); 70 a bug of pockgraph;
128 + a signal that stopped it: 130 Ctrl-C, 143 TERM, 129 HUP, 141 nobody reads the output any more. A
second signal stops at once. `--debug` shows the traceback of an error.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import sys
import time
import traceback
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np

from ..errors import BatchError, NonFiniteLoss, PockError, reason
from ..files import open_regular, require_working_folder, resolved, sweep
from ..foreign_exceptions import explain
from ..standard_streams import drop_output, settle_streams
from .checkpoint import require_replaceable
from .manifest import Manifest, describe
from .options import OnNonfinite
from .process_memory import peak_resident_bytes
from .signals import StopRequest, stop_on_signal
from .trainer import Trainer

SAVE_EVERY = "60s"
MOST = 2**31 - 1  # of steps, threads, and steps between two reports
_format = np.lib.format


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, report; returns the exit status."""
    settle_streams("backslashreplace")  # names of files may be no text
    options = _parser().parse_args(argv)
    with stop_on_signal() as stop:
        try:
            _run(options, stop)
        except Exception as e:
            if options.debug:
                traceback.print_exc()
            text, status = explain(e, "--debug")
            print(f"error: {text}", file=sys.stderr)
            return status
        return stop.status


def _run(options: argparse.Namespace, stop: StopRequest) -> None:
    require_working_folder()
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
        data = Data.load(options.data, trainer.manifest)
        held_out = Data.load(options.eval, trainer.manifest) if options.eval else None
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
        _print(report, options.json, stop)


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
        usage="%(prog)s ARTIFACT --data FILE --steps N [options], see --help",
        description="Train a compiled artefact.",
    )
    p.add_argument("artifact", type=Path, help="the folder that pockgraph.compile wrote")
    p.add_argument("--data", type=Path, required=True, help="npz with one array [N, ...] per batch entry")
    p.add_argument("--steps", type=_count, required=True, help="how many steps to take")
    p.add_argument("--lr", type=float, help="learning rate; the artefact's own by default")
    p.add_argument("--eval", type=Path, help="npz to evaluate on when done")
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
    p.add_argument("--device", default="CPU", help="device name of the artefact's target (default: CPU)")
    p.add_argument("--threads", type=_count, help="CPU threads; by default all cores")
    p.add_argument(
        "--allow-native-code", action="store_true", help="run an artefact's machine code: trust its author"
    )
    p.add_argument(
        "--on-nonfinite", choices=get_args(OnNonfinite), default="error",
        help="a step whose batch, loss or update is NaN or infinite changes nothing: stop there (default) "
        "and keep the state before it in --save, or skip it",
    )  # fmt: skip
    p.add_argument("--every", type=_count, default=10, help="steps between two lines of output (default: 10)")
    p.add_argument("--json", action="store_true", help="print one JSON object a line")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
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


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < (value := int(text[:20])) <= MOST):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no whole number from 1 to {MOST}")
    return value


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
            _print({"event": "step", "step": trainer.steps, **report}, options.json, stop)
            losses, times = [], []
        if not stop.requested and done < options.steps:
            saving.after_step()


class Data:
    """Arrays `[N, ...]` by batch entry, read in fixed batches, from the start again at the end.

    An entry that has no samples (its first dimension is not the batch's) goes whole into every batch.
    """

    def __init__(self, arrays: dict[str, np.ndarray], whole: dict[str, np.ndarray], batch_size: int) -> None:
        self.arrays, self.whole, self.batch_size = arrays, whole, batch_size
        self.samples = len(next(iter(arrays.values())))

    @classmethod
    def load(cls, path: Path, manifest: Manifest) -> Data:
        """Read an npz file for the artefact's batches.

        Raises:
            BatchError: not an npz file, an entry is missing, or arrays differ in length.
        """
        holds = f"A batch of task {manifest.task!r} holds {describe(manifest.batch.items())}."
        try:
            with open_regular(path) as opened, _archive(opened) as file:
                missing = [n for n in manifest.batch if n not in file]
                if missing:
                    lacks = ", ".join(map(repr, missing))
                    raise BatchError(f"{path} lacks {lacks}. {holds} The file needs an array for each.")
                _require_true_sizes(file.zip, [f"{n}.npy" for n in manifest.batch])
                arrays = {n: file[n] for n in manifest.batch}
        except (
            OSError, ValueError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError, EOFError,
            KeyError, MemoryError, RuntimeError, SyntaxError,
        ) as e:  # fmt: skip
            raise BatchError(
                f"Cannot read {path} as an npz file: {_unreadable(e)}. Write it with numpy.savez."
            ) from None
        batch_size = manifest.eval.outputs[0].shape[0]
        whole = {n: arrays.pop(n) for n, spec in manifest.batch.items() if spec.shape[:1] != (batch_size,)}
        lengths = {n: len(a) if a.ndim else 0 for n, a in arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise BatchError(
                f"The arrays of {path} need one common number of samples, not {lengths}. {holds}"
            )
        return cls(arrays, whole, batch_size)

    def batch(self, number: int) -> dict[str, np.ndarray]:
        start = number * self.batch_size % self.samples
        if start + self.batch_size <= self.samples:
            return self._cut(slice(start, start + self.batch_size))
        return self._cut(np.arange(start, start + self.batch_size) % self.samples)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """All samples once; the last batch may be smaller."""
        for start in range(0, self.samples, self.batch_size):
            yield self._cut(slice(start, start + self.batch_size))

    def _cut(self, samples: slice | np.ndarray) -> dict[str, np.ndarray]:
        return {n: a[samples] for n, a in self.arrays.items()} | self.whole


def _archive(opened: BinaryIO) -> Any:
    if opened.read(2) != b"PK":  # numpy would take it for a pickle, and advise to trust it
        raise ValueError("it is another kind of file")
    opened.seek(0)
    return np.load(opened, allow_pickle=False)


def _unreadable(error: Exception) -> str:
    if "allow_pickle" in str(error):
        return "it holds Python objects instead of numbers"
    return "there is not enough memory" if isinstance(error, MemoryError) else reason(error)


def _require_true_sizes(archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Refuse arrays whose header claims another size than is stored, before memory is taken for them.

    Raises:
        ValueError: naming the array.
    """
    for name in set(names) & set(archive.namelist()):
        with archive.open(name) as f:
            version = _format.read_magic(f)
            one = version == (1, 0)
            shape, _, dtype = (_format.read_array_header_1_0 if one else _format.read_array_header_2_0)(f)
            claimed, stored = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - f.tell()
        if claimed != stored and not dtype.hasobject:
            raise ValueError(f"{name} claims {claimed} bytes and holds {stored}")


def _print(report: dict[str, Any], as_json: bool, stop: StopRequest) -> None:
    try:
        print(json.dumps(report) if as_json else _line(report), flush=True)
    except BrokenPipeError:  # as in `… | head -1`: end as after a signal, with what was learnt saved
        drop_output()
        stop.signal = signal.SIGPIPE


def _line(report: dict[str, Any]) -> str:
    if report["event"] == "step":
        speed = f"{report['step_ms']:.1f} ms a step"
        loss = "no finite loss" if report["loss"] is None else f"loss {report['loss']:.4f}"
        return f"step {report['step']}: {loss}, {speed}"
    skipped = report.get("skipped")
    parts = [f"{report['step']} steps" + (f" ({skipped} skipped)" if skipped else "")]
    if "metric" in report:
        parts.append(f"metric {report['metric']:.4f} on {report['samples']} samples")
    if report.get("peak_rss_bytes"):
        parts.append(f"peak memory of the process {report['peak_rss_bytes'] / 1e6:.0f} MB")
    if "checkpoint" in report:
        parts.append(f"saved to {report['checkpoint']}")
    return "done: " + ", ".join(parts)
