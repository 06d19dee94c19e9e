"""The model zoo: every network that is compiled and compared with eager PyTorch, by family."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import models

import pockgraph as pg

# Modules of this folder with `MODELS: dict[str, Callable[[], pg.Task]]`, in the order of the table.
FAMILIES = ("convolutional", "recurrent", "language", "losses")


def families() -> dict[str, dict[str, Callable[[], pg.Task]]]:
    """Family -> model -> what makes its task; the single traits of `models.ZOO` come first."""
    found = {"traits": models.ZOO}
    for name in FAMILIES:
        if importlib.util.find_spec(f"{__name__}.{name}"):
            found[name] = importlib.import_module(f"{__name__}.{name}").MODELS
    names = [model for family in found.values() for model in family]
    assert len(set(names)) == len(names), f"two models share a name: {sorted(names)}"
    return found
