"""What the automatic plan's artefact predicts with what it learnt: of held-out samples, without its step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pockgraph.runtime import Predictor
from pockgraph.task.batch import Batch

from .results import Answer, Answers, Report

SHOWN = 5


def answers(
    artifact: Path, checkpoint: Path, batches: Iterable[Batch], threads: int, names: Sequence[str]
) -> Answers:
    """Predict batches of samples with labels `y`.

    Args:
        names: of the classes; a class without one is called by its number.
    """
    right = samples = 0
    shown: list[Answer] = []
    with Predictor.load(artifact, checkpoint, threads=threads) as predictor:
        for batch in batches:
            found = predictor.predict({n: v.numpy() for n, v in batch.items()})
            assert isinstance(found, np.ndarray)
            labels, best = batch["y"].tolist(), found.argmax(1).tolist()
            right += sum(a == b for a, b in zip(labels, best, strict=True))
            samples += len(labels)
            for label, given, row in list(zip(labels, best, found))[: SHOWN - len(shown)]:
                probability = float(row[given])
                shown.append(
                    Answer(right=_name(label, names), given=_name(given, names), probability=probability)
                )
    return Answers(samples=samples, right=right, first=tuple(shown))


def answers_text(report: Report) -> str:
    """What was predicted, in a sentence or two; empty for a report of an earlier release."""
    if report.answers is None:
        return ""
    found = report.answers
    each = [
        f"{a.right} → {a.given} ({a.probability:.0%})" + ("" if a.right == a.given else " ✗")
        for a in found.first
    ]
    return (
        f"With what it learnt, the automatic plan's artefact predicts {found.right:,} of {found.samples:,} "
        "held-out samples right, loaded without its training step (the last seed's weights). The first "
        f"ones, and with which probability: {', '.join(each)}."
    )


def _name(index: int, names: Sequence[str]) -> str:
    return names[index] if index < len(names) else str(index)
