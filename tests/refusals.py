"""What a refusal must be, and a good task to spoil."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import models
import pytest
import torch.nn.functional as F

import pockgraph as pg
from pockgraph.errors import PockError


def refused(kind: type[PockError], act: Callable[[], object], *says: str) -> str:
    """The message of the error that `act` raises: one paragraph, with everything in `says`."""
    with pytest.raises(kind) as caught:
        act()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message.strip(), "one paragraph"
    assert 40 <= len(message) <= 700, message
    assert message.rstrip()[-1] in ".?", message
    for part in says:
        assert part in message, f"{part!r} is not in: {message}"
    return message


def task_of(**changes: Any) -> pg.Task:
    """A good task, but for `changes`."""
    good: dict[str, Any] = {
        "name": "bad",
        "model": models.randomised(models.MLP()),
        "loss": lambda net, b: F.cross_entropy(net(b["x"]), b["y"]),
        "metric": lambda net, b: (net(b["x"]).argmax(1) == b["y"]).float(),
        "train": models.vectors(),
        "eval": models.vectors(),
    }
    return pg.Task(**(good | changes))
