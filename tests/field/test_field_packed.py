"""Users with sequences of several lengths, packed for a recurrent layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from users import CLASSES, MOMENTUM, assert_as_eager, batches, task

import pockgraph as pg
from pockgraph.errors import BatchError, CaptureError
from pockgraph.train_graph import TrainGraph

FEATURES, UNITS, STEPS = 6, 4, 7
Forward = Callable[[Any, Tensor, Tensor], Tensor]


class Packed(nn.Module):
    """Padded `[N, T, FEATURES]` and lengths `[N]` to logits `[N, CLASSES]`, as `forward` says."""

    def __init__(self, forward: Forward, kind: Any = nn.LSTM, width: int = 2 * UNITS, **options: Any) -> None:
        super().__init__()
        self.net, self.out = kind(FEATURES, UNITS, batch_first=True, **options), nn.Linear(width, CLASSES)
        self.start = nn.Parameter(torch.linspace(-1, 1, UNITS))
        self._forward = forward

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self._forward(self, x, lengths)


def with_lengths(*lengths: list[int], steps: int = STEPS) -> list[dict[str, Tensor]]:
    """Batches whose padding holds what no model may read."""
    found = []
    for batch, n in zip(batches(len(lengths[0]), steps, FEATURES), (lengths * 3)[:3]):
        behind = torch.arange(steps) >= torch.tensor(n)[:, None]
        found.append({**batch, "x": batch["x"].masked_fill(behind[..., None], torch.nan)})
        found[-1]["n"] = torch.tensor(n)
    return found


UNSORTED = with_lengths([2, 7, 1, 4], [7, 3, 5, 1], [1, 1, 6, 2])
SORTED = with_lengths([7, 4, 4, 1], [7, 7, 7, 7], [7, 3, 2, 2])


def of(net: nn.Module, data: list[dict[str, Tensor]] = UNSORTED) -> pg.Task:
    return task(
        net, data,
        loss=lambda m, b: F.cross_entropy(m(b["x"], b["n"]), b["y"]),
        metric=lambda m, b: m(b["x"], b["n"]).sum(1),
    )  # fmt: skip


def states_of(state: Any) -> list[Tensor]:
    return [s for each in (state if isinstance(state, tuple) else (state,)) for s in each]


def outputs_and_states(m: Any, x: Tensor, n: Tensor) -> Tensor:
    """From a learned first state."""
    directions = m.net.num_layers * 2
    state = m.start.expand(directions, len(x), UNITS)
    if isinstance(m.net, nn.LSTM):
        state = (state[..., : m.net.proj_size or UNITS], state * 2)
    packed = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
    outputs, state = m.net(packed, state)
    outputs, n = pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])
    return m.out(torch.cat([outputs.sum(1) / n[:, None], *states_of(state)], 1))


@pytest.mark.parametrize(
    ("kind", "width", "options"),
    [
        (nn.GRU, 4 * UNITS, {}),
        pytest.param(nn.LSTM, 10 * UNITS, {"num_layers": 2}, marks=pytest.mark.slow),
        pytest.param(nn.RNN, 4 * UNITS, {}, marks=pytest.mark.slow),
        pytest.param(nn.LSTM, 4 * 3 + 2 * UNITS, {"proj_size": 3, "bias": False}, marks=pytest.mark.slow),
    ],
    ids=["gru", "lstm", "rnn", "lstm_projected"],
)
def test_outputs_and_last_states_of_packed_sequences(
    kind: Any, width: int, options: dict[str, Any], target: str
) -> None:
    assert_as_eager(of(Packed(outputs_and_states, kind, width, bidirectional=True, **options)), target)


def test_two_packed_layers() -> None:
    """Compiled for one runtime here: between layers there are operators that all have."""
    net = Packed(outputs_and_states, nn.LSTM, 10 * UNITS, bidirectional=True, num_layers=2)
    assert_as_eager(of(net), "onnx")


def test_sorted_lengths_padded_to_the_longest_of_the_batch(target: str) -> None:
    def forward(m: Any, x: Tensor, n: Tensor) -> Tensor:
        outputs, _ = pad_packed_sequence(m.net(pack_padded_sequence(x, n.cpu(), batch_first=True))[0])
        return m.out(outputs.mean(0))

    assert_as_eager(of(Packed(forward, nn.GRU, bidirectional=True), SORTED), target)


def test_a_part_of_the_weights_learns_from_packed_sequences(target: str) -> None:
    def plan(graph: TrainGraph) -> pg.Plan:
        return pg.Plan.of(graph, {"net.weight_hh_l0": [0, 2], "net.weight_ih_l0_reverse": [1, 5]})

    net = Packed(outputs_and_states, nn.LSTM, 6 * UNITS, bidirectional=True)
    assert_as_eager(of(net), target, plan=plan)


# ---------------------------------------------------------------- how people pack


def layers_apart(m: Any, x: Tensor, n: Tensor) -> Tensor:
    """Dropout and a linear layer between two recurrent layers, on the data of the packed sequence."""
    packed, _ = m.net(pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False))
    data = torch.tanh(F.dropout(packed.data, 0.3, False)) * 2
    again = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    outputs, _ = pad_packed_sequence(again, batch_first=True, total_length=STEPS)
    return m.out(outputs.sum(1))


def sorts_itself(m: Any, x: Tensor, n: Tensor) -> Tensor:
    n, order = torch.sort(n, descending=True)
    outputs, _ = m.net(pack_padded_sequence(x[order], n, batch_first=True))
    outputs, _ = pad_packed_sequence(outputs, batch_first=True)
    return m.out(outputs.sum(1)[torch.argsort(order)])


def lengths_computed(m: Any, x: Tensor, n: Tensor) -> Tensor:
    there = torch.arange(x.shape[1]) < n[:, None]
    packed = pack_padded_sequence(x, there.sum(1), batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(m.net(packed)[0], batch_first=True, total_length=x.shape[1] + 2)
    return m.out(outputs.mean(1))


def lengths_known(m: Any, x: Tensor, n: Tensor) -> Tensor:
    outputs, _ = m.net(pack_padded_sequence(x[:, :2].nan_to_num(), [2, 2, 1, 1], batch_first=True))
    return m.out(pad_packed_sequence(outputs, batch_first=True, padding_value=0.5)[0].mean(1))


def in_pieces(m: Any, x: Tensor, n: Tensor) -> Tensor:
    x = x.nan_to_num()
    pieces = [x[1, :3], x[0, :2], x[2, :1], x[3, :1]]
    return m.out(m.net(pack_sequence(pieces))[1][0][-1])


def time_first(m: Any, x: Tensor, n: Tensor) -> Tensor:
    packed = pack_padded_sequence(x.transpose(0, 1), n.int(), enforce_sorted=False)
    outputs, n = pad_packed_sequence(m.net(packed)[0], total_length=STEPS)
    last = outputs.gather(0, (n - 1)[None, :, None].expand(1, -1, outputs.shape[2]))
    return m.out(last[0])


@pytest.mark.parametrize(
    ("forward", "width", "data"),
    [
        (layers_apart, UNITS, UNSORTED),
        (sorts_itself, UNITS, with_lengths([2, 7, 1, 4], [7, 3, 5, 1])),
        (lengths_computed, UNITS, UNSORTED),
        (lengths_known, UNITS, UNSORTED),
        (in_pieces, UNITS, UNSORTED),
        (time_first, UNITS, UNSORTED),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_sequences_packed_in_other_ways(forward: Forward, width: int, data: list[dict[str, Tensor]]) -> None:
    assert_as_eager(of(Packed(forward, nn.LSTM, width), data), "torch")


# ---------------------------------------------------------------- what is refused


def padded_to_the_longest(m: Any, x: Tensor, n: Tensor) -> Tensor:
    packed = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
    return m.out(pad_packed_sequence(m.net(packed)[0], batch_first=True)[0].mean(1))


def test_lengths_that_eager_pytorch_would_refuse_or_shape_otherwise(target: str, tmp_path: Path) -> None:
    good = with_lengths([2, 7, 1, 4])
    graph = pg.build(of(Packed(padded_to_the_longest, nn.GRU, UNITS), good), MOMENTUM)
    trainer = pg.compile(graph, target=target, out=tmp_path / "out").trainer()
    before = trainer.state()
    for lengths, words in (
        ([2, 7, 0, 4], r"'n'.*holds 0 at .2.*1 to 7"),
        ([2, 8, 1, 4], "'n'.*holds 8.*1 to 7"),
        ([2, 6, 1, 4], r"'n'.*at most 6.*pad_packed_sequence\(…, total_length=7\)"),
    ):
        with pytest.raises(BatchError, match=words):
            trainer.step({**good[0], "n": torch.tensor(lengths)})
    assert all((before[k] == v).all() for k, v in trainer.state().items())
    trainer.step(good[0])


def test_lengths_in_no_order_where_the_model_takes_sorted_ones(tmp_path: Path) -> None:
    def forward(m: Any, x: Tensor, n: Tensor) -> Tensor:
        return m.out(m.net(pack_padded_sequence(x, n, batch_first=True))[1][0])

    graph = pg.build(of(Packed(forward, nn.GRU, UNITS), SORTED), MOMENTUM)
    trainer = pg.compile(graph, target="torch", out=tmp_path / "out").trainer()
    with pytest.raises(BatchError, match=r"'n'.*descending order.*enforce_sorted=False"):
        trainer.step(UNSORTED[0])


def loss_of_rows(m: Any, x: Tensor, n: Tensor) -> Tensor:
    packed = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
    return m.out(m.net(packed)[0].data.mean(0, keepdim=True))


def sizes_read(m: Any, x: Tensor, n: Tensor) -> Tensor:
    packed = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
    return m.out(m.net(packed)[1][0][-1] * packed.batch_sizes.sum())


def other_rows(m: Any, x: Tensor, n: Tensor) -> Tensor:
    packed = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
    return m.out(m.net(PackedSequence(x.flatten(0, 1), packed.batch_sizes))[1][0][-1])


def padded_to_the_longest_computed(m: Any, x: Tensor, n: Tensor) -> Tensor:
    return padded_to_the_longest(m, x, n.clamp_min(2))


def lengths_as_a_list(m: Any, x: Tensor, n: Tensor) -> Tensor:
    return m.out(m.net(pack_padded_sequence(x, n.tolist(), batch_first=True))[1][0][-1])


def too_long(m: Any, x: Tensor, n: Tensor) -> Tensor:
    return m.out(m.net(pack_padded_sequence(x, [9, 2, 2, 1], batch_first=True))[1][0][-1])


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (loss_of_rows, r"calls mean on the data of a packed sequence.*total_length=7.*mask\.sum"),
        (sizes_read, "batch sizes of a packed sequence.*lengths themselves"),
        (other_rows, "other rows than pack_padded_sequence"),
        (padded_to_the_longest_computed, r"lengths are computed.*total_length=7\)"),
        (lengths_as_a_list, "takes the lengths as a tensor"),
        (too_long, "a length of 9 is more than the 7 steps"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_what_depends_on_the_number_of_rows_is_refused_with_its_line(forward: Forward, words: str) -> None:
    with pytest.raises(CaptureError, match=rf"test_field_packed\.py:\d+.*{words}"):
        pg.build(of(Packed(forward, nn.LSTM, UNITS)), MOMENTUM)
