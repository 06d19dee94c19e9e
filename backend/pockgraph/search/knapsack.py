"""The multiple-choice knapsack, exactly: one item of each class, most gain, within the room of every row.

Lagrange multipliers of the rows give an upper bound, and for every item by how much a solution that takes
it stays below (its loss). Items whose loss exceeds what lies between the bound and the best solution known
are in no better one; over the few that remain a dynamic programme goes class by class. After Pisinger, "A
minimal algorithm for the multiple-choice knapsack problem", 1995.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

Numbers = NDArray[np.floating[Any]]
Places = NDArray[np.integer[Any]]

BEAM = 48  # partial solutions that the first, inexact pass keeps
MOST_STATES = 6_000
TRIED = 8  # times as many are compared with each other
BLOCK = 128  # states compared with each other at once
BETTER = 1e-12  # solutions that differ by less are the same
TOLERANCE = 1e-12  # of a row's room, for sums of floats


class TooManyStates(Exception):
    """More partial solutions than are worth keeping: another method is faster."""


class Knapsack(NamedTuple):
    """Items of several classes, those of a class side by side.

    Attributes:
        gain: [M]; cost: [M, R], of each row; starts: [C], where each class begins.
    """

    gain: Numbers
    cost: Numbers
    starts: Places


class Solution(NamedTuple):
    """One item per class, and their gain together."""

    gain: float
    items: Places


def multipliers(problem: Knapsack, room: Numbers) -> Numbers:
    """[R]: those of the least upper bound, for `solve`; any others of at least 0 are right, and slower."""
    gain, cost, starts = problem
    found = np.zeros(len(room))
    binding = np.flatnonzero(np.maximum.reduceat(cost, starts).sum(0) > room)
    if len(binding) == 1:
        found[binding] = _by_bisection(gain, cost[:, binding[0]], starts, float(room[binding[0]]))
    elif len(binding):
        found[binding] = _linear_multipliers(gain, cost[:, binding], starts, room[binding])
    return found


def solve(
    problem: Knapsack, room: Numbers, floor: float = -np.inf, given: Numbers | None = None
) -> Solution | None:
    """The solution of most gain; None where none gains more than `floor`.

    Args:
        room: [R], the most that the costs of a row may add up to.
        given: the multipliers of this room.

    Raises:
        TooManyStates: it would take too long.
    """
    gain, cost, starts = problem
    room = room + TOLERANCE * np.abs(room)
    if np.any(np.minimum.reduceat(cost, starts).sum(0) > room):
        return None
    sizes = np.diff(starts, append=len(gain))
    owner = np.repeat(np.arange(len(starts)), sizes)
    binding = np.maximum.reduceat(cost, starts).sum(0) > room
    if not binding.any():
        items = np.lexsort((-gain, owner))[starts]
        most = Solution(float(gain[items].sum()), items)
        return most if most.gain > floor + BETTER else None
    weights = (multipliers(problem, room) if given is None else given)[binding]
    cost, room = cost[:, binding], room[binding]
    value = gain - cost @ weights
    top = np.maximum.reduceat(value, starts)
    bound = float(top.sum() + weights @ room)
    loss = np.repeat(top, sizes) - value
    best: Solution | None = None
    simple = _rounded(gain, cost, owner, starts, weights, room)
    if simple is not None and simple.gain > floor + BETTER:
        best = simple
    for width in (BEAM, MOST_STATES):
        gap = bound - (best.gain if best else floor)
        if gap <= BETTER:
            break
        found = _search(loss, cost, owner, weights, room, gap, width)
        if found is not None:
            items = np.sort(found)
            better = Solution(float(gain[items].sum()), items)
            if better.gain > (best.gain if best else floor) + BETTER:
                best = better
    return best


def _by_bisection(gain: Numbers, cost: Numbers, starts: Places, room: float) -> float:
    high, low = float(np.ptp(gain) / max(np.ptp(cost), 1e-300)), 0.0
    for _ in range(200):
        if _used(gain, cost, starts, high) <= room:
            break
        low, high = high, 4 * high
    for _ in range(50):
        middle = (low + high) / 2
        if _used(gain, cost, starts, middle) > room:
            low = middle
        else:
            high = middle
        if high - low < 1e-9 * high:
            break
    return high


def _linear_multipliers(gain: Numbers, cost: Numbers, starts: Places, room: Numbers) -> Numbers:
    count, scale = len(gain), np.abs(cost).max(0)
    classes = csr_array(
        (np.ones(count), np.arange(count), np.append(starts, count)), shape=(len(starts), count)
    )
    found = linprog(
        -gain, A_ub=(cost / scale).T, b_ub=room / scale, A_eq=classes, b_eq=np.ones(len(starts)),
        bounds=(0, 1), method="highs-ds",
    )  # fmt: skip
    if found.status != 0:  # any multipliers are right, and these only less tight
        return np.zeros(len(room))
    return np.maximum(-found.ineqlin.marginals / scale, 0)


def _used(value: Numbers, cost: Numbers, starts: Places, multiplier: float) -> float:
    """What the items cost that are best at a multiplier; the cheapest of those that are equally good."""
    at = value - multiplier * cost
    top = np.repeat(np.maximum.reduceat(at, starts), np.diff(starts, append=len(at)))
    return float(np.minimum.reduceat(np.where(at >= top, cost, np.inf), starts).sum())


def _rounded(
    gain: Numbers, cost: Numbers, owner: Places, starts: Places, multipliers: Numbers, room: Numbers
) -> Solution | None:
    """A good solution: of multipliers that are just high enough, and then the best exchanges that fit."""
    price = cost @ multipliers
    chosen = None
    low, high = 1.0, 2.0
    for _ in range(16):
        items = _best_at(gain - high * price, owner, starts)
        if np.all(cost[items].sum(0) <= room):
            chosen = items
            break
        low, high = high, 2 * high
    if chosen is None:
        return None
    for _ in range(12):
        middle = (low + high) / 2
        items = _best_at(gain - middle * price, owner, starts)
        if np.all(cost[items].sum(0) <= room):
            chosen, high = items, middle
        else:
            low = middle
    left = room - cost[chosen].sum(0)
    for _ in range(len(gain)):
        more, dearer = gain - gain[chosen][owner], cost - cost[chosen][owner]
        one = int(np.argmax(np.where(np.all(dearer <= left, 1), more, 0.0)))
        if more[one] <= 0 or np.any(dearer[one] > left):
            break
        left = left - dearer[one]
        chosen[owner[one]] = one
    return Solution(float(gain[chosen].sum()), chosen)


def _best_at(value: Numbers, owner: Places, starts: Places) -> Places:
    """Of each class the first item of most value."""
    most = np.flatnonzero(value >= np.maximum.reduceat(value, starts)[owner])
    return most[np.searchsorted(owner[most], np.arange(len(starts)))]


def _search(
    loss: Numbers, cost: Numbers, owner: Places, multipliers: Numbers, room: Numbers, gap: float, width: int
) -> Places | None:
    """The items of least loss, unused room included, where it is less than `gap`."""
    kept = np.flatnonzero(loss < gap)
    classes = np.split(kept, np.flatnonzero(np.diff(owner[kept])) + 1)
    single = [items[0] for items in classes if len(items) == 1]
    several = [items for items in classes if len(items) > 1]
    # Classes whose items differ most first: those after them fill what is left.
    several.sort(key=lambda items: -float(np.ptp(cost[items] @ multipliers)))
    losses = np.array([loss[single].sum()])
    costs = cost[single].sum(0)[None]
    rest = _still_to_come([cost[items] for items in several], len(room))
    trail: list[tuple[Places, Places]] = []
    for items, (least, most, apart) in zip(several, rest, strict=True):
        ways = len(items)
        losses = (losses[:, None] + loss[items]).ravel()
        costs = (costs[:, None] + cost[items]).reshape(-1, len(room))
        left = room - costs
        # More than the rest can use is as good as that; and what keeps within one row needs no more of
        # another than what it may cost more there.
        useful = np.minimum((left[:, None] + apart).min(2), most)
        unused = (left - useful) @ multipliers
        alive = np.flatnonzero((losses + unused < gap) & np.all(left >= least, 1))
        for most_states in (TRIED * width, width):
            if len(alive) > most_states:
                if width == MOST_STATES:
                    raise TooManyStates
                alive = alive[np.argpartition(losses[alive] + unused[alive], most_states)[:most_states]]
            if most_states > width:
                alive = alive[not_dominated(costs[alive] @ multipliers - losses[alive], useful[alive])]
        if not len(alive):
            return None
        trail.append((alive // ways, items[alive % ways]))
        losses, costs = losses[alive], costs[alive]
    total = losses + (room - costs) @ multipliers
    allowed = np.all(costs <= room, 1) & (total < gap)
    if not allowed.any():
        return None
    at = int(np.argmin(np.where(allowed, total, np.inf)))
    chosen = list(single)
    for parents, items in reversed(trail):
        chosen.append(items[at])
        at = int(parents[at])
    return np.array(chosen)


def _still_to_come(costs: list[Numbers], rows: int) -> list[tuple[Numbers, Numbers, Numbers]]:
    """After each class, of all later ones: least cost [R], most [R], row r's above row q's at most [R, R]."""
    least, most, apart = np.zeros(rows), np.zeros(rows), np.zeros((rows, rows))
    found = []
    for cost in reversed(costs):
        found.append((least, most, apart))
        least, most = least + cost.min(0), most + cost.max(0)
        apart = apart + (cost[:, :, None] - cost[:, None]).max(0)
    return found[::-1]


def not_dominated(gains: Numbers, left: Numbers) -> Places:
    """The states that no other one equals in gain and in all that is left of the rows."""
    order = np.lexsort((-left.sum(1), -gains))
    if left.shape[1] == 1:
        best = np.maximum.accumulate(np.concatenate([[-np.inf], left[order[:-1], 0]]))
        return order[left[order, 0] > best]
    kept: list[Places] = []
    front = np.empty((0, left.shape[1]))
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        block = block[~_covered(left[block], front)]
        earlier = np.tri(len(block), k=-1, dtype=bool)
        block = block[~(_covers(left[block], left[block]) & earlier).any(1)]
        front = np.concatenate([front, left[block]])
        kept.append(block)
    return np.concatenate(kept) if kept else order


def _covers(states: Numbers, others: Numbers) -> NDArray[np.bool_]:
    """[states, others]: has the other one at least as much left of every row?"""
    covers = np.ones((len(states), len(others)), bool)
    for mine, theirs in zip(states.T, others.T, strict=True):
        covers &= theirs >= mine[:, None]
    return covers


def _covered(states: Numbers, others: Numbers) -> NDArray[np.bool_]:
    return np.logical_or.reduce(_covers(states, others), 1)
