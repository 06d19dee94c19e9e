"""Models as people write them: what is captured, and what is said when it cannot be."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune, weight_norm
from users import assert_as_eager, batches, cross_entropy, mlp, summed, task

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.ir.interpreter import interpret

DATA = batches(8, 12)
MODULE_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def gradients_are_eagers(
    net: nn.Module, loss: Callable[..., Tensor] = cross_entropy, data: Any = DATA
) -> None:
    found = interpret(pg.build(task(net, data, loss)).gradients, data[0])
    net.zero_grad()
    loss(net, data[0]).backward()
    for fqn, p in net.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[f"grad:{fqn}"], p.grad, rtol=1e-4, atol=1e-6)


def refused(
    net: nn.Module, match: str, loss: Callable[..., Tensor] = cross_entropy, data: Any = DATA
) -> None:
    with pytest.raises(PockError, match=match) as caught:
        pg.build(task(net, data, loss))
    for internal in ("FakeTensor", "proxy", "Proxy", "aten::", "make_fx", "torch.export", "0x"):
        assert internal not in str(caught.value), str(caught.value)


class Net(nn.Module):
    """A network whose forward is the given function of itself and x."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body, self._forward = mlp(), forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


# ---------------------------------------------------------------- in-place operators that autograd leaves


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Unflatten(1, (4, 3)), nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"),
                      nn.Flatten(), nn.Linear(18, 5)),
        Net(lambda m, x: m.body(F.adaptive_avg_pool1d(x.reshape(8, 3, 4).transpose(1, 2), 3).flatten(1))),
        Net(lambda m, x: m.body(_assigned(x * 2))),
        Net(lambda m, x: _assigned(m.body(x))),
        Net(lambda m, x: m.body(x).add_(1).mul_(2)),
    ],
    ids=["circular padding", "transposed pooling", "assigned input", "assigned output", "in-place"],
)  # fmt: skip
def test_in_place_work_inside_the_step_is_right(net: nn.Module, target: str) -> None:
    assert_as_eager(task(net, DATA), target)


def _assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = y[:, 1] * 2
    y[:, 2:4] += 1
    return y


# ---------------------------------------------------------------- kinds of modules


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.block = nn.Linear(12, 8), nn.Linear(8, 8)
        self.again, self.leave = self.block, nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.again(self.block(self.enter(x)).tanh()).tanh())


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(12, 12) * 0.2) for _ in range(2)])
        self.heads = nn.ParameterDict({"out": nn.Parameter(torch.randn(12, 5))})

    def forward(self, x: Tensor) -> Tensor:
        for w in self.weights:
            x = (x @ w).tanh()
        return x @ self.heads["out"]


class Slotted(nn.Module):
    __slots__ = ("scale",)

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale = mlp(), 2.0

    def forward(self, x: Tensor, **how: Any) -> Tensor:
        return self.body(x) * how.get("scale", self.scale)


def pruned() -> nn.Module:
    net = mlp()
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    return net


def spectral() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(12, 8)), nn.Tanh(), nn.Linear(8, 5))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "shared layers": Shared,
    "parameter lists": Lists,
    "slots and keywords": Slotted,
    "pruning masks": pruned,
    "old spectral norm": spectral,
    "old weight norm": lambda: nn.Sequential(weight_norm(nn.Linear(12, 8)), nn.Tanh(), nn.Linear(8, 5)),
    "parametrized weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(12, 8)), nn.Tanh(), nn.Linear(8, 5)
    ),
    "data parallel": lambda: nn.DataParallel(mlp()),
    "torch.compile": lambda: torch.compile(mlp()),  # pyright: ignore
}


@pytest.mark.parametrize("kind", KINDS)
def test_modules_of_every_kind(kind: str) -> None:
    net = KINDS[kind]()
    if kind == "torch.compile":  # eager PyTorch, without waiting for a compiler
        with torch.compiler.set_stance("force_eager"):
            gradients_are_eagers(net)
    else:
        gradients_are_eagers(net)


