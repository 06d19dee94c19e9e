"""LSTMs and GRUs by ONNX's own operators: where they stand, and that they compute what PyTorch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import pockgraph as pg

STEPS, SAMPLES, INPUTS, UNITS = 6, 3, 5, 4


class Tagger(nn.Module):
    """A recurrent layer and a linear one: [N, T, D] -> [N, 2]."""

    def __init__(self, recurrent: nn.RNNBase, states: bool = False) -> None:
        super().__init__()
        self.recurrent, self.states = recurrent, states
        self.out = nn.Linear(UNITS * (2 if recurrent.bidirectional else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        if not self.states:
            return self.out(self.recurrent(x)[0].mean(1))
        first = x[:, :1, :UNITS].transpose(0, 1).contiguous().tanh()
        initial: Any = (first, 2 * first) if isinstance(self.recurrent, nn.LSTM) else first
        return self.out(self.recurrent(x, initial)[0].mean(1))


def samples() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"x": torch.randn(SAMPLES, STEPS, INPUTS), "y": torch.randn(SAMPLES, 2)}


def task(model: nn.Module) -> pg.Task:
    batch = samples()
    return pg.Task(
        "tagger", model, lambda m, b: (m(b["x"]) - b["y"]).pow(2).mean(), lambda m, b: m(b["x"]).sum(1),
        [batch], [batch],
    )  # fmt: skip


def kinds(path: Path) -> set[str]:
    return {n.op_type for n in onnx.load(str(path), load_external_data=False).graph.node}


CASES = {
    "lstm": lambda: Tagger(nn.LSTM(INPUTS, UNITS, batch_first=True)),
    "lstm_both_directions": lambda: Tagger(nn.LSTM(INPUTS, UNITS, 2, batch_first=True, bidirectional=True)),
    "lstm_no_bias": lambda: Tagger(nn.LSTM(INPUTS, UNITS, bias=False, batch_first=True)),
    "lstm_states": lambda: Tagger(nn.LSTM(INPUTS, UNITS, batch_first=True), states=True),
    "gru": lambda: Tagger(nn.GRU(INPUTS, UNITS, batch_first=True)),
    "gru_both_directions": lambda: Tagger(nn.GRU(INPUTS, UNITS, 2, batch_first=True, bidirectional=True)),
    "gru_no_bias": lambda: Tagger(nn.GRU(INPUTS, UNITS, bias=False, batch_first=True)),
    "gru_states": lambda: Tagger(nn.GRU(INPUTS, UNITS, batch_first=True), states=True),
}


@pytest.mark.parametrize("case", CASES)
def test_evaluation_takes_the_operator_and_gives_pytorchs_values(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CASES[case]()
    artifact = pg.compile(pg.build(task(model), pg.SGD(lr=0.1)), target="onnx", out=tmp_path / "out")
    assert case.partition("_")[0].upper() in kinds(tmp_path / "out" / "eval.onnx")
    assert "Scan" not in kinds(tmp_path / "out" / "eval.onnx")
    assert "Scan" in kinds(tmp_path / "out" / "train.onnx")
    batch = samples()
    with torch.no_grad():
        wanted = model(batch["x"]).sum(1)
    found = torch.from_numpy(artifact.trainer().evaluate([batch]).values)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_frozen_recurrent_layer_is_onnxs_operator(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CASES[kind.lower() + "_both_directions"]()
    model.recurrent.requires_grad_(False)
    artifact = pg.compile(pg.build(task(model), pg.SGD(lr=0.1)), target="onnx", out=tmp_path / "out")
    found = kinds(tmp_path / "out" / "train.onnx")
    assert kind in found
    assert "Scan" not in found
    batch = samples()
    trainer = artifact.trainer()
    optimizer = torch.optim.SGD(model.out.parameters(), lr=0.1)
    for _ in range(3):
        loss = (model(batch["x"]) - batch["y"]).pow(2).mean()
        assert trainer.step(batch).loss == pytest.approx(float(loss.detach()), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_a_projected_lstm_and_a_plain_rnn_stay_loops(tmp_path: Path) -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(INPUTS, UNITS, proj_size=2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0].mean(1)

    for model in (Projected(), Tagger(nn.RNN(INPUTS, UNITS, batch_first=True))):
        out = tmp_path / type(model).__name__
        pg.compile(pg.build(task(model), pg.SGD(lr=0.1)), target="onnx", out=out)
        assert "Scan" in kinds(out / "eval.onnx")
