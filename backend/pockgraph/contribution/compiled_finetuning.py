"""Plans compiled for a target: seconds each, which pays when a plan takes many steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from ..files import ScratchFolder
from ..plan import Plan
from ..train_graph import TrainGraph
from .data import Data


class CompiledBackend:
    """Compiles every plan for a target and runs it with a `Trainer`."""

    def __init__(self, graph: TrainGraph, data: Data, target: str, threads: int | None = None) -> None:
        self.target = target
        self._graph, self._data, self._threads = graph, data, threads

    def prepare(self, plan: Plan) -> CompiledFinetuner:
        return CompiledFinetuner(self._graph, plan, self._data, self.target, self._threads)


class CompiledFinetuner:
    """A `Finetuner` on a target; its artefact lives in a temporary folder."""

    def __init__(self, graph: TrainGraph, plan: Plan, data: Data, target: str, threads: int | None) -> None:
        from ..artifact.compiler import compile
        from ..runtime import Trainer

        self.plan, self._data = plan, data
        self._folder = ScratchFolder("finetune")
        try:
            # Compiled once a measurement, and never shipped.
            out = self._folder.path / "out"
            compile(graph.without_predictions(), plan, target=target, out=out, parity=False)
            self._trainer = Trainer.load(out, threads=threads)
        except BaseException:
            self._folder.close()
            raise

    def reset(self, fresh: Mapping[str, torch.Tensor]) -> None:
        self._trainer.reset({k: v.numpy() for k, v in fresh.items() if k in self.plan.tensors})

    def train(self, seed: int, lr: float) -> Iterator[float]:
        self._trainer.seed = seed
        for batch in self._data.train(seed):
            yield self._trainer.step(batch, lr).loss

    def evaluate(self) -> Iterator[np.ndarray]:
        for batch, samples in self._data.validation():
            yield self._trainer.evaluate([batch]).values[:samples]

    def close(self) -> None:
        self._folder.close()
