"""Attention as users write it themselves, and wrappers around models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import CLASSES, assert_as_eager, batches, mlp, task

DATA = batches(8, 12)


class Attention(nn.Module):
    """Token ids to logits: heads of an attention, added to the embeddings that it reads; padding is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, CLASSES)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, ids: Tensor) -> Tensor:
        x, real = self.table(ids), ids != 0

        def heads(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], 2, 4).transpose(1, 2)

        scores = heads(self.query(x)) @ heads(self.key(x)).transpose(2, 3) / 2
        shares = scores.masked_fill(~real[:, None, None], float("-inf")).softmax(-1)
        read = (shares @ heads(self.value(x))).transpose(1, 2).reshape(x.shape)
        x = self.norm(x + self.out(read)) * real[..., None]
        return self.head(x.sum(1) / real.sum(1, keepdim=True))


def test_an_attention_of_ones_own_beside_a_residual(target: str) -> None:
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (3, 6, 7), generator=g)
    ids[:, :, 0] = 3  # one that is no padding
    data = [{"x": x, "y": torch.arange(6) % CLASSES} for x in ids]
    assert_as_eager(task(Attention(), data), target)


def test_a_model_inside_data_parallel_with_profiling_marks(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        with torch.profiler.record_function("loss"):
            hidden = m(b["x"])
            with torch.profiler.record_function("entropy"):
                return F.cross_entropy(hidden, b["y"])

    assert_as_eager(task(nn.DataParallel(mlp()), DATA, loss), target)


class Encoded(nn.Module):
    """Token ids to the sum of all steps' logits; padding is 0."""

    def __init__(self, norm: bool, frozen: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        last = nn.LayerNorm(8) if norm else None
        if last is not None:
            nn.init.uniform_(last.bias)
        self.table, self.encoder = nn.Embedding(20, 8), nn.TransformerEncoder(layer, 2, last)
        self.table.requires_grad_(not frozen)
        self.encoder.requires_grad_(not frozen)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.table(ids), src_key_padding_mask=ids == 0).tanh()).sum(1)


@pytest.mark.parametrize("padded", ["at the end", "at the start"])
@pytest.mark.parametrize("norm", [False, True], ids=["", "a last norm"])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_steps_of_padding_that_an_encoder_computes_only_where_it_is_trained(
    padded: str, norm: bool, frozen: bool, target: str
) -> None:
    ids = torch.randint(1, 20, (3, 4, 6), generator=torch.Generator().manual_seed(0))
    filled = torch.arange(6) < torch.tensor([[6], [3], [1], [5]])
    ids = ids * (filled if padded == "at the end" else filled.flip(1))
    data = [{"x": x, "y": torch.arange(4) % CLASSES} for x in ids]
    torch.manual_seed(0)
    assert_as_eager(task(Encoded(norm, frozen), data), target)
