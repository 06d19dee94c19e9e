"""Loss functions of `torch.nn.functional`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from .comparison import Comparison, ints, rand

aten = torch.ops.aten


REGRESSION = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": lambda a, b, **k: F.smooth_l1_loss(a, b, beta=0.5, **k),
    "huber": lambda a, b, **k: F.huber_loss(a, b, delta=0.7, **k),
    "bce": lambda a, b, **k: F.binary_cross_entropy(a.sigmoid(), b.sigmoid(), **k),
    "bce_logits": lambda a, b, **k: F.binary_cross_entropy_with_logits(a, b.sigmoid(), **k),
    "kl": lambda a, b, **k: F.kl_div(a.log_softmax(1), b.softmax(1), **k),
}


class Losses(Comparison):
    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("space", [(), (3, 2)])
    def test_cross_entropy(self, reduction: str, weighted: bool, space: tuple[int, ...]) -> None:
        x, y = rand(6, 5, *space), ints(5, 6, *space)
        y[1] = -100
        weight = rand(5, low=0.1) if weighted else None
        if weight is None:
            self.check_grad(lambda x, y: F.cross_entropy(x, y, reduction=reduction), x, y)
        else:
            self.check_grad(
                lambda x, y, w: F.cross_entropy(x, y, w, reduction=reduction), x, y, weight, wanted=(0,)
            )

    def test_cross_entropy_ignores_an_index_and_smooths_labels(self) -> None:
        x, y = rand(6, 5), ints(5, 6)
        self.check_grad(lambda x, y: F.cross_entropy(x, y, ignore_index=2), x, y)
        self.check_grad(lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1), x, y)
        self.check_grad(
            lambda x, y: F.cross_entropy(x, y, ignore_index=7), x, torch.full_like(y, 7)
        )  # NaN, as ATen

    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    @pytest.mark.parametrize("name", REGRESSION)
    def test_regression_losses(self, name: str, reduction: str) -> None:
        function = REGRESSION[name]
        self.check_grad(
            lambda a, b: function(a, b, reduction=reduction), rand(4, 3), rand(4, 3, seed=5), wanted=(0,)
        )
