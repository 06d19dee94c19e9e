"""Products of matrices and vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .comparison import Comparison, rand

aten = torch.ops.aten


class Products(Comparison):
    def test_matmuls(self) -> None:
        self.check_grad(torch.mm, rand(3, 4), rand(4, 5))
        self.check_grad(torch.bmm, rand(2, 3, 4), rand(2, 4, 5))
        self.check_grad(torch.matmul, rand(2, 3, 4), rand(4, 5))
        self.check_grad(torch.mv, rand(3, 4), rand(4))
        self.check_grad(torch.dot, rand(4), rand(4, seed=1))
        self.check_grad(
            lambda b, x, w: torch.addmm(b, x, w.t(), beta=0.5, alpha=2.0), rand(5), rand(3, 4), rand(5, 4)
        )
        self.check_grad(lambda b, x, w: torch.baddbmm(b, x, w), rand(2, 3, 5), rand(2, 3, 4), rand(2, 4, 5))
        self.check_grad(F.linear, rand(2, 3, 4), rand(5, 4), rand(5))
        self.check(lambda x, w: aten.linear.default(x, w), rand(2, 3, 4), rand(5, 4))
        self.check(lambda y, a, x: torch.addmv(y, a, x, beta=2, alpha=3), rand(3), rand(3, 4), rand(4))
