"""Systems, inverses and decompositions of matrices: right on PyTorch's target, told in words elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from between import Between, Case, Lambda
from torch import Tensor, nn
from users import MOMENTUM, assert_as_eager, batches, task

import pockgraph as pg
from pockgraph.errors import BatchError, CaptureError, NonFiniteLoss, TaskError

Function = Callable[[Tensor], Tensor]


def network(function: Function) -> pg.Task:
    torch.manual_seed(0)
    return task(Between(Case((3, 3), lambda: Lambda(function))), batches(4, 6))


def regular(x: Tensor) -> Tensor:
    return x + 3 * torch.eye(3, dtype=x.dtype)


def definite(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(3, dtype=x.dtype)


def systems(x: Tensor) -> Tensor:
    a, factor = regular(x), torch.linalg.cholesky(definite(x))
    by_lu = torch.linalg.lu_solve(*torch.linalg.lu_factor(a), x)
    return torch.linalg.solve(a, x) + torch.linalg.inv(a) + by_lu + torch.cholesky_solve(x, factor)


def triangles(x: Tensor) -> Tensor:
    q, r = torch.linalg.qr(regular(x))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(definite(x)))
    return q @ r.tril() + torch.linalg.solve_triangular(regular(x).triu(), x, upper=True) + inverse


def spectra(x: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(definite(x) + torch.diag(torch.arange(3.0)))
    u, s, v = torch.linalg.svd(regular(x))
    parts = values[:, None] * vectors.abs() + (u * s.sqrt()[:, None]) @ v
    return parts + torch.linalg.eigvals(regular(x)).abs().sum(-1)[:, None, None]


def numbers(x: Tensor) -> Tensor:
    a = regular(x)
    whole = torch.linalg.det(a) + torch.linalg.slogdet(a).logabsdet + torch.logdet(definite(x))
    norms = torch.linalg.matrix_norm(a, "nuc") + torch.linalg.matrix_norm(a, 2) + torch.linalg.cond(a)
    return torch.linalg.pinv(a) + torch.linalg.matrix_exp(x / 3) + (whole + norms)[:, None, None] / 10


@pytest.mark.parametrize("function", [systems, triangles, spectra, numbers])
def test_linear_algebra_trains_on_torch_as_in_eager(function: Function) -> None:
    assert_as_eager(network(function), "torch")


def test_products_and_norms_are_every_targets() -> None:
    def products(x: Tensor) -> Tensor:
        powers = torch.linalg.matrix_power(x, 3) + torch.einsum("bij,bkj->bik", x, x)
        norms = (
            torch.linalg.matrix_norm(x)
            + torch.linalg.matrix_norm(x, 1)
            + torch.linalg.vector_norm(x, 3, (1, 2))
        )
        return torch.linalg.multi_dot([x[0], x[1], x[0]]) + powers + norms[:, None, None]

    assert_as_eager(network(products), "onnx")


@pytest.mark.parametrize(
    ("function", "target"),
    [(systems, "onnx"), (triangles, "openvino"), (spectra, "openvino"), (numbers, "onnx")],
)
def test_decompositions_are_refused_elsewhere_with_line_and_remedy(function: Function, target: str) -> None:
    found = pg.build(network(function), MOMENTUM).check(target)
    assert any(
        "decomposes no matrices" in p.reason and "test_field_linear_algebra.py:" in p.source
        for p in found.problems
    )
    assert "the target 'torch'" in str(found)
    assert found.other_targets == ("torch",)


def test_least_squares_are_refused_with_what_to_take() -> None:
    with pytest.raises(CaptureError, match=r"algebra\.py:\d+[\s\S]*torch\.linalg\.pinv\(a\) @ b"):
        pg.build(network(lambda x: torch.linalg.lstsq(regular(x), x).solution))


# ---------------------------------------------------------------- matrices that have no factors


class Factored(nn.Module):
    """A factor of diagonal matrices of the batch, beside a layer."""

    def __init__(self, factor: Function) -> None:
        super().__init__()
        self.layer, self.last, self.factor = nn.Linear(3, 3), nn.Linear(9, 5), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.factor(torch.diag_embed(x)) + self.layer(x)[:, None]).flatten(1))


def given(factor: Function) -> pg.Task:
    data = [{"x": b["x"].abs() + 0.5, "y": b["y"]} for b in batches(4, 3)]
    return task(Factored(factor), data)


FAILING: dict[str, tuple[Function, float]] = {
    "not positive definite": (torch.linalg.cholesky, -1.0),
    "singular": (lambda a: torch.linalg.lu_factor(a)[0], 0.0),
    "not finite": (lambda a: torch.linalg.svd(a.sqrt()).U, -1.0),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_matrix_for_which_eager_raises_never_reaches_the_weights(name: str, tmp_path: Path) -> None:
    factor, entry = FAILING[name]
    made = given(factor)
    trainer = pg.compile(pg.build(made, MOMENTUM), target="torch", out=tmp_path / "o").trainer()
    good, bad = made.example, {k: v.clone() for k, v in made.example.items()}
    bad["x"][2, 1] = entry
    with pytest.raises(RuntimeError):
        made.loss(made.model, bad)
    trainer.step(good)
    before = trainer.state()
    with pytest.raises(NonFiniteLoss):
        trainer.step(bad)
    assert trainer.step(bad, on_nonfinite="skip").skipped
    assert all(np.array_equal(v, before[k]) for k, v in trainer.state().items())
    if name == "not finite":
        with pytest.raises(BatchError, match=r"cannot be evaluated, as in eager PyTorch: linalg\.svd"):
            trainer.evaluate([bad])


def test_a_first_batch_that_has_no_factors_is_told(tmp_path: Path) -> None:
    made = given(lambda a: torch.linalg.svd((-a).sqrt()).U)
    with pytest.raises(TaskError, match=r"'field': its first batch .* as in eager PyTorch: linalg\.svd"):
        pg.compile(pg.build(made, MOMENTUM), target="torch", out=tmp_path / "o")
