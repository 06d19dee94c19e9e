"""The plainest user: a small network, a few batches, every target."""

from __future__ import annotations

from users import assert_as_eager, batches, mlp, task


def test_a_small_network_trains_as_in_eager_pytorch(target: str) -> None:
    assert_as_eager(task(mlp(), batches(8, 12)), target)
