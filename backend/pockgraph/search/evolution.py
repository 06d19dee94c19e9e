"""The paper's search, for comparison: a genetic algorithm over the same decisions (arXiv 2310.17752).

A gene is a choice of `PlanVariables`: which ratio of a weight, or how many of the last biases. Plans are
costed as they are (`Profile.figures`), not by linear expressions, and one that breaks the budget or a
constraint loses against every one that breaks less. What it finds is good; that it is best, only
`integer_program.py` knows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PlanError
from ..plan import Budget
from ..profile import Figures, Profile
from .linear_solver import Constraint
from .plan_variables import PlanVariables

if TYPE_CHECKING:
    from numpy.typing import NDArray

POPULATION = 64
GENERATIONS = 80
TRAINED_RATIO = 0.15  # of the genes of the first plans, on average


class Evolution:
    """One run of the genetic algorithm, the same for the same seed."""

    def __init__(self, profile: Profile, variables: PlanVariables, budget: Budget, seed: int) -> None:
        self.p, self.v, self.budget, self.seed = profile, variables, budget, seed
        self._known: dict[bytes, tuple[float, list[float]]] = {}

    def best(self) -> dict[str, float] | None:
        """FQN -> ratio of the best plan found; None where no plan that was tried is allowed."""
        if not self.v.choices:
            return self.ratios(np.zeros(0, int))
        ga, minimize, problem, sampling, crossover, mutation, repair = _pymoo()
        evolution = self
        most = [len(decisions) for decisions in self.v.choices]

        class Plans(problem.Problem):
            def __init__(self) -> None:
                rows = len(evolution.evaluate(np.zeros(len(most), int))[1])
                super().__init__(
                    n_var=len(most), n_obj=1, n_ieq_constr=rows, xl=0, xu=np.array(most), vtype=int
                )

            def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
                found = [evolution.evaluate(genes) for genes in x]
                out["F"] = np.array([[-gain] for gain, _ in found])
                out["G"] = np.array([over for _, over in found])

        class SparsePlans(sampling.Sampling):
            def _do(self, problem: Any, n_samples: int, **_: Any) -> NDArray[Any]:
                random = np.random.default_rng(evolution.seed)
                # From the head alone to plans of many tensors, so that some keep within any budget.
                trained = random.random((n_samples, 1)) * 2 * TRAINED_RATIO
                trained[0] = 0.0
                genes = random.integers(1, np.array(most) + 1, (n_samples, len(most)))
                return np.where(random.random(genes.shape) < trained, genes, 0)

        result = minimize.minimize(
            Plans(),
            ga.GA(
                pop_size=POPULATION,
                sampling=SparsePlans(),
                crossover=crossover.UniformCrossover(),
                mutation=mutation.PM(
                    prob_var=1.5 / len(most), eta=3.0, vtype=float, repair=repair.RoundingRepair()
                ),
                eliminate_duplicates=True,
            ),
            ("n_gen", GENERATIONS),
            seed=self.seed,
            verbose=False,
        )
        return None if result.X is None else self.ratios(np.asarray(result.X, int))

    def decided(self, genes: NDArray[Any]) -> list[float]:
        """The values of the decisions that genes stand for."""
        values = list(self.v.lower)
        for decisions, gene in zip(self.v.choices, genes, strict=True):
            if gene > 0:
                values[decisions[gene - 1]] = 1.0
        return values

    def ratios(self, genes: NDArray[Any]) -> dict[str, float]:
        return self.v.ratios(self.decided(genes))

    def evaluate(self, genes: NDArray[Any]) -> tuple[float, list[float]]:
        """(gain, by how much each limit is exceeded, as a share of it; at most 0 where it is kept)."""
        key = np.asarray(genes, np.int16).tobytes()
        if key not in self._known:
            values = self.decided(genes)
            gain = -sum(cost * value for cost, value in zip(self.v.cost, values))
            over = [_excess(rule, values) for rule in self.v.rules]
            self._known[key] = gain, [*over, *self._over_budget(self.p.figures(self.v.ratios(values)))]
        return self._known[key]

    def _over_budget(self, figures: Figures) -> list[float]:
        return [getattr(figures, by) / limit - 1 for by, limit in self.budget.limits.items()] or [0.0]


def _excess(rule: Constraint, values: list[float]) -> float:
    terms, bound = rule
    return sum(factor * values[variable] for variable, factor in terms.items()) - bound


def _pymoo() -> tuple[Any, ...]:
    """The modules of pymoo that are needed, which nothing else here imports.

    Raises:
        PlanError: it is not installed.
    """
    names = (
        "algorithms.soo.nonconvex.ga", "optimize", "core.problem", "core.sampling", "operators.crossover.ux",
        "operators.mutation.pm", "operators.repair.rounding",
    )  # fmt: skip
    find: Callable[[str], Any] = importlib.import_module
    try:
        find("pymoo.config").Config.warnings["not_compiled"] = False
        return tuple(find(f"pymoo.{name}") for name in names)
    except ModuleNotFoundError as e:
        raise PlanError(
            f"The evolutionary search needs pymoo, which cannot be imported ({e}). Install it with "
            "pip install 'pockui[search]', or take the exact search, which is never worse."
        ) from e
