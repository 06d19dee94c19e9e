"""Layer, group and batch norm, and softmax."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from .comparison import Comparison, rand

aten = torch.ops.aten


class Normalization(Comparison):
    @pytest.mark.parametrize("shape", [(2, 5, 8), (3, 7), (2, 3, 4, 5)])
    def test_layer_norm(self, shape: tuple[int, ...]) -> None:
        size = shape[-1:]
        self.check_grad(
            lambda x, w, b: F.layer_norm(x, size, w, b), rand(*shape), rand(*size), rand(*size, seed=3)
        )
        self.check_grad(lambda x: F.layer_norm(x, size), rand(*shape) + 3)
        self.check(lambda x: aten.native_layer_norm(x, size, None, None, 1e-5), rand(*shape))

    def test_layer_norm_over_two_dimensions(self) -> None:
        self.check_grad(
            lambda x, w, b: F.layer_norm(x, (4, 5), w, b), rand(3, 4, 5), rand(4, 5), rand(4, 5, seed=2)
        )

    @pytest.mark.parametrize("groups", [1, 2, 6])
    def test_group_norm(self, groups: int) -> None:
        self.check_grad(
            lambda x, w, b: F.group_norm(x, groups, w, b), rand(2, 6, 3, 5), rand(6), rand(6, seed=1)
        )
        self.check_grad(lambda x: F.group_norm(x, groups), rand(2, 6, 4))

    def test_batch_norm_with_running_statistics(self) -> None:
        args = rand(2, 6, 3, 5), rand(6), rand(6, low=0.5), rand(6, seed=1), rand(6, seed=2)
        self.check_grad(lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b), *args, wanted=(0, 3, 4))
        self.check(
            lambda x, m, v, w, b: aten._native_batch_norm_legit_no_training(x, w, b, m, v, 0.1, 1e-3)[0],
            *args,
        )

    @pytest.mark.parametrize("dim", [0, 1, -1])
    def test_softmax(self, dim: int) -> None:
        self.check_grad(lambda x: x.softmax(dim), 3 * rand(4, 6, 5))
        self.check_grad(lambda x: x.log_softmax(dim), 3 * rand(4, 6, 5))
