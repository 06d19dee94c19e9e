"""Values and shapes at the edge: one number for a line of numbers, no elements, NaN in a comparison."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from users import assert_as_eager, batches, mlp, task

ONE = batches(1, 12)
SMALL = batches(4, 12)


def scores(m: nn.Module, b: Any) -> Tensor:
    return m(b["x"]).mean(1)


def test_a_batch_of_one_is_squeezed_and_then_reduced_ranked_and_scaled_along_its_first_dimension(
    target: str,
) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        s = scores(m, b).squeeze()
        ranked = s.sort(0).values + 2 * s.topk(1).values + s.max(0).values - s.flip(0)
        reduced = s.sum(0) * s.amax(0) + s.logsumexp(0) + torch.linalg.vector_norm(s, 3, 0)
        scaled = s * s.softmax(0) + s * s.log_softmax(0) + nn.functional.normalize(s, dim=0)
        picked = s.index_select(0, torch.tensor([0])) + s.gather(0, s.argmax(0)) * s.median(0).values
        return (ranked + reduced + scaled + picked).square().sum()

    assert_as_eager(task(mlp(), ONE, loss, scores), target)


def test_what_is_said_of_no_elements(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        s = m(b["x"])
        none = s[:, 5:] > 0
        said = torch.stack([none.any(1).float(), 2.0 * none.all(1), s[:, 5:].prod(1), s[:, 5:].sum(1)])
        mean = s[:, 5:].mean(1)
        return (said * s[:, 0]).sum() + torch.where(mean.isnan(), s[:, 1], s[:, 2]).sum()

    assert_as_eager(task(mlp(), SMALL, loss), target)


def test_a_ratio_of_two_zeros_is_not_above_a_threshold(target: str) -> None:
    data = [{**b, "seen": torch.tensor([0.0, 1, 2, 0])} for b in SMALL]

    def loss(m: nn.Module, b: Any) -> Tensor:
        share = b["seen"] / (b["seen"] * 2)
        s = scores(m, b)
        return torch.where(share > 0.1, s, 3 * s.square()).sum() + torch.where(share >= 0.1, s, 2 * s).sum()

    assert_as_eager(task(mlp(), data, loss), target)


def test_the_logarithm_of_one_and_very_much(target: str) -> None:
    data = [{**b, "counts": torch.tensor([0.0, 1e-9, 7e12, 2e38])} for b in SMALL]
    assert_as_eager(task(mlp(), data, lambda m, b: (scores(m, b) * b["counts"].log1p()).sum()), target)


def test_the_largest_and_the_smallest_of_booleans(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        s = m(b["x"])
        above = s > s.mean()
        return (s[:, 0] * above.amax(1) + s[:, 1] * above.amin(1)).sum() + above.max() * s.square().mean()

    assert_as_eager(task(mlp(), SMALL, loss), target)


def test_everything_of_two_tensors_is_contracted_to_one_number(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        h = m(b["x"]).reshape(4, -1, 1)
        whole = torch.einsum("bij,bij->", h, h.tanh())
        return whole.square() + (h.reshape(1, -1) @ h.cos().reshape(-1, 1)).reshape(())

    assert_as_eager(task(mlp(), SMALL, loss), target)


def test_one_of_two_masks_is_chosen(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        s = m(b["x"])
        chosen = torch.where(s[:, :1] > 0, s > 0.1, s < -0.1) ^ (s > 0).masked_fill(s > 1, True)
        return (s.square() * chosen).sum()

    assert_as_eager(task(mlp(), SMALL, loss), target)


def test_an_empty_slice_is_joined_with_others(target: str) -> None:
    def loss(m: nn.Module, b: Any) -> Tensor:
        s = m(b["x"])
        return torch.cat([s[:, :0], s, s[:, 5:]], 1).square().sum() + torch.cat([s[:0], s[4:]]).sum()

    assert_as_eager(task(mlp(), SMALL, loss), target)


def test_fewer_rows_and_columns_are_gathered_than_there_are(target: str) -> None:
    index = torch.tensor([[3, 0, 1], [2, 2, 0]])

    def loss(m: nn.Module, b: Any) -> Tensor:
        s = m(b["x"])
        of_slices = s[:, 1:4].gather(0, index) + s[:, :3].gather(0, index) * s[:2].gather(1, index)
        return s.gather(0, index).square().sum() + s.gather(1, index).exp().sum() + of_slices.tanh().sum()

    assert_as_eager(task(mlp(), SMALL, loss), target)
