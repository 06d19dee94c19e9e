"""The best plan by cut depth: for each deepest tensor that a plan may train, a multiple-choice knapsack.

How deep the backward pass goes decides which of its operators exist, and with them most of what follows
from decisions. What is left then couples only choices that share an activation (query, key and value of a
layer); joined into one class, the classes of a depth are independent: each item has a gain and costs, and
the sums are those of the plan. Upper bounds of all depths are kept as functions of the budget, so that a
query looks into few of them.

This says the same as the linear program of `PlanVariables`, where classes stay small, and no rule of the
user's ties them together; it raises `NotSeparable` elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .knapsack import BETTER, Knapsack, Solution, multipliers, not_dominated, solve
from .linear_solver import Linear
from .plan_variables import PlanVariables

MOST_ITEMS = 2048  # of a class
SLOPES = 40  # at how many multipliers the bounds are kept

Numbers = NDArray[np.floating[Any]]


class NotSeparable(Exception):
    """The choices are tied together in ways that these knapsacks do not know."""


class Demand(NamedTuple):
    """A variable that follows is at least base + sum(terms), of what is open at a depth."""

    variable: int
    base: float
    terms: tuple[tuple[int, float], ...]


class Depth(NamedTuple):
    """All plans that reach to the same tensor.

    Attributes:
        decided: the decisions that all of them take.
        gain, cost: of what they all train, [] and [R].
        classes: positions of its classes in `CutDepths.classes`.
    """

    decided: tuple[int, ...]
    gain: float
    cost: Numbers
    classes: list[int]


class CutDepths:
    """The knapsacks of all depths; their rows are linear expressions that a budget may limit.

    Attributes:
        rows, linear: names of the expressions, in the order of all costs here; the expressions.
    """

    def __init__(self, variables: PlanVariables, rows: dict[Any, Linear], tie: float) -> None:
        """
        Args:
            tie: loss of gain for each decision that is taken, and each tensor that a depth reaches over; it
                tells plans of equal gain apart.

        Raises:
            NotSeparable: a rule ties choices together, or too many choices share an activation.
        """
        if variables.rules:
            raise NotSeparable
        self.v = variables
        self.rows, self.linear = list(rows), list(rows.values())
        n = len(variables.cost)
        self._constants = np.array([linear.constant for linear in rows.values()])
        self._amounts = np.zeros((n, len(rows)))
        for r, linear in enumerate(rows.values()):
            for variable, amount in linear.terms.items():
                self._amounts[variable, r] = amount
        self._gain = np.array([-cost - tie if cost else 0.0 for cost in variables.cost])
        self._class_of = {j: c for c, decisions in enumerate(variables.choices) for j in decisions}
        self._classes: dict[Any, int] = {}
        self._items: list[list[tuple[int, ...]]] = []  # of each class: the decisions that an item takes
        self._gains: list[Numbers] = []
        self._costs: list[Numbers] = []
        self.depths: list[Depth] = []
        self._split_by_depth(tie)
        self._bound_depths()

    # ------------------------------------------------------------------ queries

    def best(self, room: Sequence[float], floor: float = -np.inf) -> tuple[float, list[float]] | None:
        """(gain, values of the decisions) of the best plan; None where none gains more than `floor`.

        Args:
            room: the limit of each row, infinite where there is none.

        Raises:
            TooManyStates: it would take too long.
        """
        limits = np.asarray(room, float)
        limited = np.flatnonzero(np.isfinite(limits))
        bounds = self._bounds(limits, limited)
        best: tuple[float, list[int]] | None = None
        while bounds[d := int(np.argmax(bounds))] > floor + BETTER:
            depth = self.depths[d]
            bounds[d] = -np.inf
            problem, left = self._knapsack(depth, limits, limited)
            if problem is None:
                found = Solution(0.0, np.zeros(0, int)) if np.all(left >= 0) else None
            else:
                weights = multipliers(problem, left)
                bounds = np.minimum(bounds, self._bounds_at(weights, limits, limited))
                found = solve(problem, left, floor - depth.gain, weights)
            if found is not None and found.gain + depth.gain > floor:
                floor = found.gain + depth.gain
                best = floor, self._decisions(depth, found)
        if best is None:
            return None
        values = list(self.v.lower)
        for decision in best[1]:
            values[decision] = 1.0
        return best[0], values

    def _knapsack(
        self, depth: Depth, limits: Numbers, limited: NDArray[np.integer[Any]]
    ) -> tuple[Knapsack | None, Numbers]:
        """What is to be decided at a depth, if anything is, and the room for it."""
        left = limits[limited] - depth.cost[limited]
        if not depth.classes:
            return None, left
        sizes = [len(self._gains[c]) for c in depth.classes]
        gain = np.concatenate([self._gains[c] for c in depth.classes])
        cost = np.concatenate([self._costs[c] for c in depth.classes])[:, limited]
        return Knapsack(gain, cost, np.cumsum([0, *sizes[:-1]])), left

    def _decisions(self, depth: Depth, found: Solution) -> list[int]:
        chosen = list(depth.decided)
        places = iter(found.items)
        start = 0
        for c in depth.classes:
            chosen += self._items[c][int(next(places)) - start]
            start += len(self._items[c])
        return chosen

    # ------------------------------------------------------------------ bounds

    def _bound_depths(self) -> None:
        """For each row and many multipliers, what the classes of a depth are worth at most."""
        count, rows = len(self._gains), len(self.rows)
        self._gain_of_items = np.concatenate([*self._gains, []])
        self._cost_of_items = np.concatenate([*self._costs, np.zeros((0, rows))])
        self._starts = np.cumsum([0, *(len(g) for g in self._gains[:-1])]) if count else np.zeros(0, int)
        self._has = np.zeros((len(self.depths), count))
        for d, depth in enumerate(self.depths):
            self._has[d, depth.classes] = 1.0
        self._base = np.array([depth.cost for depth in self.depths])
        self._base_gain = np.array([depth.gain for depth in self.depths])
        self._slopes = np.zeros((SLOPES, rows))
        worth = np.zeros((count, SLOPES, rows))
        least = np.zeros((count, rows))
        if count:
            gain, cost = self._gain_of_items, self._cost_of_items
            least = np.minimum.reduceat(cost, self._starts)
            for r in range(rows):
                pays = (cost[:, r] > 0) & (gain > 0)
                if pays.any():
                    slopes = gain[pays] / cost[pays, r]
                    self._slopes[1:, r] = np.quantile(slopes, np.linspace(0, 1, SLOPES - 1))
                at = gain[:, None] - cost[:, r, None] * self._slopes[:, r]
                worth[:, :, r] = np.maximum.reduceat(at, self._starts)
        self._worth = self._base_gain[:, None, None] + np.tensordot(self._has, worth, 1)
        self._least = self._base + self._has @ least

    def _bounds(self, limits: Numbers, limited: NDArray[np.integer[Any]]) -> Numbers:
        """[D]: what no plan of a depth gains more than."""
        if not len(limited):
            return self._worth[:, 0, 0] if len(self.rows) else np.full(len(self.depths), np.inf)
        room = limits[limited] - self._base[:, limited]
        bounds = (self._worth[:, :, limited] + self._slopes[:, limited] * room[:, None]).min((1, 2))
        possible = np.all(self._least[:, limited] <= limits[limited] * (1 + 1e-12), 1)
        return np.where(possible, bounds, -np.inf)

    def _bounds_at(self, weights: Numbers, limits: Numbers, limited: NDArray[np.integer[Any]]) -> Numbers:
        """[D]: the same, by multipliers of all rows together."""
        value = self._gain_of_items - self._cost_of_items[:, limited] @ weights
        worth = self._has @ np.maximum.reduceat(value, self._starts)
        return self._base_gain + worth + (limits[limited] - self._base[:, limited]) @ weights

    # ------------------------------------------------------------------ what depends on what

    def _split_by_depth(self, tie: float) -> None:
        deepest = {j: self.v.deepest(j) for j in self._class_of}
        reaching: dict[tuple[int, int], list[int]] = {}
        for j, c in self._class_of.items():
            reaching.setdefault((deepest[j], c), []).append(j)
        ends = [((len(self.v.p.tensors), -1), [])]  # nothing beside what is always trained
        ends += sorted(reaching.items())
        low, high = self._extremes(ends, deepest)
        gains = self._gain @ low - tie * np.array([len(self.v.p.tensors) - depth for (depth, _), _ in ends])
        costs = self._constants + low.T.astype(float) @ self._amounts
        forced = [end if len(items) > 1 else -1 for (_, end), items in ends]
        classes = self._split(low, low != high, forced)
        for d, (_, items) in enumerate(ends):
            decided = tuple(items) if len(items) == 1 else ()
            self.depths.append(Depth(decided, float(gains[d]), costs[d], classes[d]))

    def _extremes(
        self, ends: list[tuple[tuple[int, int], list[int]]], deepest: dict[int, int]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """[N, D]: each variable at least, and at most, in the plans of each depth."""
        n, count = len(self.v.cost), len(ends)
        low, high = np.zeros((n, count), bool), np.zeros((n, count), bool)
        always = np.array(self.v.lower) > 0
        low[always] = high[always] = True
        where = np.array([depth for (depth, _), _ in ends])
        for j in self._class_of:
            high[j] = deepest[j] > where
        one_of: dict[int, list[tuple[int, set[int]]]] = {}
        for d, ((_, end), items) in enumerate(ends):
            if end >= 0:
                high[self.v.choices[end], d] = False
                high[items, d] = True
            if len(items) == 1:
                low[items[0], d] = True
            elif items:
                one_of.setdefault(items[0], []).append((d, set(items)))
        for variable, terms, less in self.v.demands:
            least, most = np.full(count, -less), np.full(count, -less)
            for w, factor in terms.items():
                a, b = (low[w], high[w]) if factor > 0 else (high[w], low[w])
                least += factor * a
                most += factor * b
                for d, items in one_of.get(w, ()):
                    if items <= terms.keys():  # one of them is taken, whichever
                        least[d] = max(least[d], 1.0 - less)
            low[variable] |= least > 0.5
            high[variable] |= most > 0.5
        return low, high

    def _split(
        self, low: NDArray[np.bool_], is_open: NDArray[np.bool_], forced: Sequence[int]
    ) -> list[list[int]]:
        """The independent classes of each depth: choices, and those joined that what follows ties together.

        From one depth to the next few variables change. Whatever no demand ties to one of them is as it was.

        Args:
            low, is_open: [N, D], of each variable: its value where it is not open.
            forced: per depth, the choice of which one decision is taken; -1: there is none.
        """
        changed = np.ones(low.shape, bool)
        changed[:, 1:] = (low[:, 1:] != low[:, :-1]) | (is_open[:, 1:] != is_open[:, :-1])
        for d, c in enumerate(forced):
            if c >= 0:
                changed[self.v.choices[c], d : d + 2] = True
        for decisions in self.v.choices:
            changed[decisions] = changed[decisions].any(0)
        demands = self.v.demands
        demanding: list[list[int]] = [[] for _ in range(len(low))]  # by variable: the demands it is in
        for k, (variable, terms, _) in enumerate(demands):
            for w in (variable, *terms):
                demanding[w].append(k)
        places = [(k, w) for w, found in enumerate(demanding) for k in found]
        rows, columns = np.array(places, np.int64).reshape(-1, 2).T
        ties = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(demands), len(low)))
        touched = is_open & (changed | (ties.T @ (ties @ changed.astype(float)) > 0))
        options = np.array([is_open[decisions].any(0) for decisions in self.v.choices], bool)
        class_of: dict[int, int] = {}  # choice -> position of its class, at the depth before
        found: list[list[int]] = []
        for d, c in enumerate(forced):
            opened, value = is_open[:, d].tolist(), low[:, d].tolist()
            seen: set[int] = set()
            for start in np.flatnonzero(touched[:, d]).tolist():
                if start not in seen:
                    together, tied = self._tied(start, opened, demanding, seen)
                    choices = (tuple(j for j in self.v.choices[choice] if opened[j]) for choice in together)
                    position = self._class(
                        tuple((decisions, choice == c) for choice, decisions in zip(together, choices)),
                        tuple(self._open_demand(k, opened, value) for k in tied),
                    )
                    class_of |= dict.fromkeys(together, position)
            there = np.flatnonzero(options[:, d]).tolist() if len(options) else []
            found.append(list(dict.fromkeys(class_of[choice] for choice in there)))
        return found

    def _tied(
        self, start: int, opened: Sequence[bool], demanding: Sequence[Sequence[int]], seen: set[int]
    ) -> tuple[list[int], list[int]]:
        """(choices, demands) that open variables tie to an open one, in rising order; adds to `seen`."""
        choices: set[int] = set()
        demands: set[int] = set()
        pending = [start]
        while pending:
            one = pending.pop()
            if one in seen:
                continue
            seen.add(one)
            if one in self._class_of and self._class_of[one] not in choices:
                choices.add(self._class_of[one])
                pending += [j for j in self.v.choices[self._class_of[one]] if opened[j]]
            for k in demanding[one]:
                variable, terms, _ = self.v.demands[k]
                if k not in demands and opened[variable]:
                    demands.add(k)
                    pending += [w for w in (variable, *terms) if opened[w]]
        return sorted(choices), sorted(demands)

    def _open_demand(self, k: int, opened: Sequence[bool], value: Sequence[bool]) -> Demand:
        variable, terms, less = self.v.demands[k]
        base = -less + sum(factor * value[w] for w, factor in terms.items() if not opened[w])
        return Demand(variable, base, tuple((w, factor) for w, factor in terms.items() if opened[w]))

    def _class(self, choices: tuple[tuple[tuple[int, ...], bool], ...], demands: tuple[Demand, ...]) -> int:
        """The position of a class; one that other depths have, too, is there once."""
        key = choices, demands
        if key not in self._classes:
            self._classes[key] = len(self._items)
            self._add_class(choices, demands)
        return self._classes[key]

    def _add_class(
        self, choices: tuple[tuple[tuple[int, ...], bool], ...], demands: tuple[Demand, ...]
    ) -> None:
        ways = [decisions if forced else (None, *decisions) for decisions, forced in choices]
        count = math.prod(len(one) for one in ways)
        if count > MOST_ITEMS:
            raise NotSeparable
        places = np.indices([len(one) for one in ways]).reshape(len(ways), count)
        local = {
            j: place == k for one, place in zip(ways, places) for k, j in enumerate(one) if j is not None
        }
        for variable, base, terms in demands:
            reached = np.full(count, base)
            for w, factor in terms:
                reached += factor * local[w]
            value = reached > 0.5
            local[variable] = local[variable] | value if variable in local else value
        variables = list(local)
        taken = np.array(list(local.values()), float)
        gain, cost = self._gain[variables] @ taken, taken.T @ self._amounts[variables]
        kept = not_dominated(gain, -cost) if len(self.rows) else np.array([np.argmax(gain)])
        self._items.append([
            tuple(j for one, k in zip(ways, places[:, n]) if (j := one[k]) is not None) for n in kept
        ])  # fmt: skip
        self._gains.append(gain[kept])
        self._costs.append(cost[kept])
