"""What the tests of a learner share: a stream of small samples, and learners that train on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pockgraph.runtime import Learner, LearnerSettings

SETTINGS = LearnerSettings(max_samples=200, round_steps=20, lr=0.03, held_out_ratio=0.3)


def stream(count: int, seed: int = 0, shift: int = 0) -> list[dict[str, Any]]:
    """Samples whose class shows in their mean colour.

    Args:
        shift: by how much each label is turned.
    """
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, count)
    colours = np.array([[2, 0, 0], [0, 2, 0], [0, 0, 2], [-2, -2, 0]], np.float32)
    noise = draw.normal(size=(count, 3, 6, 6)).astype(np.float32)
    return [
        {"x": n + colours[y][:, None, None], "y": np.int64((y + shift) % 4)} for n, y in zip(noise, labels)
    ]


def opened(artifact: Path, folder: Path, settings: LearnerSettings = SETTINGS, **more: Any) -> Learner:
    return Learner.open(artifact, folder, settings, threads=1, **more)


def kinds(learner: Learner) -> list[str]:
    """What happened, but for samples that came."""
    return [e.kind for e in learner.journal(1000) if e.kind != "accepted"]
