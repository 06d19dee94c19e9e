"""The mixed-integer programme behind `search`.

Decisions are binary: a weight at one of its measured ratios, or the last k biases. Which operators
remain, and which activations stay alive, follows from the deepest trained tensors, so both are written
as linear constraints on variables that HiGHS may set no lower than the decisions demand.

A schedule has thousands of moments, and few of them can be the peak. The programme starts without
memory constraints; whenever its plan's exact peak (`Profile.figures`) is above the budget, the
constraint of that moment is added and it is solved again. What is returned has been checked exactly.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from .budget import Budget
from .contribution import Contribution
from .errors import BudgetError, PlanError
from .plan import Plan
from .profile import WORK_KINDS, Operator, Profile

MAX_ROUNDS = 60
GAP = 1e-4


Terms = dict[int, float]
NEVER = -1  # a literal that is always 0


class _Use(NamedTuple):
    """An operator that reads a storage.

    Attributes:
        at: its position.
        serves: rows whose update needs it; 0 when the loss does.
        own: the row that would read selected channels instead, or -1; `part_bytes`: of all of them.
    """

    at: int
    serves: int
    own: int = -1
    part_bytes: int = 0


class Moment(NamedTuple):
    """When a step's bytes are counted: while operator `at` runs, or right behind it.

    Attributes:
        behind: `""` for the operator itself, `"mask"` or `"select"` while one is made of its result.
    """

    at: int
    behind: str = ""


class Programme:
    """The mixed-integer programme of one (profile, contribution, locks); constraints accumulate."""

    def __init__(self, profile: Profile, contribution: Contribution, locked: Mapping[str, float]) -> None:
        self.p, self.c = profile, contribution
        for fqn in locked:
            profile.index(fqn)
        self._cost: list[float] = []
        self._integer: list[int] = []
        self._lower: list[float] = []
        self._rows: list[tuple[Terms, float]] = []  # sum(terms) <= bound
        self._peak_rows: dict[Moment, tuple[Terms, float]] = {}
        self.fixed = {fqn: 1.0 for fqn in contribution.head or profile.head if locked.get(fqn, 1.0) > 0}
        self.fixed |= {fqn: ratio for fqn, ratio in locked.items() if ratio > 0}
        self.out = {fqn for fqn, ratio in locked.items() if ratio <= 0}
        # row -> its ways of being trained: ratio -> the literals that mean it
        self.ways: dict[int, dict[float, list[int]]] = {}
        self.always = 0
        self.meaning: dict[int, dict[str, float]] = {}
        self._reach: dict[int, int] = {}
        self._pairs: dict[tuple[int, int], int] = {}
        self._either: dict[tuple[int, tuple[int, ...]], int] = {}
        self._decide()
        self._uses = self._whole_uses()
        self._work_terms: list[Terms] | None = None

    # ------------------------------------------------------------------ decisions

    def _variable(self, gain: float = 0.0, integer: bool = False, fixed: bool = False) -> int:
        self._cost.append(-gain)
        self._integer.append(int(integer))
        self._lower.append(1.0 if fixed else 0.0)
        return len(self._cost) - 1

    def _decide(self) -> None:
        index = {row.fqn: i for i, row in enumerate(self.p.rows)}
        for fqn, ratio in self.fixed.items():
            i = index[fqn]
            gains = self.c.weights.get(fqn, {})
            variable = self._variable(gains[ratio].mean if ratio in gains else 0.0, True, fixed=True)
            self.ways[i] = {ratio: [variable]}
            self.meaning[variable] = {fqn: ratio}
            self.always |= 1 << i
        for fqn, gains in self.c.weights.items():
            if fqn not in index or fqn in self.fixed or fqn in self.out:
                continue
            chosen = {}
            best = 0.0
            for ratio, gain in sorted(gains.items()):
                # A larger part that gains no more is never the better choice.
                if math.isfinite(gain.mean) and gain.mean > best:
                    best = gain.mean
                    variable = self._variable(gain.mean, True)
                    chosen[ratio] = [variable]
                    self.meaning[variable] = {fqn: ratio}
            if chosen:
                self.ways[index[fqn]] = chosen
                self._rows.append(({v[0]: 1.0 for v in chosen.values()}, 1.0))
        counts: Terms = {}
        for k, gain in sorted(self.c.biases.items()):
            names = [fqn for fqn in self.c.bias_order[:k] if fqn not in self.fixed]
            if not math.isfinite(gain.mean) or gain.mean <= 0 or any(fqn in self.out for fqn in names):
                continue
            variable = self._variable(gain.mean, True)
            self.meaning[variable] = dict.fromkeys(names, 1.0)
            counts[variable] = 1.0
            for fqn in names:
                self.ways.setdefault(index[fqn], {}).setdefault(1.0, []).append(variable)
        if counts:
            self._rows.append((counts, 1.0))

    def _trained(self, i: int) -> Terms:
        """Terms that sum to 1 when row `i` is trained at all."""
        return {v: 1.0 for literals in self.ways.get(i, {}).values() for v in literals}

    def _whole(self, i: int) -> Terms:
        return dict.fromkeys(self.ways.get(i, {}).get(1.0, []), 1.0)

    def _reached(self, rows: int) -> int | None:
        """A variable that is 1 when any of `rows` (a bit set) is trained; None: it always is."""
        if rows & self.always:
            return None
        possible = sum(1 << i for i in self.ways if rows >> i & 1)
        if possible not in self._reach:
            nested = max((s for s in self._reach if s and s & possible == s and s != possible),
                         key=int.bit_count, default=0)  # fmt: skip
            # Whole by itself, but branching on how deep the backward pass goes settles most of the rest.
            variable = self._variable(integer=True)
            rest = possible & ~nested
            if nested:
                self._rows.append(({self._reach[nested]: 1.0, variable: -1.0}, 0.0))
            for i in _bits(rest):
                self._rows.append((self._trained(i) | {variable: -1.0}, 0.0))
            self._reach[possible] = variable
        return self._reach[possible]

    def _any(self, rows: int, whole: Iterable[int]) -> int | None:
        """A variable that is 1 when any of `rows` is trained, or any row in `whole` is trained whole."""
        extra = tuple(i for i in sorted(set(whole)) if not rows >> i & 1 and self._whole(i))
        if rows & self.always or any(1 << i & self.always for i in extra):
            return None
        if not extra:
            return self._reached(rows)
        key = (sum(1 << i for i in self.ways if rows >> i & 1), extra)
        if key not in self._either:
            variable = self._variable()
            if key[0]:
                reached = self._reached(rows)
                assert reached is not None
                self._rows.append(({reached: 1.0, variable: -1.0}, 0.0))
            for i in extra:
                self._rows.append((self._whole(i) | {variable: -1.0}, 0.0))
            self._either[key] = variable
        return self._either[key]

    # ------------------------------------------------------------------ memory

    def _whole_uses(self) -> list[list[_Use]]:
        """Per storage, who reads it, in schedule order."""
        operators = self.p.operators
        uses: list[list[_Use]] = [[] for _ in operators]
        for n, o in enumerate(operators):
            own = self._owner(o)
            moved = self.p.moves[own].get(n, ()) if own >= 0 else ()
            part_bytes = {operators[m].storage: operators[m].size_bytes for m in moved if m >= 0}
            for s in o.operands:
                row = own if s in part_bytes else -1
                uses[s].append(_Use(n, 0 if o.needed else o.serves, row, part_bytes.get(s, 0)))
            if o.needed:
                uses[o.storage].append(_Use(n, 0))
        return uses

    def _live(self, moment: Moment, boundary: bool = False) -> tuple[Terms, float]:
        """Bytes alive at a moment as (terms, constant), state and resident parts left out.

        With `boundary`: what the forward pass hands on, the moment's operator being its last.
        """
        t, behind = moment
        over = boundary or bool(behind)  # operator t has run
        terms: Terms = {}
        constant = 0.0
        operators = self.p.operators
        masked = {o.masks: o for o in operators if o.masks >= 0}

        def add(literal: int | None, size: float) -> None:
            nonlocal constant
            if literal == NEVER:
                return
            if literal is None:
                constant += size
            else:
                terms[literal] = terms.get(literal, 0.0) + size

        if behind:
            # What is looked at is alive. Counting it for plans that make nothing of it is no stricter than
            # their moment of `t` itself.
            made = operators[t].storage
            constant += operators[made].bytes
            masks = sum(2 if behind == "mask" and o.clamps == 2 else 1 for o in operators if o.masks == made)
            if masks:
                self._add_masks(operators[made].bytes * masks / 4, masked[made].serves, self._ever(made), add)
            if behind == "select":
                self._add_parts([u for u in self._uses[made] if u.at > t], add)

        for n, o in enumerate(operators):
            if n > t or o.storage != n or o.bytes == 0 or (behind and n == operators[t].storage):
                continue
            if boundary and not o.forward:
                continue
            later = [u for u in self._uses[n] if u[0] > t or (u[0] == t and not over)]
            if n == t and not later and not boundary:
                later = [_Use(t, 0 if o.needed else o.serves)]
            if not later:
                continue
            if n == t and not boundary and o.elementwise and self._reuses(n):
                continue
            if any(use.serves == 0 for use in later):
                constant += o.bytes
                self._add_parts(later, add)
                continue
            own = self._owner(o)
            if own >= 0 and not o.forward:
                for ratio, literals in self.ways.get(own, {}).items():
                    for literal in literals:
                        add(literal, o.part(ratio)[0] if self._shrinks(n, own) else o.bytes)
                continue
            clamp = masked.get(n)
            compared = (
                clamp.serves if clamp is not None and any(operators[u].masks == n for u, *_ in later) else 0
            )
            reading = [u for u in later if operators[u[0]].masks != n]
            kept = self._read_by(reading)
            if not compared:
                if reading:
                    add(kept, o.bytes)
            else:
                self._add_clamped(o.bytes, compared, kept if reading else NEVER, self._ever(n), add)
            self._add_parts(later, add)
        self._add_joined(t, add)
        return terms, constant

    def _owner(self, o: Operator) -> int:
        """The one row an operator serves, or -1."""
        return (
            o.serves.bit_length() - 1 if o.serves and o.serves & (o.serves - 1) == 0 and not o.needed else -1
        )

    def _shrinks(self, n: int, row: int) -> bool:
        """Does an operator that serves one row alone have the size of its trained part?"""
        return n > self.p.roots[row] or n in self.p.moves[row]

    def _add_joined(self, t: int, add: Callable[[int | None, float], None]) -> None:
        """Weights joined from constant and trained channels: alive while anything will read them."""
        for i, ways in self.ways.items():
            if self.p.first_reader[i] > t:
                continue
            later = [
                o for n, o in enumerate(self.p.operators) if n >= t and i in o.reads and self._owner(o) != i
            ]
            if not later:
                continue
            always = any(o.needed for o in later)
            deeper = 0
            for o in later:
                deeper |= o.serves & ~(1 << i)
            for ratio, literals in ways.items():
                if ratio < 1:
                    for literal in literals:
                        reached = None if always else self._reached(deeper)
                        add(
                            literal if reached is None else self._both(literal, reached),
                            self.p.rows[i].nbytes,
                        )

    def _both(self, a: int, b: int) -> int:
        """At least 1 when both are."""
        if (a, b) not in self._pairs:
            variable = self._variable()
            self._rows.append(({a: 1.0, b: 1.0, variable: -1.0}, 1.0))
            self._pairs[a, b] = variable
        return self._pairs[a, b]

    def _add_parts(self, later: list[_Use], add: Callable[[int | None, float], None]) -> None:
        """Selected channels of storage `n` that are kept instead of all of it."""
        for use in later:
            for ratio, literals in self.ways.get(use.own, {}).items():
                if ratio < 1:
                    for literal in literals:
                        add(literal, use.part_bytes * ratio)

    def _read_by(self, uses: list[_Use]) -> int | None:
        """1 when any of these uses reads the whole storage; None when one always does."""
        if not uses:
            return NEVER
        rows = whole = 0
        for _, serves, own, _ in uses:
            if own >= 0:
                whole |= serves
            else:
                rows |= serves
        return self._any(rows, _bits(whole))

    def _add_clamped(
        self, size: int, compared: int, later: int | None, ever: int | None,
        add: Callable[[int | None, float], None],
    ) -> None:  # fmt: skip
        """A clamped result that a backward operator still compares.

        Whoever reads it whole at any time (`ever`) keeps it until then; otherwise its mask is kept.
        """
        reached = self._reached(compared)
        if ever is None:
            add(reached if later is NEVER else later, size)
        elif ever is not NEVER:
            both = ever if reached is None else self._both(reached, ever)
            add(both if later is NEVER else ever if later == ever else self._or(both, later), size)
        self._add_masks(size / 4, compared, ever, add)

    def _add_masks(
        self, size: int | float, compared: int, ever: int | None, add: Callable[[int | None, float], None]
    ) -> None:
        """Masks kept for the rows of `compared`, where nothing keeps the result itself."""
        if ever is not None:
            add(self._reached(compared) if ever is NEVER else self._beyond(compared, ever), size)

    def _ever(self, n: int) -> int | None:
        """1 when anything in the backward pass reads storage `n` for more than a comparison."""
        return self._read_by([u for u in self._uses[n] if u.serves and self.p.operators[u.at].masks != n])

    def _or(self, a: int, b: int | None) -> int | None:
        """At least 1 when either is."""
        if b is None:
            return None
        variable = self._variable()
        self._rows += [({a: 1.0, variable: -1.0}, 0.0), ({b: 1.0, variable: -1.0}, 0.0)]
        return variable

    def _beyond(self, compared: int, kept: int) -> int:
        """1 when any row of `compared` is trained although `kept` is 0."""
        variable = self._variable()
        reached = self._reached(compared)
        if reached is None:
            self._rows.append(({kept: -1.0, variable: -1.0}, -1.0))
        else:
            self._rows.append(({reached: 1.0, kept: -1.0, variable: -1.0}, 0.0))
        return variable

    def _reuses(self, n: int) -> bool:
        """Could operator `n` write over an operand that it is the last to read?"""
        o = self.p.operators[n]
        return any(
            self.p.operators[s].bytes == o.bytes and max(u for u, *_ in self._uses[s]) == n
            for s in o.operands
        )

    def _own_bytes(self) -> tuple[Terms, Terms, float]:
        """(resident terms, state terms, constant state): parts and their indices, optimizer state."""
        resident: Terms = {}
        state: Terms = {}
        for i, ways in self.ways.items():
            row = self.p.rows[i]
            for ratio, literals in ways.items():
                for literal in literals:
                    part = row.nbytes * ratio
                    stays, shrinks = self.p.state_bytes[i]
                    state[literal] = state.get(literal, 0.0) + stays + shrinks * ratio
                    if ratio < 1:
                        size = part + 8 * ratio * (row.channels or 0)
                        resident[literal] = resident.get(literal, 0.0) + size
        return resident, state, float(self.p.scalar_bytes)

    # ------------------------------------------------------------------ solving

    def solve(self, budget: Budget) -> Plan:
        """The optimum for one budget; the memory constraints found stay for the next."""
        start = time.perf_counter()
        if budget.step_ms is not None and self.p.time is None:
            raise BudgetError(
                "The budget limits step_ms, but this profile holds no measured times. Measure them with "
                "study.analyze(), or leave step_ms out."
            )
        self._refuse_impossible(budget)
        resident, state, scalars = self._own_bytes()
        limits: list[tuple[Terms, float]] = []
        if budget.step_ms is not None:
            limits.append(self._time_limit(budget.step_ms))
        if budget.extra_bytes is not None:
            last = max(n for n, o in enumerate(self.p.operators) if o.forward)
            terms, constant = self._live(Moment(last), boundary=True)
            limits.append((_sum(terms, state), budget.extra_bytes - constant - scalars))
        refused: list[tuple[Terms, float]] = []
        for _ in range(MAX_ROUNDS):
            rows = limits + refused
            if budget.peak_bytes is not None:
                room = budget.peak_bytes - self.p.resident_bytes - scalars
                for terms, constant in self._peak_rows.values():
                    rows.append((_sum(terms, resident, state), room - constant))
            choice = self._optimum(rows, budget)
            figures = self.p.figures(choice)
            over_peak = figures.peak_bytes - (budget.peak_bytes or math.inf)
            over_extra = figures.extra_bytes - (budget.extra_bytes or math.inf)
            if over_peak <= 0 and over_extra <= 0:
                return self._plan(choice, budget, (time.perf_counter() - start) * 1e3)
            moment = self._moment(choice)
            if over_peak > 0 and moment not in self._peak_rows:
                self._peak_rows[moment] = self._live(moment)
            else:  # within the solver's tolerance of a row, or where rows say too little
                refused.append(self._all_but(choice))
        raise BudgetError(
            f"The search did not settle within {MAX_ROUNDS} rounds for {budget}. Allow a little more memory."
        )

    def _all_but(self, choice: Mapping[str, float]) -> tuple[Terms, float]:
        """A row that every plan satisfies except this one."""
        terms = {v: 1.0 if _holds(meaning, choice) else -1.0 for v, meaning in self.meaning.items()}
        return terms, sum(t > 0 for t in terms.values()) - 1.0

    def _moment(self, choice: Mapping[str, float]) -> Moment:
        """The moment of a plan's exact peak."""
        curve = self.p.live_bytes(choice)
        peak = max(range(len(curve)), key=lambda i: curve[i][2])
        number = {o.name: n for n, o in enumerate(self.p.operators)}
        name = curve[peak][0]
        if name in number:
            return Moment(number[name])
        # A joined weight is alive together with all else in the operator that reads it.
        onward = name.startswith("join_")
        steps = curve[peak:] if onward else curve[peak::-1]
        at = next((number[step] for step, *_ in steps if step in number), 0)
        return Moment(at, "" if onward else "select" if name.startswith("select_") else "mask")

    def _time_limit(self, step_ms: float) -> tuple[Terms, float]:
        assert self.p.time is not None
        terms: Terms = {}
        constant = self.p.time.overhead_ms
        for weight, (part, fixed) in zip(self.p.time.ms_per_unit, self._work(), strict=True):
            constant += weight * fixed
            for literal, amount in part.items():
                terms[literal] = terms.get(literal, 0.0) + weight * amount
        return terms, step_ms - constant

    def _work(self) -> list[tuple[Terms, float]]:
        """Work of each kind as (terms, constant)."""
        amounts: list[tuple[Terms, float]] = [({}, 0.0) for _ in WORK_KINDS]
        grouped: dict[tuple[int, int], tuple[float, float]] = {}
        for o in self.p.operators:
            key = o.kind, 0 if o.needed else o.serves
            work, fixed = grouped.get(key, (0.0, 0.0))
            grouped[key] = work + o.work, fixed + o.fixed_work
        for (kind, serves), (work, fixed) in grouped.items():
            terms, constant = amounts[kind]
            single = serves.bit_length() - 1 if serves and serves & (serves - 1) == 0 else -1
            if serves == 0 or (serves & self.always and single < 0):
                amounts[kind] = (terms, constant + work)
            elif single >= 0:
                for ratio, literals in self.ways.get(single, {}).items():
                    for literal in literals:
                        terms[literal] = terms.get(literal, 0.0) + fixed + (work - fixed) * ratio
            else:
                literal = self._reached(serves)
                if literal is None:
                    amounts[kind] = (terms, constant + work)
                else:
                    terms[literal] = terms.get(literal, 0.0) + work
        return amounts

    def _optimum(self, rows: list[tuple[Terms, float]], budget: Budget) -> dict[str, float]:
        all_rows = [*self._rows, *rows]
        data, columns, starts, upper = [], [], [0], []
        for terms, bound in all_rows:
            scale = max((abs(v) for v in terms.values()), default=1.0) or 1.0
            for column, value in terms.items():
                columns.append(column)
                data.append(value / scale)
            starts.append(len(columns))
            upper.append(bound / scale)
        n = len(self._cost)
        matrix = csr_array((data, columns, starts), shape=(len(all_rows), n))
        # Of plans with equal gain the one that reaches less deep, and trains less, is better.
        lower, most, ones = np.array(self._lower), np.array(upper), np.ones(n)
        bounds = Bounds(lower, ones)  # pyright: ignore[reportArgumentType]  (its stubs know scalars only)
        constraints = LinearConstraint(matrix, ub=most)  # pyright: ignore[reportArgumentType]
        tie = 1e-7 * max((-c for c in self._cost), default=1.0)
        with _silent_stdout():
            result = milp(
                np.array(self._cost) + tie,
                integrality=np.array(self._integer),
                bounds=bounds,
                constraints=constraints,
                options={"mip_rel_gap": GAP},
            )
        if result.x is None:
            raise self._too_small(budget)
        choice: dict[str, float] = {}
        for variable, meaning in self.meaning.items():
            if result.x[variable] > 0.5:
                choice |= meaning
        return choice

    def _plan(self, choice: Mapping[str, float], budget: Budget, solve_ms: float) -> Plan:
        plan = self.p.plan(choice, {"made_by": "search", "budget": str(budget)})
        figures = {**plan.predicted, "gain": self.gain(choice), "solve_ms": solve_ms}
        return plan.model_copy(update={"predicted": figures})

    def gain(self, choice: Mapping[str, float]) -> float:
        """The additive prediction for a choice that this programme made."""
        total = 0.0
        biases = 0.0
        for variable, meaning in self.meaning.items():
            if meaning and _holds(meaning, choice):
                value = -self._cost[variable]
                if len(meaning) == 1 and next(iter(meaning)) in self.c.weights:
                    total += value
                elif value > biases:
                    biases = value
        return total + biases

    # ------------------------------------------------------------------ limits

    def smallest(self, by: str) -> float:
        """The least any plan can cost: that of what is fixed, the head alone as a rule."""
        if not self.fixed:
            raise PlanError("Every tensor is locked out, the head too; nothing would be trained.")
        value = getattr(self.p.figures(self.fixed), by)
        if value is None:
            raise BudgetError("This profile holds no measured times, so nothing can be said about step_ms.")
        return float(value)

    def _refuse_impossible(self, budget: Budget) -> None:
        for by in ("peak_bytes", "extra_bytes", "step_ms"):
            limit = getattr(budget, by)
            if limit is not None and limit < self.smallest(by):
                raise self._too_small(budget)

    def _too_small(self, budget: Budget) -> BudgetError:
        parts = []
        for by, unit, scale in (
            ("peak_bytes", "MB", 1e6),
            ("extra_bytes", "MB", 1e6),
            ("step_ms", "ms", 1.0),
        ):
            limit = getattr(budget, by)
            if limit is not None and limit < self.smallest(by):
                # Rounded up, so that the figure printed is itself a budget that can be met.
                least = math.ceil(self.smallest(by) / scale * 1000) / 1000
                parts.append(
                    f"{by} is {limit / scale:.3f} {unit}, the smallest feasible is {least:.3f} {unit}"
                )
        what = "what is locked in" if len(self.fixed) > len(self.c.head or self.p.head) else "the head alone"
        return BudgetError(
            f"No plan meets the budget: {'; '.join(parts) or 'its limits exclude each other'}. "
            f"That is what training {what} costs. Raise the budget, or make the batch or the input smaller."
        )


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """HiGHS prints a line of its own debugging to the process's stdout, into whatever a script parses."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _holds(meaning: Mapping[str, float], choice: Mapping[str, float]) -> bool:
    return all(choice.get(fqn) == ratio for fqn, ratio in meaning.items())


def _sum(*parts: Terms) -> Terms:
    total: Terms = {}
    for part in parts:
        for k, v in part.items():
            total[k] = total.get(k, 0.0) + v
    return total


def _bits(rows: int) -> Iterable[int]:
    while rows:
        low = rows & -rows
        yield low.bit_length() - 1
        rows ^= low