def test_a_recurrent_layer_reads_the_weights_that_train() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.reshape(8, 3, 4))[0][:, -1])

    gradients_are_eagers(Recurrent())


def test_a_model_that_returns_a_dataclass() -> None:
    @dataclass
    class Output:
        logits: Tensor
        hidden: Tensor

    net = Net(lambda m, x: Output(m.body(x), x))
    found = pg.build(
        task(
            net,
            DATA,
            lambda m, b: F.cross_entropy(m(b["x"]).logits, b["y"]),
            lambda m, b: m(b["x"]).logits.sum(1),
        )
    )
    assert len(found.tensors) == 4


def test_a_loss_of_the_wrong_kind_says_which() -> None:
    refused(mlp(), "gives a dict", lambda m, b: {"loss": m(b["x"]).mean()})  # pyright: ignore


# ---------------------------------------------------------------- words


def test_a_boolean_mask_in_the_loss_keeps_its_line() -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        each = F.cross_entropy(m(b["x"]), b["y"], reduction="none")
        return each[b["y"] > 1].mean()  # the line

    line = loss.__code__.co_firstlineno + 2
    refused(mlp(), rf"test_field_capture\.py:{line}.*mask", loss)


def test_an_inference_mode_backbone_is_told_what_to_use() -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        with torch.inference_mode():
            x = m[0](b["x"])  # pyright: ignore
        return F.cross_entropy(m[2](x), b["y"])  # pyright: ignore

    refused(mlp(), "inference_mode.*no_grad", loss)


def test_a_value_that_autograd_needs_and_the_code_overwrites() -> None:
    refused(
        mlp(),
        "changes in place a value that the backward pass needs",
        lambda m, b: m(b["x"]).exp().mul_(2).mean(),
    )


def test_a_value_read_into_numpy_is_refused() -> None:
    refused(mlp(), "numpy", lambda m, b: m(b["x"]).mean() * float(m(b["x"]).detach().numpy().mean()))


def test_a_value_read_by_item_is_refused() -> None:
    refused(mlp(), "takes a Python number from a tensor", lambda m, b: m(b["x"]).mean() * b["x"].sum().item())


def test_a_branch_of_torch_cond_is_refused() -> None:
    def branch(m: nn.Module, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: m.body(x), lambda x: m.body(x) * 2, (x,))  # pyright: ignore

    refused(Net(branch), r"torch\.cond|torch's cond")


def test_a_penalty_on_jacobians_is_differentiated() -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        return torch.vmap(torch.func.jacrev(m))(b["x"]).square().mean()

    gradients_are_eagers(mlp(), loss)


def test_a_step_of_meta_learning_is_differentiated() -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        weights = dict(m.named_parameters())
        grads = torch.autograd.grad(cross_entropy(m, b), list(weights.values()), create_graph=True)
        moved = {k: w - 0.1 * g for (k, w), g in zip(weights.items(), grads)}
        return F.cross_entropy(torch.func.functional_call(m, moved, (b["x"],)), b["y"])

    gradients_are_eagers(mlp(), loss)


@pytest.mark.parametrize("how", ["frozen embeddings", "gradient checkpointing"])
def test_a_transformers_model(how: str) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    net = BertForSequenceClassification(
        BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50,
            num_labels=5, max_position_embeddings=16, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        )
    )  # fmt: skip
    if how == "frozen embeddings":
        net.bert.embeddings.requires_grad_(False)
    else:
        net.gradient_checkpointing_enable()
    data = [{"x": torch.arange(32).reshape(4, 8) % 50, "y": torch.arange(4)}]
    t = task(net, data, lambda m, b: m(input_ids=b["x"], labels=b["y"]).loss,
             lambda m, b: m(input_ids=b["x"]).logits.sum(1), dropout=how != "frozen embeddings")  # fmt: skip
    found = interpret(pg.build(t).gradients, data[0])
    net.train(how != "frozen embeddings")
    t.loss(net, data[0]).backward()
    for fqn, p in net.named_parameters():
        assert (f"grad:{fqn}" in found) == (p.grad is not None), fqn
        if p.grad is not None:
            torch.testing.assert_close(found[f"grad:{fqn}"], p.grad, rtol=1e-3, atol=1e-5)


