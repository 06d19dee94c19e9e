"""Which learning rate a run has: the best of a grid, and of rates further out where that lies at an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .results import Trial

FURTHER = 3  # rates that are tried beyond the grid, at most


def tune(measure: Callable[[float], float | None], grid: Sequence[float]) -> list[Trial]:
    """Try every rate of a grid, then rates beyond the end at which the best one lies.

    Args:
        measure: rate -> the validation metric of a run with it, higher is better; None where it diverged.
        grid: two rates or more, in ascending order.

    Returns:
        What was tried, in ascending order: at most `FURTHER` more than the grid has.
    """
    trials = [Trial(lr=lr, metric=measure(lr)) for lr in grid]
    while len(trials) < len(grid) + FURTHER and (lr := _further(trials)) is not None:
        trials = sorted([*trials, Trial(lr=lr, metric=measure(lr))], key=lambda trial: trial.lr)
    return trials


def choose_rate(trials: Sequence[Trial]) -> float | None:
    """The rate of the best metric, the smaller one of equals; None when all diverged."""
    finished = [(t.metric, -t.lr) for t in trials if t.metric is not None]
    return -max(finished)[1] if finished else None


def lies_at_end(trials: Sequence[Trial], lr: float | None) -> bool:
    """Whether no smaller, or no larger, rate than this one was tried."""
    tried = [trial.lr for trial in trials]
    return lr in (min(tried), max(tried))


def _further(trials: Sequence[Trial]) -> float | None:
    """The next rate beyond the end at which the best one lies, and beats its neighbour; None if it does not.

    It is as far from the end as the end is from its neighbour, in ratio, rounded to one digit.
    """
    best = choose_rate(trials)
    for end, neighbour in ((trials[0], trials[1]), (trials[-1], trials[-2])):
        if end.lr == best and end.metric != neighbour.metric:
            return float(f"{end.lr * end.lr / neighbour.lr:.0e}")
    return None
