"""What an analysis measures next, given what it has measured; how that is done is `analysis.py`'s.

Pure values, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .gains import HEAD, Candidate, Measurement, Purpose


@dataclass(frozen=True)
class Request:
    """One measurement that is wanted.

    Attributes:
        tried_lr: while the rate is tuned; otherwise 0, and the analysis's rate is used.
    """

    purpose: Purpose
    candidate: Candidate
    seed: int
    tried_lr: float = 0.0


class Schedule(Protocol):
    """Chooses, in rounds, what is measured."""

    @property
    def foreseen(self) -> Sequence[Request]:
        """What is wanted whatever the results, in order."""
        ...

    def next(self, known: Mapping[Request, Measurement]) -> Sequence[Request]:
        """The next round: nothing in it waits for a result of the others, and it is best taken in order.

        Args:
            known: of everything asked for so far; one that failed is not asked for again.

        Returns:
            Empty: nothing more is wanted.
        """
        ...


class FullSchedule:
    """Learning rates, then the head alone, then every candidate with every seed."""

    def __init__(
        self, tuning: Iterable[Request], candidates: Iterable[Candidate], seeds: Iterable[int]
    ) -> None:
        """
        Args:
            tuning: of the learning rate; none where it is settled.
            candidates: in the order in which they are measured.
        """
        every = tuple(seeds)
        self._rounds = (
            tuple(tuning),
            tuple(Request("contribution", HEAD, seed) for seed in every),
            tuple(Request("contribution", c, seed) for c in candidates for seed in every),
        )

    @property
    def foreseen(self) -> Sequence[Request]:
        return tuple(request for wanted in self._rounds for request in wanted)

    def next(self, known: Mapping[Request, Measurement]) -> Sequence[Request]:
        rounds = (missing(wanted, known) for wanted in self._rounds)
        return next(filter(None, rounds), [])


def missing(wanted: Iterable[Request], known: Mapping[Request, Measurement]) -> list[Request]:
    """Those without a result, not even a failure."""
    return [r for r in wanted if r not in known or known[r].status == "planned"]
