"""Mixed analyses: what could change the plan is measured, nothing twice, and what was left out is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from shapes_task import QUICK, make_shapes, stop_after

from pockgraph.contribution.calibration import estimates
from pockgraph.contribution.gains import HEAD, Candidate, Contribution, Measurement
from pockgraph.contribution.mixed_schedule import FIRST, PATIENCE, ROUND, MixedSchedule
from pockgraph.contribution.schedule import Request
from pockgraph.contribution.scores import Score, Scores
from pockgraph.study import Study

COUNT = 40
WEIGHTS = [Candidate("weight", f"w{i:02}", 1.0) for i in range(COUNT)]
SCORES = Scores({c.fqn: {1.0: Score(0.0, 0.0, float(i))} for i, c in enumerate(WEIGHTS)})


def best(count: int) -> Callable[[Contribution], frozenset[Candidate]]:
    """The plans of a world in which all tensors cost the same, and so many fit."""

    def choose(table: Contribution) -> frozenset[Candidate]:
        gains = {fqn: by[1.0].mean for fqn, by in table.weights.items()}
        ranked = sorted(gains, key=gains.__getitem__, reverse=True)[:count]
        return frozenset(Candidate("weight", fqn, 1.0) for fqn in ranked if gains[fqn] > 0)

    return choose


def run(
    gain: Callable[[Candidate], float], seeds: tuple[int, ...] = (0,), screens: bool = False, fits: int = 6
) -> tuple[list[Request], dict[Request, Measurement]]:
    """What is asked for, in order, where candidates gain so much."""
    schedule = MixedSchedule((), WEIGHTS, seeds, SCORES, best(fits), screens)
    known: dict[Request, Measurement] = {}
    asked = []
    while wanted := schedule.next(known):
        assert not set(wanted) & set(asked), "something was asked for twice"
        asked += wanted
        known |= {r: measured(r, gain) for r in wanted}
        assert len(asked) < 1000
    return asked, known


def measured(r: Request, gain: Callable[[Candidate], float]) -> Measurement:
    metric = 0.5 + (0.0 if r.candidate == HEAD else gain(r.candidate))
    return Measurement(0, r.purpose, r.candidate, r.seed, "done", 0.1, 4, "", metric, 0.0, 0.0, 0.0, "")


def index(c: Candidate) -> int:
    return int(c.fqn[1:])


def test_where_scores_tell_gains_few_are_measured_and_the_best_are_among_them() -> None:
    asked, _ = run(lambda c: index(c) / 100)
    taken = {r.candidate for r in asked}
    assert set(WEIGHTS[-6:]) <= taken
    assert len(taken) <= FIRST + 6 + 1
    assert {r.purpose for r in asked} == {"contribution"}


def test_where_scores_tell_nothing_it_ends_all_the_same() -> None:
    asked, _ = run(lambda c: (index(c) * 7919 % COUNT) / 100)
    assert FIRST < len({r.candidate for r in asked} - {HEAD}) <= FIRST + ROUND * (PATIENCE + 4)


def test_the_rate_comes_first_then_the_head_then_a_sample() -> None:
    rates = [Request("tuning", c, 0, rate) for rate in (0.1, 1.0) for c in (HEAD, WEIGHTS[20])]
    schedule = MixedSchedule(rates, WEIGHTS, (0, 1), SCORES, best(6), False)
    known: dict[Request, Measurement] = {}
    rounds = []
    for _ in range(3):
        rounds.append(schedule.next(known))
        known |= {r: measured(r, lambda c: index(c) / 100) for r in rounds[-1]}
    assert rounds[0] == rates
    assert rounds[1] == [Request("contribution", HEAD, seed) for seed in (0, 1)]
    assert {rounds[2][0].candidate, rounds[2][-1].candidate} == {WEIGHTS[0], WEIGHTS[-1]}


def test_where_nothing_gains_hardly_anything_is_measured() -> None:
    asked, _ = run(lambda c: -0.01)
    assert len({r.candidate for r in asked} - {HEAD}) == FIRST


def test_a_surprising_gain_is_found_when_the_scores_let_hope_for_it() -> None:
    asked, _ = run(lambda c: 0.5 if index(c) == 37 else index(c) / 100)
    assert WEIGHTS[37] in {r.candidate for r in asked}


def test_short_trainings_come_first_and_drop_half() -> None:
    asked, known = run(lambda c: (index(c) * 7919 % COUNT) / 100, screens=True)
    short = [r.candidate for r in asked if r.purpose == "screening" and r.candidate != HEAD]
    whole = {r.candidate for r in asked if r.purpose == "contribution"} - {HEAD}
    after = whole & set(short)
    assert short
    assert 0 < len(after) < len(set(short))
    dropped = [known[Request("screening", c, 0)].metric for c in short if c not in whole]
    assert min(known[Request("screening", c, 0)].metric for c in after) > min(dropped)  # pyright: ignore
    for c in after:
        assert asked.index(Request("screening", c, 0)) < asked.index(Request("contribution", c, 0))


def test_only_what_the_plans_take_is_measured_with_the_other_seeds() -> None:
    asked, _ = run(lambda c: index(c) / 100, seeds=(0, 1, 2))
    more = {r.candidate for r in asked if r.seed > 0} - {HEAD}
    assert more == set(WEIGHTS[-6:])
    assert all(Request("contribution", c, s) in asked for c in more for s in (1, 2))


def test_what_diverges_is_not_asked_for_again() -> None:
    schedule = MixedSchedule((), WEIGHTS, (0,), SCORES, best(6), False)
    known: dict[Request, Measurement] = {}
    for _ in itertools.count():
        wanted = schedule.next(known)
        if not wanted:
            break
        for r in wanted:
            assert r not in known
            found = measured(r, lambda c: index(c) / 100)
            if r.candidate == WEIGHTS[-2]:
                found = Measurement(
                    0, r.purpose, r.candidate, 0, "diverged", 0.1, 4, "", None, None, 0.0, 0.0, ""
                )
            known[r] = found
    assert sum(r.candidate == WEIGHTS[-2] for r in known) == 1


def test_an_estimate_rises_with_the_score_or_not_at_all() -> None:
    gains = {WEIGHTS[i]: i / 100 for i in (0, 10, 20, 30)}
    found = estimates(SCORES, WEIGHTS, gains)
    assert found[WEIGHTS[39]].mean == pytest.approx(0.39)
    assert found[WEIGHTS[39]].std == pytest.approx(0.0, abs=1e-12)
    falling = estimates(SCORES, WEIGHTS, {c: -g for c, g in gains.items()})
    unmeasured = [e.mean for c, e in falling.items() if c not in gains]
    assert unmeasured == [pytest.approx(-0.15)] * (COUNT - 4)
    assert falling[WEIGHTS[0]].std > 0.1
    assert estimates(SCORES, WEIGHTS, {WEIGHTS[0]: 1.0}) == {}


def test_what_a_tensor_gained_at_one_ratio_counts_at_the_others() -> None:
    half = Candidate("weight", "w20", 0.5)
    scores = Scores({**SCORES.weights, "w20": {1.0: Score(0.0, 0.0, 20.0), 0.5: Score(0.0, 0.0, 20.5)}})
    gains = {WEIGHTS[i]: i / 100 for i in (0, 10, 30)} | {WEIGHTS[20]: 0.9}
    found = estimates(scores, [*WEIGHTS, half], gains)
    assert found[half].mean > found[WEIGHTS[21]].mean + 0.3
    assert found[half].std < found[WEIGHTS[21]].std


# ---------------------------------------------------------------- in a study

MIXED = {**QUICK, "lr": 0.1, "steps": 8, "mode": "mixed", "batches": 2}


def table(study: Study) -> dict:
    return {(m.purpose, m.candidate, m.seed): (m.status, m.steps, m.metric) for m in study.measurements()}


def test_a_mixed_analysis_scores_all_and_says_what_it_measured(study: Study) -> None:
    c = study.analyze(**MIXED)
    assert c.weights
    assert set(study.scores.weights) == {"stem.weight", "blocks.0.0.weight", "blocks.1.0.weight"}
    done, planned = study.progress()
    assert done == planned
    assert "The last analysis ended as more measurements would hardly change the plans" in study.coverage.text
    short = {m.steps for m in study.measurements() if m.purpose == "screening"}
    assert short <= {2}
    before = table(study)
    study.analyze(**MIXED)
    assert table(study) == before
    study.analyze(**{**MIXED, "mode": "measured"})
    assert before.items() <= table(study).items()


@pytest.mark.parametrize("after", [1, 3, 5])
def test_interrupted_anywhere_it_goes_on_and_measures_nothing_twice(study: Study, after: int) -> None:
    with pytest.raises(RuntimeError):
        study.analyze(**MIXED, progress=stop_after(after, RuntimeError()))
    times = {m.id: m.finished for m in study.measurements() if m.status == "done"}
    assert len(times) == after
    study.close()
    with Study(study.path, make_shapes()) as again:
        again.analyze(**MIXED)
        assert times.items() <= {m.id: m.finished for m in again.measurements()}.items()
        interrupted = table(again)
        again._store.read("SELECT 1")
        with again._store.transaction("measurements") as write:
            write.execute("DELETE FROM measurements")
        again.analyze(**MIXED)
        assert table(again) == interrupted


def test_what_was_measured_before_counts(study: Study) -> None:
    everything = {**MIXED, "mode": "measured"}
    study.analyze(**everything)
    before = table(study)
    study.analyze(**MIXED)
    after = table(study)
    assert {k: v for k, v in after.items() if k[0] == "contribution"} == {
        k: v for k, v in before.items() if k[0] == "contribution"
    }
