"""Made-up tasks whose true gains are known, measured as an analysis measures: with noise, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pockgraph.contribution import Candidate, Contribution, Measurement, tabulate
from pockgraph.contribution.gains import HEAD

RATIOS = (0.25, 1.0)


class SyntheticTask:
    """Weights `w0`… and biases `b0`… whose gains close shares of a headroom; a metric of `samples`."""

    def __init__(
        self, seed: int, weights: int = 8, biases: int = 3, noise: float = 0.015, samples: int = 400
    ):
        self.rng = rng = np.random.default_rng(seed)
        self.head = rng.uniform(0.4, 0.9)
        self.headroom = (1 - self.head) * rng.uniform(0.2, 0.95)
        self.noise, self.samples = noise, samples
        size = self.headroom * rng.uniform(0.05, 0.3)
        whole = rng.normal(0.5, 1, weights) * size
        self.scores = {
            (f"w{i}", r): s * r ** rng.uniform(0.2, 0.8) for i, s in enumerate(whole) for r in RATIOS
        }
        self.bias_order = tuple(f"b{i}" for i in range(biases))
        self.bias_scores = [abs(rng.normal()) * size * (k / biases) ** 0.5 for k in range(biases + 1)]
        self.weights = [f"w{i}" for i in range(weights)]

    def gain(self, choice: Mapping[str, float]) -> float:
        """The true gain over the head alone."""
        total = sum(self.scores[w, choice[w]] for w in self.weights if choice.get(w))
        total += self.bias_scores[sum(b in choice for b in self.bias_order)]
        if total < 0:
            return self.head * math.expm1(total / self.head)
        return -self.headroom * math.expm1(-total / self.headroom)

    def train(self, choice: Mapping[str, float], seed: int) -> float:
        """One training's metric; half of its noise's variance is the seed's, for every choice alike."""
        shared = np.random.default_rng([seed, 1]).normal()
        own = self.rng.normal()
        metric = self.head + self.gain(choice) + self.noise * (shared + own)
        return float(np.clip(np.round(metric * self.samples) / self.samples, 0, 1))

    def table(self, seeds: int) -> Contribution:
        """What an analysis would say."""
        candidates = [(HEAD, {})]
        candidates += [(Candidate("weight", w, r), {w: r}) for w, r in self.scores]
        candidates += [
            (Candidate("bias_k", k=k), dict.fromkeys(self.bias_order[:k], 1.0))
            for k in range(1, len(self.bias_order) + 1)
        ]
        found = tabulate(
            [
                measurement(c, seed, self.train(choice, seed))
                for c, choice in candidates
                for seed in range(seeds)
            ],
            (),
            self.bias_order,
        )
        assert found is not None
        return found

    def random_plan(self) -> dict[str, float]:
        share = self.rng.uniform(0.1, 1)
        choice = {w: float(self.rng.choice(RATIOS)) for w in self.weights if self.rng.random() < share}
        return choice | dict.fromkeys(self.bias_order[: self.rng.integers(len(self.bias_order) + 1)], 1.0)

    def best(self, table: Contribution, most: int = 4) -> dict[str, float]:
        """The weights of the largest gains in a table, so many at most: what a search would pick."""
        ratios = {w: max((gain.mean, r) for r, gain in table.weights[w].items()) for w in self.weights}
        return {w: ratios[w][1] for w in sorted(ratios, key=ratios.__getitem__)[-most:] if ratios[w][0] > 0}


def measurement(
    candidate: Candidate, seed: int, metric: float, lr: float = 0.1, steps: int = 10
) -> Measurement:
    return Measurement(
        0, "contribution", candidate, seed, "done", lr, steps, "torch", metric, 0.0, 0.0, 0.0, ""
    )
