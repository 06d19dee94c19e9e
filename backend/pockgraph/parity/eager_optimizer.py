"""The update that `torch.optim` and PyTorch's own utilities make: the truth for a graph's update phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..globs import matches
from ..ir.slot_names import EMA
from ..optimizer import Optimizer


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv 2302.06675, which torch.optim lacks."""

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
            for p in group["params"]:
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - lr * decay)
                p.add_(torch.sign(m * beta1 + p.grad * (1 - beta1)), alpha=-lr)
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


TORCH_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "lion": Lion,
    "adafactor": torch.optim.Adafactor,
}


class EagerOptimizer:
    """What a plain training loop does besides loss and backward, with `torch.optim` and PyTorch's utilities.

    A step leaves each micro-batch's gradient in `.grad`, added up over a cycle, as eager loops do.

    Args:
        leaves: FQN -> what learns, updated in place.

    Attributes:
        micro_batches: how many backward passes make an update; each loss is divided by that.
    """

    def __init__(self, optimizer: Optimizer, leaves: Mapping[str, Tensor]) -> None:
        options = optimizer.to_dict()
        kind = TORCH_CLASSES[options.pop("name")]
        self.leaves = leaves
        self.micro_batches: int = options.pop("accumulate", 1)
        self._clip_norm: float | None = options.pop("clip_norm", None)
        self._ema_decay: float | None = options.pop("ema_decay", None)
        if "eps" in options and kind is torch.optim.Adafactor:
            # None is the machine epsilon of the tensor's dtype, which would be another rule in float64.
            first, second = options["eps"]
            options["eps"] = (torch.finfo(torch.float32).eps if first is None else first, second)
        self.torch = kind(_groups(leaves, options.pop("groups", [])), **options)
        self._seen = 0
        self._average: list[Tensor] | None = None

    def zero_grad(self) -> None:
        """Before a cycle's first micro-batch; does nothing before the others."""
        if self._seen % self.micro_batches == 0:
            for leaf in self.leaves.values():
                leaf.grad = None

    def step(self, lr: float) -> None:
        """After `backward` of one micro-batch's loss, divided by `micro_batches`; the last one updates."""
        if self._average is None and self._ema_decay is not None:
            self._average = self._copies()
        self._seen += 1
        if self._seen % self.micro_batches:
            return
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(list(self.leaves.values()), self._clip_norm)
        for group in self.torch.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.torch.step()
        if self._average is not None and self._ema_decay is not None:
            torch.optim.swa_utils.get_ema_multi_avg_fn(self._ema_decay)(
                self._average, [p.detach() for p in self.leaves.values()], torch.tensor(1)
            )

    def skip_to(self, micro_step: int) -> None:
        """Go on with that micro-batch of the cycle, as if those before it had no gradient."""
        self._seen += (micro_step - self._seen) % self.micro_batches

    def value_of(self, fqn: str, key: str) -> Tensor | None:
        """A weight (no key), its average, or a state of `torch.optim`'s; None where there is none."""
        if not key:
            return self.leaves[fqn]
        if key == EMA:
            return self.average[fqn]
        return self.torch.state[self.leaves[fqn]].get(key)

    @property
    def average(self) -> dict[str, Tensor]:
        """What evaluation reads: the average where one is kept, else the weights."""
        return dict(zip(self.leaves, self._average)) if self._average is not None else dict(self.leaves)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The leaves are their average meanwhile, where one is kept."""
        if self._average is None:
            yield
            return
        own = self._copies()
        try:
            _copy(self._average, self.leaves.values())
            yield
        finally:
            _copy(own, self.leaves.values())

    def forget(self) -> None:
        """Drop gradients, state and average."""
        self._seen, self._average = 0, None
        self.zero_grad()
        self.torch.state.clear()

    def _copies(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.leaves.values()]


def _groups(leaves: Mapping[str, Tensor], described: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One parameter group for all leaves of equal options: `torch.optim` loops over groups."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for fqn, leaf in leaves.items():
        group = next((g for g in described if matches(fqn, g["pattern"])), {})
        own = {"weight_decay": group["weight_decay"]} if "weight_decay" in group else {}
        own["lr_scale"] = group.get("lr_scale", 1.0)
        found.setdefault(tuple(sorted(own.items())), {"params": [], **own})["params"].append(leaf)
    return list(found.values())


@torch.no_grad()
def _copy(values: Iterable[Tensor], into: Iterable[Tensor]) -> None:
    for value, leaf in zip(values, into, strict=True):
        leaf.copy_(value)
