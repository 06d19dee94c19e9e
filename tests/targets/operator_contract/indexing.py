"""Reading and writing at indices that are tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from .comparison import Comparison, ints, rand

aten = torch.ops.aten


class Indexing(Comparison):
    @pytest.mark.parametrize("padding_idx", [None, 2])
    @pytest.mark.parametrize("rows", [4, 300])
    def test_embedding(self, rows: int, padding_idx: int | None) -> None:
        index = ints(4, 3, 5)
        self.check_grad(lambda i, w: F.embedding(i, w, padding_idx), index, rand(rows, 8))

    def test_indexing(self) -> None:
        x, i = rand(4, 5, 6), torch.tensor([0, 3, 1])
        self.check_grad(lambda x, i: x.index_select(0, i), x, i)
        self.check_grad(lambda x, i: x.index_select(-1, i), x, i)
        self.check_grad(lambda x, i: x[i], x, i)
        self.check_grad(lambda x, i: x[:, i - 2], x, i)  # negative
        self.check_grad(lambda x, i: x[i, i], x, i)
        self.check_grad(lambda x, i: x[i, :, i], x, i)
        self.check_grad(lambda x, i: x[:, i[:, None], i - 3], x, i)
        self.check_grad(lambda x, i: x.gather(1, i.expand(4, 2, 3)), x, i)
        self.check_grad(lambda x, i: x.gather(2, i.expand(2, 3, 3)), x, i)

    def test_scatters(self) -> None:
        x, i, s = rand(4, 5, 6), torch.tensor([0, 3, 1]), rand(4, 3, 6)
        self.check_grad(lambda x, i, s: x.index_copy(1, i, s), x, i, s)
        self.check_grad(lambda x, i, s: x.index_add(1, i, s, alpha=0.5), x, i, s)
        self.check(lambda x, i, s: x.index_add(1, i * 0, s), x, i, s)
        self.check(lambda x, i: x.index_fill(1, i, 2.0), x, i)
        self.check_grad(lambda x, i, s: x.scatter(1, i.view(1, 3, 1).expand(4, 3, 6), s), x, i, s)
        self.check_grad(lambda x, i, s: x.scatter_add(1, (0 * i).view(1, 3, 1).expand(4, 3, 6), s), x, i, s)
        self.check(lambda x, i, s: x.scatter(1, i.view(1, 3, 1).expand(2, 3, 4), s), x, i, s)
        self.check_grad(lambda x, i: x.scatter(1, i.view(1, 3, 1).expand(4, 3, 6), 1.5), x, i)

    def test_index_put(self) -> None:
        x, i = rand(4, 5, 6), torch.tensor([0, 3, 1])
        put = aten.index_put.default
        self.check(lambda x, i, v: put(x, [i], v), x, i, rand(3, 5, 6))
        self.check(lambda x, i, v: put(x, [i * 0], v, True), x, i, rand(3, 5, 6))
        self.check(lambda x, i, v: put(x, [None, i - 2], v, True), x, i, rand(4, 3, 6))
        self.check(lambda x, i, v: put(x, [i, None, i], v), x, i, rand(3, 5))
        self.check(lambda x, i, v: put(x, [i, i], v), x, i, torch.tensor(2.0))
