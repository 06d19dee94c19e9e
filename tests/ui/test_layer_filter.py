"""Which rows a filter leaves, and what it says of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pockgraph.errors import PlanError
from pockgraph.plan.tensor_info import TensorInfo
from pockui.info.layer_filter import BIASES, LayerFilter, layer_kind

BLOCK = ["blocks.1.0.weight", "blocks.1.0.bias"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("BLOCKS.1", BLOCK),
        ("blocks.1.*", BLOCK),
        ("*.1.*.weight", BLOCK[:1]),
        (r"re:blocks\.1\..*", BLOCK),
        ("re:blocks", []),  # of the whole name, as locks have it
        ("re:.*bia", []),
        ("head.[bw]*", ["head.weight", "head.bias"]),
    ],
)
def test_a_name_is_a_part_a_glob_or_a_regular_expression(facts, text: str, found: list[str]) -> None:
    assert [r.id for r in LayerFilter(text, all_tensors=True).rows(facts.rows)] == found


def test_a_name_may_hold_brackets(facts) -> None:
    odd = replace(facts.row(BLOCK[0]), id="blocks[1].weight")
    assert LayerFilter("blocks[1]", all_tensors=True).rows([*facts.rows, odd]) == [odd]


def test_a_broken_regular_expression_says_where() -> None:
    with pytest.raises(PlanError, match=r"'re:blocks\.\(' is no regular expression: .*position 7"):
        LayerFilter("re:blocks.(").rows([])


def test_blocks_and_kinds_of_layers_are_filters_too(facts) -> None:
    assert {r.id for r in LayerFilter(block="blocks.1", all_tensors=True).rows(facts.rows)} == {*BLOCK}
    assert [r.id for r in LayerFilter(kind="linear").rows(facts.rows)] == ["head.weight"]
    biases = [r.id for r in LayerFilter(kind="bias").rows(facts.rows)]  # none was measured by itself
    assert len(biases) == 6
    assert BIASES in biases
    assert [r.id for r in LayerFilter("stem", kind="conv").rows(facts.rows)] == ["stem.weight"]


def test_it_counts_tensors_and_says_what_would_help(facts) -> None:
    usual = LayerFilter()
    assert usual.count_text(facts.rows, usual.rows(facts.rows)) == (
        "6 of 10 tensors, and the last biases as one row"
    )
    one = LayerFilter("stem")
    assert one.count_text(facts.rows, one.rows(facts.rows)) == "1 of 10 tensors"
    hidden = LayerFilter("blocks.1.0.bias")
    assert hidden.rows(facts.rows) == []
    assert "Switch on All tensors" in hidden.empty_text(facts.rows)
    assert LayerFilter("x", "blocks.1", "conv").empty_text(facts.rows) == (
        "No tensor fits “x”, block blocks.1, convolution. Clear the filter to see all."
    )


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("conv", {}),
        ("conv", {"shape": (8, 1, 3, 3), "channel_dim": 1}),  # an image with one channel
        ("depthwise", {"shape": (8, 1, 3, 3), "channel_dim": 0}),
        ("linear", {"shape": (8, 4)}),
        ("linear", {"shape": (8, 4), "channel_dim": 0, "dx_flops": 64}),  # x @ weight
        ("embedding", {"shape": (100, 8), "channel_dim": 0}),
        ("other", {"shape": (1, 9, 8), "channel_dim": None}),
        ("recurrent", {"fqn": "rnn.weight_hh_l0", "shape": (8, 4)}),
        ("bias", {"kind": "bias", "shape": (8,), "channel_dim": 0}),
        ("norm", {"kind": "norm", "shape": (8,), "channel_dim": 0}),
    ],
)
def test_kinds_of_layers(kind: str, tensor: dict) -> None:
    usual = TensorInfo("a.weight", "weight", (8, 4, 3, 3), "a", "a", 1, 1, 0, 1, 0)
    assert layer_kind(replace(usual, **tensor)) == kind
