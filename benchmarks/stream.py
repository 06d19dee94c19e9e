"""A learner on a real stream: a smartwatch that changes arms, then goes from person to person.

    python -m benchmarks.evidence.fetch watch      # once: the recordings, from a package registry
    python benchmarks/stream.py measure            # minutes; what is there is not measured again
    python benchmarks/stream.py report             # writes docs/results/stream.md

A network that learnt seven shoulder exercises from the left arms of five people sees 2,000 windows of right
arms in order: person by person, those of one person shuffled. Each window is first answered, then given to
the learner with its label; every 50 windows the learner trains one round.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT)]

import pockgraph as pg  # noqa: E402
from benchmarks.evidence import log, sensors  # noqa: E402
from pockgraph.machine import machine  # noqa: E402
from pockgraph.runtime import Learner, LearnerSettings, Trainer  # noqa: E402
from pockui.demo.data import cached  # noqa: E402

LOG = ROOT / "out" / "stream.jsonl"
PAGE = ROOT / "docs" / "results" / "stream.md"
SAMPLES, EVERY, SEEDS = 2000, 50, (0, 1)
LR, STEPS = 0.01, 25
PEOPLE = tuple(range(1, 11))
UNSEEN = (6, 7, 8, 9, 10)  # whose left arms the network did not learn from
PLANS: dict[str, Callable[[Any], pg.Plan]] = {
    "head": pg.Plan.head, "preset": pg.Plan.preset, "full": pg.Plan.full, "begun": pg.Plan.full
}  # fmt: skip
METHODS = {
    "frozen": "Frozen: answers only",
    "head": "Learner, head only",
    "preset": "Learner, the paper's preset",
    "full": "Learner, everything",
    "begun": "Learner, everything; begun with 500 left-arm windows, room for 2,000",
    "plain": "No learner: each window trained on once, everything",
}
Answer = Callable[[np.ndarray], np.ndarray]  # x [N, 6, T] -> logits [N, 7]


def stream(seed: int) -> list[tuple[int, np.ndarray, int]]:
    """(person, x, y) of the right arms, in order."""
    windows, draw = _windows(), np.random.default_rng(seed)
    found = []
    for person in PEOPLE:
        rows = np.flatnonzero((windows["side"] == sensors.RIGHT) & (windows["person"] == person))
        found += [(person, windows["x"][i], int(windows["y"][i])) for i in draw.permutation(rows)]
    return found[:SAMPLES]


def _windows() -> dict[str, np.ndarray]:
    return cached(f"evidence-watch-{sensors.WINDOW}-1", sensors._windows)


def old_domain() -> tuple[np.ndarray, np.ndarray]:
    """x and y of left arms that the network never saw."""
    windows = _windows()
    rows = (windows["side"] == sensors.LEFT) & np.isin(windows["person"], UNSEEN)
    return windows["x"][rows], windows["y"][rows].astype(np.int64)


def known(seed: int) -> list[tuple[np.ndarray, int]]:
    """500 of the windows that the network learnt from."""
    windows, draw = _windows(), np.random.default_rng(seed)
    rows = (windows["side"] == sensors.LEFT) & ~np.isin(windows["person"], UNSEEN)
    return [(windows["x"][i], int(windows["y"][i])) for i in draw.permutation(np.flatnonzero(rows))[:500]]


def compiled(method: str, folder: Path) -> Path:
    """The artefact of a method."""
    task = dataclasses.replace(sensors.watch(), predict=lambda model, batch: model(batch["x"]))
    graph = pg.build(task, optimizer=pg.SGD(lr=LR, momentum=0.9))
    plan = PLANS.get(method, pg.Plan.full)(graph)
    return pg.compile(graph, plan, target="openvino", out=folder).path


def measure(method: str, seed: int) -> dict[str, Any]:
    """One method on one order of the stream."""
    with tempfile.TemporaryDirectory() as scratch:
        artifact = compiled(method, Path(scratch) / "artifact")
        if method in PLANS:
            return _with_learner(artifact, Path(scratch) / "learner", seed, begun=method == "begun")
        return _plain(artifact, seed, learns=method == "plain")


def _with_learner(artifact: Path, folder: Path, seed: int, begun: bool) -> dict[str, Any]:
    settings = LearnerSettings(max_samples=2000 if begun else 500, round_steps=STEPS, lr=LR)
    with Learner.open(artifact, folder, settings, threads=1, seed=seed) as learner:
        answer: Answer = lambda x: np.asarray(learner.predict({"x": x}))  # noqa: E731
        before, right, training_s = _old(answer), [], 0.0
        if begun:
            for x, y in known(seed):
                learner.add({"x": x, "y": y})
        for number, (_, x, y) in enumerate(stream(seed), 1):
            right.append(bool(answer(x[None]).argmax() == y))
            learner.add({"x": x, "y": y}, key=f"{number}")
            if number % EVERY == 0:
                start = time.perf_counter()
                learner.learn()
                training_s += time.perf_counter() - start
        kinds = [e.kind for e in learner.journal(10_000)]
        return {
            "right": right, "before": before, "after": _old(answer), "training_s": training_s,
            "steps": STEPS * kinds.count("trained"), "promoted": kinds.count("promoted"),
            "rolled_back": kinds.count("rolled back"), "drift": kinds.count("drift"),
            "folder_bytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
        }  # fmt: skip


def _plain(artifact: Path, seed: int, learns: bool) -> dict[str, Any]:
    """Nothing is kept: eight windows are one batch, and gone."""
    with Trainer.load(artifact, threads=1, seed=seed) as trainer:
        answer: Answer = lambda x: np.asarray(trainer.predict({"x": x}))  # noqa: E731
        before, right, training_s = _old(answer), [], 0.0
        seen = stream(seed)
        for number, (_, x, y) in enumerate(seen, 1):
            right.append(bool(answer(x[None]).argmax() == y))
            if learns and number % sensors.BATCH == 0:
                some = seen[number - sensors.BATCH : number]
                batch = {"x": np.stack([s[1] for s in some]), "y": np.array([s[2] for s in some])}
                training_s += trainer.step(batch, LR).duration_ms / 1e3
        return {
            "right": right, "before": before, "after": _old(answer), "training_s": training_s,
            "steps": trainer.steps,
        }  # fmt: skip


def _old(answer: Answer) -> float:
    x, y = old_domain()
    return float((answer(x).argmax(1) == y).mean())


# ---------------------------------------------------------------- the page


def report(rows: list[log.Row]) -> str:
    """What was measured, as a page."""
    by_method = {m: [r for r in rows if r["method"] == m] for m in METHODS}
    people = [person for person, _, _ in stream(0)]
    host = machine()
    parts = [
        "# A learner on a stream",
        "`python benchmarks/stream.py measure`, then `report`, write this page; `python -m "
        "benchmarks.evidence.fetch watch` fetches the recordings (D. Burns et al., arXiv 1802.01489, with "
        f"seglearn). {host['cpu']}, one thread; OpenVINO; {len(by_method['frozen'])} orders of the stream, "
        "mean ± sample standard deviation.",
        "A small residual network learnt seven shoulder exercises from a watch on the left arms of five "
        f"people. On the device the watch is on the right arm: {SAMPLES:,} windows of two seconds, person by "
        "person, those of one person shuffled. Each window is answered first, and counts as right or wrong; "
        f"then its label is known. Every {EVERY} windows the learner takes one round (up to three times "
        f"{STEPS} steps of eight, see docs/learning.md). The store holds at most 500 windows, a fifth of "
        f"them held out. The learning rate is {LR} everywhere, and was not tuned. Where it was begun with "
        "left-arm windows, these are some of those that the network had learnt from.",
        "Accuracy on what arrives, in per cent; people 1 to 5 are those whose left arms are known:",
        _over_time(by_method, people),
        "What was known before: left arms of people 6 to 10, whom the network never saw; and what learning "
        "took:",
        _totals(by_method),
        "Windows overlap by half, so that a held-out window resembles some that are trained on: the "
        "learner's own metric is kinder than the accuracy above, which only counts windows before they are "
        "known. Training without a learner takes far fewer steps, and takes each eight windows in at once "
        "where a learner waits for the fifty: it is the plain loop, not a method with the same work. Nothing "
        "guards it: it answers with whatever the last step left. Seconds are those of a machine that did "
        "other things meanwhile.",
        "That a rise by the noise is asked for with few held-out windows only was decided after a first run "
        "on one of these orders, in which it was always asked for: head only then reached 68.3 %, the preset "
        "75.2 %, everything 80.3 %, and two of three rounds were rolled back.",
    ]
    return "\n\n".join(parts) + "\n"


def _over_time(by_method: dict[str, list[log.Row]], people: list[int]) -> str:
    present = sorted(set(people))
    lines = [
        f"| | {' | '.join(f'person {p}' for p in present)} | all |",
        f"| --- |{' --: |' * (len(present) + 1)}",
    ]
    for method, rows in by_method.items():
        cells = []
        for person in present:
            chosen = np.array(people) == person
            cells.append(f"{100 * np.mean([np.array(r['right'])[chosen].mean() for r in rows]):.0f}")
        every = [100 * float(np.mean(r["right"])) for r in rows]
        lines.append(f"| {METHODS[method]} | {' | '.join(cells)} | {_spread(every)} |")
    return "\n".join(lines)


def _totals(by_method: dict[str, list[log.Row]]) -> str:
    lines = [
        "| | left arms before | after | steps | promoted | rolled back | drift | training | on disk |",
        "| --- |" + " --: |" * 8,
    ]
    for method, rows in by_method.items():
        counts = [
            f"{statistics.fmean(r[key] for r in rows):.0f}" if key in rows[0] else "–"
            for key in ("steps", "promoted", "rolled_back", "drift")
        ]
        disk = f"{np.mean([r['folder_bytes'] for r in rows]) / 1e6:.1f} MB" if method in PLANS else "–"
        lines.append(
            f"| {METHODS[method]} | {_spread([100 * r['before'] for r in rows])} | "
            f"{_spread([100 * r['after'] for r in rows])} | {' | '.join(counts)} | "
            f"{statistics.fmean(r['training_s'] for r in rows):.0f} s | {disk} |"
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(set(values)) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("measure", "report"))
    if p.parse_args().what == "report":
        PAGE.write_text(report(log.read(LOG)), encoding="utf-8")
        return
    with log.opened(LOG) as kept:
        for seed in SEEDS:
            for method in METHODS:
                if not kept.find(method=method, seed=seed):
                    row = kept.add(method=method, seed=seed, **measure(method, seed))
                    print(method, seed, f"{np.mean(row['right']):.3f}, {row['after']:.3f}", flush=True)


if __name__ == "__main__":
    main()
