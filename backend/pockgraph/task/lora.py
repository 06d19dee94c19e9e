"""LoRA: linear layers that learn a low-rank change beside a frozen weight (arXiv 2106.09685).

An adapted layer computes x W^T + b + (alpha / rank) (x A^T) B^T, with A `[rank, inputs]` drawn and
B `[outputs, rank]` zero at first, so that the network begins as it was. It is a network like any other:
traced, planned and compiled as it stands.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import TaskError, listing, require, suggest
from ..globs import matches
from .task import Task

# What the paper adapts, as common libraries call it.
QUERY_AND_VALUE = ("*query", "*value", "*q_proj", "*v_proj", "*q_lin", "*v_lin")
ADAPTERS = ("*.lora_a.weight", "*.lora_b.weight")
# They read the weights of their linear layers themselves, so that an adapter would be passed by.
_READ_WEIGHTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank change; weight and bias keep their names."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        with torch.random.fork_rng(devices=[]):  # the constructors draw what is replaced below
            self.lora_a = nn.Linear(base.in_features, rank, bias=False, **like)
            self.lora_b = nn.Linear(rank, base.out_features, bias=False, **like)
        self.scale = alpha / rank
        bound = 1 / math.sqrt(base.in_features)
        drawn = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            self.lora_a.weight.copy_(drawn)
            self.lora_b.weight.zero_()

    def forward(self, input: Tensor) -> Tensor:
        """`[..., inputs]` -> `[..., outputs]`."""
        return F.linear(input, self.weight, self.bias) + self.lora_b(self.lora_a(input)) * self.scale

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        plain = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, self.weight.device, self.weight.dtype
        )
        plain.weight.copy_(self.weight + self.scale * self.lora_b.weight @ self.lora_a.weight)
        if self.bias is not None:
            plain.bias.copy_(self.bias)
        return plain.train(self.training)


def lora(
    task: Task,
    layers: str | Sequence[str] = QUERY_AND_VALUE,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    trained: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Task:
    """The task of training low-rank adapters: everything else of a copy of the model is frozen.

    `Plan.full` of its graph trains all adapters. `merge_lora` makes a plain network of what was trained.

    Args:
        task: its model is left as it is.
        layers: names or globs of linear layers; queries and values of attention by default.
        rank: of the change. alpha: it is scaled by `alpha / rank`.
        trained: names or globs of parameters that are trained whole beside the adapters; those that the
            task draws fresh, as a new head, unless given.
        seed: draws the adapters; they count as fresh, so each seed of a measurement draws them anew.

    Raises:
        TaskError: a pattern that matches no linear layer, or no parameter; a layer whose weight its module
            reads itself; a rank or alpha that is none.
    """
    require(TaskError, "task", task, Task, "Pass a pockgraph.Task: the model with its loss, metric and data.")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise TaskError(f"lora: rank={rank!r} must be a whole number of 1 or more, such as 8.")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise TaskError(f"lora: alpha={alpha!r} must be a number above 0, such as 16.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise TaskError(f"lora: seed={str(seed)[:40]!r} must be a whole number of 0 or more.")
    model = _copied(task.model)
    modules = dict(model.named_modules(remove_duplicate=False))  # of a layer used twice, both names
    linear = {name: m for name, m in modules.items() if name and isinstance(m, nn.Linear)}
    if any(isinstance(m, LoraLinear) for m in linear.values()):
        raise TaskError(
            f"lora: the model of task {task.name!r} is adapted already. Pass the task it was made of."
        )
    names = _matching(task, list(linear), layers, "linear layer")
    if not names:
        raise TaskError("lora: `layers` is empty. Name at least one linear layer, or leave it out.")
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, _READ_WEIGHTS) or type(linear[name]).forward is not nn.Linear.forward:
            raise TaskError(
                f"lora: {name!r} cannot be adapted: {type(parent).__name__} or the layer's own class "
                f"({type(linear[name]).__name__}) computes with its weight in a way of its own, which an "
                "adapter would not take part in. Leave it out of `layers`, or write it as a plain nn.Linear."
            )
    parameters = [fqn for fqn, _ in model.named_parameters()]
    whole = task.fresh_fqns() if trained is None else _matching(task, parameters, trained, "parameter")
    for fqn, parameter in model.named_parameters():
        parameter.requires_grad_(fqn in whole)
    generator = torch.Generator().manual_seed(seed)
    adapted: dict[nn.Module, LoraLinear] = {
        linear[name]: LoraLinear(linear[name], rank, alpha, generator) for name in names
    }
    for name, module in modules.items():
        if module in adapted:
            model.set_submodule(name, adapted[module])
    fresh = (*task.fresh, ADAPTERS[0])
    return replace(task, name=f"{task.name}-lora", model=model, fresh=fresh, reference="")


def merge_lora(model: nn.Module) -> nn.Module:
    """A copy of a model in which every adapted layer is a plain linear layer that computes the same.

    Raises:
        TaskError: no layer of it is adapted.
    """
    require(TaskError, "model", model, nn.Module, "Pass the network, such as the model of the task.")
    plain = _copied(model)
    merged: dict[nn.Module, nn.Module] = {m: m.merged() for m in plain.modules() if isinstance(m, LoraLinear)}
    if not merged:
        raise TaskError("This model has no layer that pockgraph.lora adapted, so there is nothing to merge.")
    for name, module in list(plain.named_modules(remove_duplicate=False)):
        if module in merged and name:
            plain.set_submodule(name, merged[module])
    return merged.get(plain, plain)


def _copied(model: nn.Module) -> nn.Module:
    """With weights that a hook assigns (weight norm, pruning), which torch does not copy, as they are now."""
    held = (value for module in model.modules() for value in vars(module).values())
    memo = {id(t): t.detach().clone() for t in held if isinstance(t, torch.Tensor) and not t.is_leaf}
    return copy.deepcopy(model, memo)


def _matching(task: Task, known: list[str], patterns: str | Sequence[str], what: str) -> list[str]:
    """The names that patterns mean; of the default ones, any may match nothing."""
    given = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(given, Sequence) or not all(isinstance(p, str) for p in given):
        raise TaskError(f"lora: {str(patterns)[:40]!r} must be names or globs, as in ('*.query', '*.value').")
    given = tuple(given)
    found = [name for name in known if any(matches(name, p) for p in given)]
    missed = [p for p in given if not any(matches(name, p) for name in known)]
    if missed and (given != QUERY_AND_VALUE or not found):
        near = suggest(missed[0], known)
        raise TaskError(
            f"The model of task {task.name!r} has no {what} {listing([repr(p) for p in missed], 3)}, nor one "
            f"that it matches.{near} There are {listing(known, 4) if known else 'none'}."
        )
    return found
