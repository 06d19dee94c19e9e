"""Linear expressions of binary variables, and the solver (HiGHS) that finds the least of one.

A variable is a column number. A *literal* is what an amount depends on: a variable, `None` where it is
always 1, or `NEVER`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

GAP = 1e-9  # relative, of the gain: what is called exact is
ABSOLUTE_GAP = 1e-6  # HiGHS stops there, too, and scipy has no option for it
NEVER = -1  # a literal that is always 0

Terms = dict[int, float]
Constraint = tuple[Terms, float]  # sum(terms) <= bound


@dataclass(slots=True)
class Linear:
    """A constant, and the sum of factor x variable over `terms`."""

    terms: Terms = field(default_factory=dict)
    constant: float = 0.0

    def add(self, literal: int | None, amount: float) -> None:
        """Counts an amount when the literal is 1."""
        if literal is None:
            self.constant += amount
        elif literal != NEVER:
            self.terms[literal] = self.terms.get(literal, 0.0) + amount

    def add_all(self, other: Linear, factor: float) -> None:
        """Counts another expression, multiplied."""
        self.constant += factor * other.constant
        for literal, amount in other.terms.items():
            self.add(literal, factor * amount)

    def __add__(self, other: Linear) -> Linear:
        terms = dict(self.terms)
        for variable, factor in other.terms.items():
            terms[variable] = terms.get(variable, 0.0) + factor
        return Linear(terms, self.constant + other.constant)

    def at_most(self, limit: float) -> Constraint:
        """The constraint that keeps this expression within a limit."""
        return self.terms, limit - self.constant


def minimize(
    cost: Sequence[float], integer: Sequence[int], lower: Sequence[float], constraints: Sequence[Constraint]
) -> list[float] | None:
    """The variables, from `lower` to 1, of least cost within the constraints; None: they allow nothing."""
    data, columns, starts, upper = [], [], [0], []
    for terms, bound in constraints:
        scale = max((abs(v) for v in terms.values()), default=1.0) or 1.0
        for column, value in terms.items():
            columns.append(column)
            data.append(value / scale)
        starts.append(len(columns))
        upper.append(bound / scale)
    n = len(cost)
    matrix = csr_array((data, columns, starts), shape=(len(constraints), n))
    lowest, most, ones = np.array(lower), np.array(upper), np.ones(n)
    bounds = Bounds(lowest, ones)  # pyright: ignore[reportArgumentType]  (its stubs know scalars only)
    within = LinearConstraint(matrix, ub=most)  # pyright: ignore[reportArgumentType]
    scaled = np.array(cost)
    scaled *= ABSOLUTE_GAP / GAP / (np.abs(scaled).max(initial=0.0) or 1.0)
    with _silent_stdout():
        result = milp(
            scaled,
            integrality=np.array(integer),
            bounds=bounds,
            constraints=within,
            options={"mip_rel_gap": GAP},
        )
    return None if result.x is None else result.x.tolist()


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
