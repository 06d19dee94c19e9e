"""The additive prediction of a plan's gain, for shares between the measured ones too."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from pockgraph.contribution import Contribution, Gain


def predicted_gain(contribution: Contribution, choice: Mapping[str, float]) -> float:
    """Sum of the gains of what is chosen: the search's objective (arXiv 2310.17752, section 3).

    Between measured shares the gain is linear, from 0 at a frozen tensor on; a share above the largest
    measured one gains what that one does. Biases count as the last k, for the k that are chosen without
    a gap. What was not measured gains nothing.

    Args:
        choice: FQN -> trained share.
    """
    total = sum(_at(gains, choice[fqn]) for fqn, gains in contribution.weights.items() if choice.get(fqn))
    count = sum(1 for _ in takewhile(choice.get, contribution.bias_order))
    return total + _at(contribution.biases, count)


def _at(gains: Mapping[float, Gain] | Mapping[int, Gain], share: float) -> float:
    before = (0.0, 0.0)
    for point, gain in sorted(gains.items()):
        if point >= share:
            width = point - before[0]
            return (
                gain.mean if not width else before[1] + (share - before[0]) / width * (gain.mean - before[1])
            )
        before = (point, gain.mean)
    return before[1]