def test_a_batch_changed_in_place_is_refused() -> None:
    refused(mlp(), r"test_field_capture\.py:\d+.*batch in place", lambda m, b: m(b["x"].mul_(2)).mean())


# ---------------------------------------------------------------- the user's model stays as it is


def everything(net: nn.Module) -> dict[str, Any]:
    """Every tensor (value and identity), attribute, flag, table of hooks and random state."""
    found: dict[str, Any] = {
        "random": random.getstate(), "numpy": np.random.get_state()[1].tobytes(),  # pyright: ignore
        "torch": torch.get_rng_state().numpy().tobytes(),
    }  # fmt: skip
    for path, m in net.named_modules():
        for name, value in vars(m).items():
            if isinstance(value, dict | OrderedDict):
                value = {k: id(v) for k, v in value.items()}
            found[f"{path}.{name}"] = copy.copy(value)
    for name, t in [*net.named_parameters(), *net.named_buffers()]:
        found[f"{name}:value"] = (id(t), t.detach().numpy().tobytes(), t.requires_grad, t.grad, t._version)
        found[f"{name}:hooks"] = dict(t._backward_hooks or {})
    return found


class Busy(nn.Module):
    """Changes all that a forward can change and a step can have."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.slow = mlp(), nn.BatchNorm1d(12), nn.Linear(5, 5)
        self.register_buffer("mean", torch.zeros(5))
        self.last: Any = None
        self.body[2].weight.register_hook(lambda g: g * 2)
        self.body[0].bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(self.norm(x))
        self.last = out
        with torch.no_grad():
            self.slow.weight.mul_(0.5)
            self.mean = self.mean + out.mean(0)
        return self.slow(out.detach()) * 0 + out - self.mean


@pytest.mark.parametrize("raises", [False, True])
def test_nothing_changes_the_users_model(raises: bool, tmp_path: Any) -> None:
    net = Busy()
    net.norm.train()
    net.slow.requires_grad_(False)

    def loss(m: nn.Module, b: Any) -> Tensor:
        value = cross_entropy(m, b)
        if raises:
            random.random()
        return value

    t = task(net, DATA, loss, summed, batch_norm="batch", dropout=True)
    before = everything(net)
    if raises:
        with pytest.raises(PockError):
            pg.build(t)
    else:
        graph = pg.build(t)
        graph.check("onnx")
        pg.compile(graph, pg.Plan.head(graph), target="torch", out=tmp_path / "out")
        with pg.Study(tmp_path / "study.db", t) as study:
            study.analyze(steps=2, lr=0.01, target="torch", ratios=(1.0,))
    after = everything(net)
    assert before.keys() == after.keys()
    assert [k for k in before if not _equal(before[k], after[k])] == []


class HooksItself(nn.Module):
    """Registers a hook when it runs for the first time, as libraries do that pass on hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.body[1].register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.body[1]._forward_hooks) == 1:
            self.body[1].register_forward_hook(lambda *given: 2 * given[-1])
        return self.body(x)


def test_a_model_that_hooks_itself_when_it_runs(target: str) -> None:
    net = HooksItself()
    own = list(net.body[1]._forward_hooks.items())
    assert_as_eager(task(net, DATA), target)
    hooks = net.body[1]._forward_hooks
    assert list(hooks.items()) == own
    assert len(hooks) == 1
    net(DATA[0]["x"])
    hooks.popitem()
    assert list(hooks.items()) == own


def _equal(a: Any, b: Any) -> bool:
    return a is b or bool(a == b)
