"""`python -m pockgraph.runtime learn out/ --folder learner/ --data new.npz`: a learner from the shell.

It takes samples in, and trains for some rounds at once, or within a budget until it is stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import LearnerError
from ..files import resolved
from .command_line import DATA_HELP, add_common_options, count, print_report
from .data.opening import training_data
from .data.source import Data
from .learner.budget import LearnerBudget
from .learner.database import Database
from .learner.journal import Event, events
from .learner.learner import FILE, Learner
from .learner.settings import LearnerSettings
from .signals import StopRequest

NAME = "learn"
ASK_S = 0.2  # between two looks at what the background has done


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    d = LearnerSettings()
    p = argparse.ArgumentParser(
        prog=f"python -m pockgraph.runtime {NAME}",
        usage="%(prog)s ARTIFACT --folder FOLDER [--data DATA] [options], see --help\n"
        "       %(prog)s --folder FOLDER --journal",
        description="Keep learning from samples that come one by one. Weights answer (predict --checkpoint) "
        "once they are promoted: where the metric on held-out samples does not fall.",
    )
    p.add_argument("artifact", type=Path, nargs="?", help="the folder that pockgraph.compile wrote")
    p.add_argument("--folder", type=Path, required=True, help="what the learner keeps; made if need be")
    p.add_argument("--data", type=Path, help=f"new samples: {DATA_HELP}")
    p.add_argument("--rounds", type=count, help="train for so many rounds at once, without a budget")
    p.add_argument("--background", action="store_true", help="train within the budget, until it is stopped")
    p.add_argument("--duty", type=float, help="the largest share of the time (default: 0.1)")
    p.add_argument("--ms-per-minute", type=float, help="the same in milliseconds of each minute")
    p.add_argument("--lr", type=float, help="learning rate; the artefact's own by default")
    p.add_argument(
        "--steps", type=count, default=d.round_steps, help=f"between two judgements ({d.round_steps})"
    )
    p.add_argument("--max-samples", type=count, default=d.max_samples, help=f"kept ({d.max_samples})")
    p.add_argument("--max-mb", type=count, help="megabytes of the samples' arrays together")
    p.add_argument("--label", help="the entry that is a sample's class; else the only single integer")
    p.add_argument("--held-out", type=float, help="the share that is never trained on (0.2)")
    p.add_argument("--delete", metavar="KEY", action="append", default=[], help="delete a sample")
    p.add_argument("--revert", metavar="N", type=int, help="answer with generation N again (0: as compiled)")
    p.add_argument("--save", type=Path, help="write the promoted weights as a checkpoint here")
    p.add_argument("--journal", action="store_true", help="print what happened, and do nothing else")
    p.add_argument("--last", type=count, default=100, help="how many events of the journal (default: 100)")
    add_common_options(p)
    return p


def run(options: argparse.Namespace, stop: StopRequest) -> None:
    """Take samples in, train, report.

    Raises:
        PockError: the artefact, the folder or the data is none, or cannot be written.
    """
    if options.journal:
        _print_journal(options, stop)
        return
    if options.artifact is None:
        raise LearnerError("Name the artefact that is to learn: the folder that pockgraph.compile wrote.")
    held_bytes = None if options.max_mb is None else options.max_mb * 1_000_000
    settings = LearnerSettings(
        label=options.label,
        max_samples=options.max_samples,
        max_bytes=held_bytes,
        held_out_ratio=options.held_out,
        lr=options.lr,
        round_steps=options.steps,
    )
    budget = LearnerBudget(0.1 if options.duty is None else options.duty, options.ms_per_minute)
    with Learner.open(
        options.artifact,
        options.folder,
        settings,
        budget,
        device=options.device,
        threads=options.threads,
        allow_native_code=options.allow_native_code,
    ) as learner:
        _change(learner, options, stop)
        _train(learner, options, stop)
        report: dict[str, Any] = {"event": "done", **learner.status()}
        if options.save:
            report["checkpoint"] = str(learner.save(options.save))
        print_report(report, _line, options.json, stop)


def _change(learner: Learner, options: argparse.Namespace, stop: StopRequest) -> None:
    """What is to be done before anything is trained."""
    for key in options.delete:
        if not learner.delete(key):
            raise LearnerError(f"{learner.folder} keeps no sample of key {key!r}.")
    if options.revert is not None:
        learner.revert(options.revert)
    if options.data:
        for sample in _samples(training_data(options.data, learner.manifest)):
            if stop.requested:
                return
            learner.add(sample)


def _samples(data: Data) -> Iterator[dict[str, Any]]:
    if data.whole:
        raise LearnerError(
            f"Batches of this artefact share {', '.join(map(repr, data.whole))}, which this command cannot "
            "pass on. Use pockgraph.runtime.Learner, with LearnerSettings(shared=…)."
        )
    yield from data.each()


def _train(learner: Learner, options: argparse.Namespace, stop: StopRequest) -> None:
    seen = max((e.number for e in learner.journal(1)), default=0)
    if options.background:
        learner.start()
        while not stop.requested:
            seen = _print_news(learner, seen, options, stop)
            time.sleep(ASK_S)
        learner.stop()
        _print_news(learner, seen, options, stop)
        return
    for _ in range(options.rounds or 0):
        if stop.requested or learner.learn() == ["waiting"]:
            break
        seen = _print_news(learner, seen, options, stop)


def _print_news(learner: Learner, seen: int, options: argparse.Namespace, stop: StopRequest) -> int:
    """Print what happened since event `seen`; the number of the last one."""
    for event in learner.journal(1000):
        if event.number > seen and not stop.requested:
            print_report(_report(event), _event_line, options.json, stop)
        seen = max(seen, event.number)
    return seen


def _print_journal(options: argparse.Namespace, stop: StopRequest) -> None:
    path = resolved(options.folder) / FILE
    if not path.is_file():
        raise LearnerError(f"There is no learner in {options.folder}: it has no {FILE}. Check the path.")
    database = Database(path, read_only=True)
    try:
        for event in events(database, options.last):
            print_report(_report(event), _event_line, options.json, stop)
            if stop.requested:
                return
    finally:
        database.close()


def _report(event: Event) -> dict[str, Any]:
    named = {} if event.key is None else {"key": event.key}
    return {"event": event.kind, "number": event.number, "at": event.at} | named | event.facts


def _event_line(report: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report["at"]))
    figures = [
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in report.items()
        if name not in ("event", "number", "at")
    ]
    return f"{report['number']} {when} {report['event']}" + (f": {', '.join(figures)}" if figures else "")


def _line(report: dict[str, Any]) -> str:
    metric = "" if report["metric"] is None else f", metric {report['metric']:.4f} when it was promoted"
    parts = [
        f"generation {report['generation']} answers (step {report['step']}{metric})",
        f"{report['training_samples']} samples to train on, {report['held_out_samples']} held out",
    ]
    if "checkpoint" in report:
        parts.append(f"saved to {report['checkpoint']}")
    return "done: " + ", ".join(parts)
