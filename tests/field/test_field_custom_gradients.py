"""Backward passes that the user wrote: custom functions, hooks, checkpointing, gradients in the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from users import assert_as_eager, batches, mlp, task

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.ir.interpreter import interpret

DATA = batches(8, 12)


class Round(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore
        return grad


class Reverse(torch.autograd.Function):
    """Gradient reversal, in the newer form."""

    @staticmethod
    def forward(x: Tensor, strength: float) -> Tensor:  # pyright: ignore
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        return -ctx.strength * grad, None


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        return (grad @ weight).clamp(-0.01, 0.01), (grad.t() @ x) * 2


class Between(nn.Module):
    """Two layers with something in between."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class WithWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(12, 16), nn.Parameter(torch.randn(5, 16))

    def forward(self, x: Tensor) -> Tensor:
        return Clipped.apply(self.first(x).relu(), self.weight)  # pyright: ignore


def hooked(x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(lambda g: 3 * g)
    return x.relu()


BETWEEN = {
    "straight-through": lambda x: Round.apply(x * 4) / 4,  # pyright: ignore
    "reversal": lambda x: Reverse.apply(x, 0.5),
    "detach trick": lambda x: x + (x.sign() - x).detach(),
    "tensor hook": hooked,
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_a_backward_pass_of_ones_own_is_kept(kind: str, target: str) -> None:
    assert_as_eager(task(Between(BETWEEN[kind]), DATA), target)


def test_a_custom_function_with_a_weight_is_kept(target: str) -> None:
    assert_as_eager(task(WithWeight(), DATA), target)


def test_module_hooks_are_kept() -> None:
    net = mlp()
    net[0].register_full_backward_hook(lambda m, gin, gout: tuple(None if g is None else 2 * g for g in gin))
    net[2].register_full_backward_pre_hook(lambda m, gout: tuple(0.5 * g for g in gout))
    net[1].register_forward_hook(lambda m, args, out: out * 1.5)
    graph = pg.build(task(net, DATA))
    _assert_gradients(graph, net)


def test_a_hook_of_a_parameter_is_kept() -> None:
    net = mlp()
    net[0].weight.register_hook(lambda g: g * (net[0].weight > 0))
    _assert_gradients(pg.build(task(net, DATA)), net)


def _assert_gradients(graph: Any, net: nn.Module) -> None:
    found = interpret(graph.gradients, DATA[0])
    net.zero_grad()
    F.cross_entropy(net(DATA[0]["x"]), DATA[0]["y"]).backward()
    for fqn, p in net.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(found[f"grad:{fqn}"], p.grad)


def test_a_hook_after_accumulation_is_refused() -> None:
    net = mlp()
    net[0].weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(PockError, match=r"post-accumulate-grad hook.*'0\.weight'"):
        pg.build(task(net, DATA))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.body, self.reentrant = nn.Linear(12, 12), mlp(), reentrant
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return checkpoint(lambda h: self.drop(self.body(h)), h, use_reentrant=self.reentrant)  # pyright: ignore


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_is_right(reentrant: bool) -> None:
    assert_as_eager(task(Checkpointed(reentrant), DATA), "openvino")


@pytest.mark.parametrize("reentrant", [True, False])
def test_dropout_inside_a_checkpoint_has_one_mask(reentrant: bool) -> None:
    """PyTorch restores the random state before it recomputes: the graph is that without a checkpoint."""

    class Plain(Checkpointed):
        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.body(self.first(x).tanh()))

    codes = {pg.build(task(net(reentrant, 0.3), DATA, dropout=True)).code() for net in (Plain, Checkpointed)}
    assert len(codes) == 1


def test_a_reentrant_checkpoint_of_the_input_trains_nothing_as_in_pytorch() -> None:
    class FromInput(Checkpointed):
        def forward(self, x: Tensor) -> Tensor:
            return self.body[2](checkpoint(self.body[:2], x[:, :12], use_reentrant=True))  # pyright: ignore

    graph = pg.build(task(FromInput(True), DATA))
    assert {r.fqn for r in graph.tensors} == {"body.2.weight", "body.2.bias"}


def test_sequential_checkpointing_is_right() -> None:
    class Sequential(Checkpointed):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint_sequential(self.body, 2, self.first(x), use_reentrant=False)  # pyright: ignore

    assert_as_eager(task(Sequential(False), DATA), "torch")


def test_a_gradient_penalty_is_differentiated_twice(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        x = b["x"].clone().requires_grad_()
        out = m(x)
        (g,) = torch.autograd.grad(out.tanh().sum(), x, create_graph=True)
        return F.cross_entropy(out, b["y"]) + (g.norm(dim=1) - 1).square().mean()

    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5))
    assert_as_eager(task(net, DATA, loss), target)


def test_a_custom_operator_with_its_own_backward_is_kept_by_the_graph() -> None:
    @torch.library.custom_op("pock_field::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x * 2

    twice.register_fake(lambda x: torch.empty_like(x))
    twice.register_autograd(lambda ctx, grad: grad * 5, setup_context=lambda ctx, inputs, output: None)
    net = Between(twice)
    graph = pg.build(task(net, DATA))
    _assert_gradients(graph, net)
    assert "pock_field" in str(graph.check("openvino"))


def test_a_custom_operator_without_a_shape_is_refused_by_name() -> None:
    @torch.library.custom_op("pock_field::shapeless", mutates_args=())
    def shapeless(x: Tensor) -> Tensor:
        return x * 2

    with pytest.raises(PockError, match=r"pock_field::shapeless.*register_fake"):
        pg.build(task(Between(shapeless), DATA))
