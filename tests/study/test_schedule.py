"""What an analysis measures next, given its results."""

from __future__ import annotations

from pockgraph.contribution.gains import HEAD, Candidate, Measurement
from pockgraph.contribution.schedule import FullSchedule, Request

WEIGHTS = [Candidate("weight", name, 1.0) for name in ("last", "middle", "first")]


def result(request: Request, metric: float | None = 0.5, status: str = "done") -> Measurement:
    lr = request.tried_lr or 0.1
    return Measurement(
        0, request.purpose, request.candidate, request.seed, status, lr, 4, "torch", metric, 0.0, 0.0, 0.0, ""
    )  # pyright: ignore


def test_everything_is_measured_rates_first_then_the_head_then_candidates_in_order() -> None:
    rates = [Request("tuning", HEAD, 0, rate) for rate in (0.1, 1.0)]
    schedule = FullSchedule(rates, WEIGHTS, (0, 1))
    known, rounds = {}, []
    while wanted := schedule.next(known):
        rounds.append(wanted)
        known |= {r: result(r) for r in wanted}
    assert [len(r) for r in rounds] == [2, 2, 6]
    assert [r for wanted in rounds for r in wanted] == list(schedule.foreseen)
    assert {r.candidate for r in rounds[1]} == {HEAD}
    assert [r.candidate for r in rounds[2][::2]] == WEIGHTS


def test_what_is_known_is_not_asked_for_again_and_neither_is_a_failure() -> None:
    schedule = FullSchedule((), WEIGHTS, (0,))
    wanted = schedule.foreseen
    known = {r: result(r) for r in wanted[:2]} | {wanted[2]: result(wanted[2], None, "failed")}
    known[wanted[3]] = result(wanted[3], None, "planned")
    assert schedule.next(known) == [wanted[3]]
    assert not schedule.next(known | {wanted[3]: result(wanted[3])})
