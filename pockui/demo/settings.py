"""How thorough a comparison is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TUNING_SEED = 1000  # of no final run
FIRST_FORECAST_SEED = 2000  # of no measurement


@dataclass(frozen=True)
class Settings:
    """How thorough a comparison is.

    Attributes:
        seeds: of the final runs: each draws a head and the order of the batches.
        steps: of a final run; `tuning_steps`: of a trial.
        rates: the grid of learning rates, which `tuning.tune` may leave.
        validation_batches: how many judge a trial; None takes all.
        analysis: passed to `Study.analyze`; None takes its quick settings.
        forecast_seeds: of the trainings, as the analysis trains, that forecasts are held against.
        blocks, block_steps: rounds of the interleaved timing, and steps in each.
        eager_methods: methods that plain PyTorch is timed with too; `eager_trains`: those it trains.
        compiled: time `torch.compile` as well.
        equal_memory: search a second plan, within the preset's modelled peak.
        baselines: within that peak, compare ElasticTrainer's selection too; and, where `adapters`, LoRA.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 300
    tuning_steps: int = 150
    rates: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01)
    validation_batches: int | None = None
    analysis: Mapping[str, Any] | None = None
    forecast_seeds: tuple[int, ...] = (FIRST_FORECAST_SEED,)
    blocks: int = 8
    block_steps: int = 5
    eager_methods: tuple[str, ...] = ("head", "biases", "preset", "auto", "full")
    eager_trains: tuple[str, ...] = ("full",)
    compiled: bool = True
    equal_memory: bool = True
    baselines: bool = True
    adapters: bool = False


def settings_for(which: str, quick: bool, seeds: int | None, all_baselines: bool | None = None) -> Settings:
    """The settings of a demo: under three minutes on two idle cores if `quick`, else about twenty.

    Args:
        all_baselines: whether other methods of choosing are compared; not if `quick`, unless given.
    """
    adapters = which == "text"
    baselines = not quick if all_baselines is None else all_baselines
    if quick:
        return Settings(
            seeds=tuple(range(seeds or 1)), steps=120, tuning_steps=60, rates=(0.001, 0.003, 0.01),
            validation_batches=64, blocks=3, block_steps=4, eager_methods=("auto", "full"), compiled=False,
            equal_memory=False, baselines=baselines, adapters=adapters,
        )  # fmt: skip
    chosen = tuple(range(seeds or 3))
    forecast_seeds = tuple(FIRST_FORECAST_SEED + n for n in chosen)
    if which == "text":  # a step takes ten times as long as one of vision
        analysis = {"steps": 25, "seeds": (0,), "ratios": (1.0, 0.25), "batches": 32}
        return Settings(
            seeds=chosen, steps=200, tuning_steps=100, rates=(0.001, 0.003, 0.01, 0.03), analysis=analysis,
            forecast_seeds=forecast_seeds, baselines=baselines, adapters=adapters,
        )  # fmt: skip
    analysis = {"steps": 40, "seeds": (0,), "ratios": (1.0, 0.25), "batches": 50}
    return Settings(
        seeds=chosen, steps=400, tuning_steps=200, rates=(0.0003, 0.001, 0.003, 0.01), analysis=analysis,
        forecast_seeds=forecast_seeds, baselines=baselines,
    )  # fmt: skip
