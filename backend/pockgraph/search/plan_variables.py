"""What a plan decides, as binary variables, and what follows from the decisions.

Decisions are binary: a weight at one of its measured ratios, or the last k biases. What follows from
them (anything this deep is trained, both of two are) is a variable too, tied to the decisions by linear
rows: the solver may set it no lower than they demand, nor higher where that would pay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..contribution import Contribution
from ..profile import Profile
from .linear_solver import Row, Terms


class Decisions:
    """The variables of one (profile, contribution, locks), and the rows that tie them together.

    Attributes:
        cost, integer, lower: per variable: minus its gain, 1 where it must be whole, its lower bound.
        rows: what all plans obey.
        fixed: FQN -> ratio of what every plan trains, the head as a rule.
        ways: row -> its ways of being trained: share of its channels -> the variables that mean it.
        always: bit set of the rows that are trained in every plan.
    """

    def __init__(self, profile: Profile, contribution: Contribution, locked: Mapping[str, float]) -> None:
        self.p, self.c = profile, contribution
        for fqn in locked:
            profile.index(fqn)
        self.cost: list[float] = []
        self.integer: list[int] = []
        self.lower: list[float] = []
        self.rows: list[Row] = []
        self.fixed = {fqn: 1.0 for fqn in contribution.head or profile.head if locked.get(fqn, 1.0) > 0}
        self.fixed |= {fqn: ratio for fqn, ratio in locked.items() if ratio > 0}
        self.ways: dict[int, dict[float, list[int]]] = {}
        self.always = 0
        self._meaning: dict[int, dict[str, float]] = {}
        self._reached: dict[int, int] = {}
        self._any: dict[tuple[int, tuple[int, ...]], int] = {}
        self._both: dict[tuple[int, int], int] = {}
        self._demands: dict[int, set[int]] = {}  # variable -> those of which any makes it 1
        index = {row.fqn: i for i, row in enumerate(profile.rows)}
        out = {fqn for fqn, ratio in locked.items() if ratio <= 0}
        self._fix(index)
        self._decide_weights(index, out)
        self._decide_biases(index, out)

    def _variable(self, gain: float = 0.0, integer: bool = False, fixed: bool = False) -> int:
        self.cost.append(-gain)
        self.integer.append(int(integer))
        self.lower.append(1.0 if fixed else 0.0)
        return len(self.cost) - 1

    # ------------------------------------------------------------------ decisions

    def _fix(self, index: Mapping[str, int]) -> None:
        for fqn, ratio in self.fixed.items():
            gains = self.c.weights.get(fqn, {})
            variable = self._variable(gains[ratio].mean if ratio in gains else 0.0, True, fixed=True)
            self._means(variable, index[fqn], fqn, ratio)
            self.always |= 1 << index[fqn]

    def _decide_weights(self, index: Mapping[str, int], out: set[str]) -> None:
        for fqn, gains in self.c.weights.items():
            if fqn not in index or fqn in self.fixed or fqn in out:
                continue
            chosen: Terms = {}
            best = 0.0
            for ratio, gain in sorted(gains.items()):
                # A larger part that gains no more is never the better choice.
                if math.isfinite(gain.mean) and gain.mean > best:
                    best = gain.mean
                    variable = self._variable(gain.mean, True)
                    chosen[variable] = 1.0
                    self._means(variable, index[fqn], fqn, ratio)
            if chosen:
                self.rows.append((chosen, 1.0))

    def _decide_biases(self, index: Mapping[str, int], out: set[str]) -> None:
        counts: Terms = {}
        for k, gain in sorted(self.c.biases.items()):
            names = [fqn for fqn in self.c.bias_order[:k] if fqn not in self.fixed]
            if not math.isfinite(gain.mean) or gain.mean <= 0 or any(fqn in out for fqn in names):
                continue
            variable = self._variable(gain.mean, True)
            self._meaning[variable] = {}
            counts[variable] = 1.0
            for fqn in names:
                self._means(variable, index[fqn], fqn, 1.0)
        if counts:
            self.rows.append((counts, 1.0))

    def _means(self, variable: int, row: int, fqn: str, ratio: float) -> None:
        """Where the variable is 1, that part of the tensor is trained, among others perhaps."""
        self._meaning.setdefault(variable, {})[fqn] = ratio
        self.ways.setdefault(row, {}).setdefault(self.p.share(row, ratio), []).append(variable)

    def ways_of(self, row: int) -> Iterator[tuple[float, int]]:
        """(share, variable) of each way of training a row; none of a row that is left out, or of -1."""
        for share, variables in self.ways.get(row, {}).items():
            for variable in variables:
                yield share, variable

    # ------------------------------------------------------------------ what follows

    def reached(self, rows: int) -> int | None:
        """A variable that is 1 when any of `rows` (a bit set) is trained; None: it always is."""
        if rows & self.always:
            return None
        possible = self._possible(rows)
        if possible not in self._reached:
            nested = max((s for s in self._reached if s and s & possible == s and s != possible),
                         key=int.bit_count, default=0)  # fmt: skip
            # Whole by itself, but branching on how deep the backward pass goes settles most of the rest.
            variable = self._variable(integer=True)
            rest = possible & ~nested
            if nested:
                self._at_least(variable, {self._reached[nested]: 1.0})
            for i in bits(rest):
                self._at_least(variable, {v: 1.0 for _, v in self.ways_of(i)})
            self._reached[possible] = variable
        return self._reached[possible]

    def any_of(self, rows: int, whole: Iterable[int]) -> int | None:
        """A variable that is 1 when any of `rows` is trained, or any row in `whole` is trained whole."""
        extra = tuple(i for i in sorted(set(whole)) if not rows >> i & 1 and self._whole(i))
        if rows & self.always or any(1 << i & self.always for i in extra):
            return None
        if not extra:
            return self.reached(rows)
        key = (self._possible(rows), extra)
        if key not in self._any:
            variable = self._variable()
            if key[0]:
                reached = self.reached(rows)
                assert reached is not None
                self._at_least(variable, {reached: 1.0})
            for i in extra:
                self._at_least(variable, self._whole(i))
            self._any[key] = variable
        return self._any[key]

    def both(self, a: int, b: int) -> int:
        """At least 1 when both are."""
        if (a, b) not in self._both:
            variable = self._variable()
            self._at_least(variable, {a: 1.0, b: 1.0}, less=1.0)
            self._both[a, b] = variable
        return self._both[a, b]

    def either(self, a: int, b: int | None) -> int | None:
        """At least 1 when either is."""
        if b is None:
            return None
        variable = self._variable()
        self._at_least(variable, {a: 1.0})
        self._at_least(variable, {b: 1.0})
        return variable

    def beyond(self, rows: int, kept: int) -> int:
        """1 when any of `rows` is trained although `kept` is 0."""
        self._at_most_demanded(kept)
        variable = self._variable()
        reached = self.reached(rows)
        if reached is None:
            self._at_least(variable, {kept: -1.0}, less=-1.0)
        else:
            self._at_least(variable, {reached: 1.0, kept: -1.0})
        return variable

    def _at_least(self, variable: int, terms: Terms, less: float = 0.0) -> None:
        """variable >= sum(terms) - less."""
        self.rows.append((terms | {variable: -1.0}, less))
        if not less:
            self._demands.setdefault(variable, set()).update(v for v, factor in terms.items() if factor > 0)

    def _at_most_demanded(self, variable: int) -> None:
        """`variable` is 0 where nothing demands 1; without these rows it may be 1 where that pays."""
        pending = {variable}
        while pending:
            demands = self._demands.pop(one := pending.pop(), set())
            if demands:
                self.rows.append(({one: 1.0} | dict.fromkeys(demands, -1.0), 0.0))
                pending |= demands

    def _possible(self, rows: int) -> int:
        """Those of `rows` that any plan trains."""
        return sum(1 << i for i in self.ways if rows >> i & 1)

    def _whole(self, i: int) -> Terms:
        return dict.fromkeys(self.ways.get(i, {}).get(1.0, []), 1.0)

    # ------------------------------------------------------------------ choices

    def choice(self, values: Sequence[float]) -> dict[str, float]:
        """FQN -> ratio that these values of the variables mean."""
        choice: dict[str, float] = {}
        for variable, meaning in self._meaning.items():
            if values[variable] > 0.5:
                choice |= meaning
        return choice

    def all_but(self, values: Sequence[float]) -> Row:
        """A row that every plan satisfies except the one that these values of the variables mean."""
        terms = {v: 1.0 if values[v] > 0.5 else -1.0 for v in self._meaning}
        return terms, sum(t > 0 for t in terms.values()) - 1.0

    def gain(self, choice: Mapping[str, float]) -> float:
        """The additive prediction for a choice made of these decisions."""
        total = 0.0
        biases = 0.0
        for variable, meaning in self._meaning.items():
            if meaning and _holds(meaning, choice):
                value = -self.cost[variable]
                if len(meaning) == 1 and next(iter(meaning)) in self.c.weights:
                    total += value
                elif value > biases:
                    biases = value
        return total + biases


def bits(rows: int) -> Iterator[int]:
    """The rows in a bit set, in rising order."""
    while rows:
        low = rows & -rows
        yield low.bit_length() - 1
        rows ^= low


def _holds(meaning: Mapping[str, float], choice: Mapping[str, float]) -> bool:
    return all(choice.get(fqn) == ratio for fqn, ratio in meaning.items())
