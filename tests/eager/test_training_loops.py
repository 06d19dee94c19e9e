"""The loops that people train with take the steps of a plan's graph, with the plan applied to their model.

Hugging Face's Trainer and Lightning run where they are installed. What their loops do to a model and an
optimizer is written out here, too, and runs everywhere.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import run_steps
from torch import nn

import pockgraph as pg
from pockgraph.train_graph import TrainGraph

LR, DECAY, CLIP = 1e-2, 0.1, 0.05


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(torch.tanh(self.first(x))))


def _loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(net(batch["x"]), batch["y"])


@functools.cache
def graph() -> TrainGraph:
    """Of a plan with whole tensors and parts; biases and norms are not decayed, as the Trainer has it."""
    torch.manual_seed(0)
    data = [{"x": torch.randn(4, 6), "y": torch.arange(4)} for _ in range(4)]
    metric = lambda net, batch: -F.cross_entropy(net(batch["x"]), batch["y"], reduction="none")  # noqa: E731
    task = pg.Task("loops", Net(), _loss, metric, data, data)
    groups = (pg.Group("*bias", weight_decay=0.0), pg.Group("norm.*", weight_decay=0.0))
    whole = pg.build(task, pg.AdamW(lr=LR, weight_decay=DECAY, clip_norm=CLIP, groups=groups))
    choice = {"first.weight": 0.5, "norm.weight": 0.25, "last.weight": 0.5, "last.bias": 1.0}
    return whole.prune(pg.Plan.of(whole, choice))


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    named = dict(model.named_parameters())
    plain = [n for n in named if n.endswith("bias") or "norm." in n]
    return [
        {"params": [p for n, p in named.items() if n not in plain], "weight_decay": DECAY},
        {"params": [named[n] for n in plain], "weight_decay": 0.0},
    ]


def trainer_written_out(net: nn.Module) -> None:
    """What the Trainer does: parameter groups, train(), backward, clip, step, schedule, zero_grad."""
    optimizer = torch.optim.AdamW(parameter_groups(net), lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    for batch in graph().task.train:
        net.train()
        _loss(net, batch).backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        net.zero_grad()


def lightning_written_out(net: nn.Module) -> None:
    """What Lightning does: the optimizer's step calls a closure with the whole training step in it."""
    optimizer = torch.optim.AdamW(parameter_groups(net), lr=LR)
    net.train()
    for batch in graph().task.train:

        def closure(batch: Any = batch) -> torch.Tensor:
            loss = _loss(net, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            return loss

        optimizer.step(closure=closure)  # pyright: ignore[reportArgumentType]


def mixed_precision_written_out(net: nn.Module) -> None:
    """`torch.amp`'s loop: gradients are scaled, unscaled and clipped ahead of the step."""
    optimizer = torch.optim.AdamW(parameter_groups(net), lr=LR)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for batch in graph().task.train:
        net.train()
        optimizer.zero_grad()
        scaler.scale(_loss(net, batch)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()


def trainer(net: nn.Module) -> None:
    import transformers

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": _loss(self.net, {"x": x, "y": y})}

    class InOrder(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(list(graph().task.train), batch_size=None)

    options = transformers.TrainingArguments(
        output_dir="trained", max_steps=4, learning_rate=LR, weight_decay=DECAY, max_grad_norm=CLIP,
        lr_scheduler_type="constant", report_to=[], save_strategy="steps", save_steps=2, use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    InOrder(WithLoss(), options, train_dataset=[0]).train()


def lightning(net: nn.Module) -> None:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return _loss(self.net, batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(parameter_groups(self.net), lr=LR)

    data = torch.utils.data.DataLoader(list(graph().task.train), batch_size=None)
    fit = L.Trainer(max_epochs=1, gradient_clip_val=CLIP, accelerator="cpu", logger=False,
                    enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    fit.fit(Module(), data)


LOOPS: dict[str, Callable[[nn.Module], None]] = {
    "trainer written out": trainer_written_out,
    "lightning written out": lightning_written_out,
    "mixed precision": mixed_precision_written_out,
}
if importlib.util.find_spec("accelerate"):  # which the Trainer needs
    LOOPS["trainer"] = trainer
if importlib.util.find_spec("lightning"):
    LOOPS["lightning"] = lightning


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_a_loop_takes_the_steps_of_the_plans_graph(
    loop: Callable[[nn.Module], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = graph()
    batches = list(small.task.train)
    expected = run_steps(small, small, small.evaluation(), batches, [LR] * len(batches)).weights
    net = copy.deepcopy(small.task.model)
    start = copy.deepcopy(net.state_dict())
    with small.plan.apply(net):
        loop(net)
    for fqn, value in net.state_dict().items():
        if fqn not in expected:
            assert torch.equal(value, start[fqn]), f"{fqn} moved"
            continue
        assert not torch.equal(value, start[fqn])
        frozen = torch.ones_like(value, dtype=torch.bool)
        how = small.plan.tensors[fqn]
        if how.channels is None:
            frozen[:] = False
        else:
            frozen.index_fill_(how.dim, torch.tensor(how.channels), False)
        assert torch.equal(value[frozen], start[fqn][frozen]), f"{fqn}: frozen channels moved"
        torch.testing.assert_close(value, expected[fqn], rtol=1e-5, atol=1e-6)
