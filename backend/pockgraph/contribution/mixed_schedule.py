"""A schedule that measures what could change the plan, until the plan settles.

A few candidates, spread over the scores, are measured first: they say what gain a score lets expect. Then, in
rounds: plans are chosen for a few budgets, unmeasured candidates counting with what they may well gain; those
of them that a plan takes are undecided. They are trained for a quarter of the steps, and the better half is
measured (successive halving, Jamieson and Talwalkar 2016), where that is worth its time. When nothing
undecided is left, or the plans of earlier rounds are still as good as the best, what these take is measured
with the other seeds, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median

from .calibration import estimates
from .gains import (
    HEAD,
    Candidate,
    Contribution,
    Gain,
    Measurement,
    Purpose,
    gains_by_seed,
    metrics_by_seed,
)
from .schedule import Request, missing
from .scores import Scores

# The candidates that the plans for a few budgets train, given a table of gains.
Chooser = Callable[[Contribution], frozenset[Candidate]]

FIRST = 8  # candidates that calibrate
ROUND = 6  # candidates that are measured before plans are chosen again
PATIENCE = 3  # rounds in which the plans hardly change
TOLERANCE = 0.02  # of the gain, up to which a plan is as good as another


class MixedSchedule:
    """See the module.

    Args:
        tuning: of the learning rate; none where it is settled.
        candidates: all that may be measured.
        seeds: the first one is that of the short trainings.
        scores: of the candidates.
        choose: which candidates plans take.
        screens: whether a short training is worth its time.
        bias_order, head: as in the table of gains.
    """

    def __init__(
        self,
        tuning: Iterable[Request],
        candidates: Sequence[Candidate],
        seeds: Sequence[int],
        scores: Scores,
        choose: Chooser,
        screens: bool,
        bias_order: Sequence[str] = (),
        head: Sequence[str] = (),
    ) -> None:
        self._candidates, self._seeds, self._scores = candidates, seeds, scores
        self._choose, self._screens = choose, screens
        self._bias_order, self._head = tuple(bias_order), tuple(head)
        heads = [Request("contribution", HEAD, seed) for seed in seeds]
        if screens:
            heads.append(Request("screening", HEAD, seeds[0]))
        self._begin = (tuple(tuning), tuple(heads), tuple(map(self._measured, self._spread())))
        self._plans: list[frozenset[Candidate]] = []

    @property
    def foreseen(self) -> Sequence[Request]:
        return tuple(request for wanted in self._begin for request in wanted)

    def next(self, known: Mapping[Request, Measurement]) -> Sequence[Request]:
        for wanted in self._begin:
            if left := missing(wanted, known):
                return left
        gains = _mean_gains(known)
        out = {r.candidate for r, m in known.items() if m.status in ("diverged", "failed")}
        out |= self._unpromising(known)
        expected = estimates(self._scores, self._candidates, gains)
        open_ = {c: e for c, e in expected.items() if c not in gains and c not in out}
        hopeful = gains | {c: e.mean + e.std for c, e in open_.items()}
        undecided = [c for c in self._choose(self._table(hopeful, known)) if c in open_]
        undecided = sorted(undecided, key=lambda c: (-expected[c].mean, c.fqn, c.ratio, c.k))[:ROUND]
        if self._screens:
            short = [Request("screening", c, self._seeds[0]) for c in undecided]
            if left := missing(short, known):
                return left
        likely = gains | {c: e.mean for c, e in open_.items()}
        plans = self._choose(self._table(likely, known))
        settled = len(self._plans) >= PATIENCE and all(
            _total(before, likely) >= (1 - TOLERANCE) * _total(plans, likely)
            for before in self._plans[-PATIENCE:]
        )
        self._plans.append(plans)
        if undecided and not settled:
            return [self._measured(c) for c in undecided]
        kept = sorted(plans & gains.keys(), key=lambda c: (c.fqn, c.ratio, c.k))
        return missing([Request("contribution", c, s) for c in kept for s in self._seeds], known)

    def _measured(self, candidate: Candidate) -> Request:
        return Request("contribution", candidate, self._seeds[0])

    def _spread(self) -> list[Candidate]:
        """Candidates whose scores are spread over all."""
        whole: dict[str, Candidate] = {}
        for c in sorted(self._candidates, key=lambda c: c.ratio):
            if c.kind == "weight":
                whole[c.fqn] = c  # the largest ratio
        rank = {c: s.update for c in whole.values() if (s := self._scores.of(c)) is not None}
        order = sorted(rank, key=rank.__getitem__, reverse=True)
        count = min(FIRST, len(order))
        return [order[round(i * (len(order) - 1) / max(1, count - 1))] for i in range(count)]

    def _unpromising(self, known: Mapping[Request, Measurement]) -> set[Candidate]:
        """What gained less than half of the others in a short training."""
        short = _mean_gains(known, "screening")
        middle = median(short.values()) if short else 0.0
        return {c for c, gain in short.items() if gain < middle}

    def _table(self, gains: Mapping[Candidate, float], known: Mapping[Request, Measurement]) -> Contribution:
        heads = [known[Request("contribution", HEAD, s)].metric for s in self._seeds]
        baseline = Gain.of(h for h in heads if h is not None)
        order = sorted(gains, key=lambda c: (c.fqn, c.ratio, c.k))
        return Contribution.of(
            baseline, {c: Gain.of([gains[c]]) for c in order}, self._bias_order, self._head
        )


def _mean_gains(
    known: Mapping[Request, Measurement], purpose: Purpose = "contribution"
) -> dict[Candidate, float]:
    """Mean gain over the seeds that were taken."""
    taken = [m for r, m in known.items() if r.purpose == purpose]
    return {c: fmean(over.values()) for c, over in gains_by_seed(metrics_by_seed(taken)).items()}


def _total(plans: Iterable[Candidate], gains: Mapping[Candidate, float]) -> float:
    """The sum of gains; of what was dropped, none."""
    return sum(gains.get(c, 0.0) for c in plans)
