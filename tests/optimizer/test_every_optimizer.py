"""Whoever names optimizers names all of them."""

from __future__ import annotations

import typing

import pytest

import pockgraph as pg
from pockgraph.optimizer import OPTIMIZERS, optimizer_from_dict
from pockgraph.parity.eager_optimizer import TORCH_CLASSES
from pockui.commands.optimizers import OptimizerOption
from pockui.info.optimizers import optimizer_code


def test_parity_and_the_benchmarks_have_a_class_of_pytorch_for_each() -> None:
    assert set(TORCH_CLASSES) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_dashboard_writes_each_as_python_that_makes_it(name: str) -> None:
    described = optimizer_from_dict({"name": name}).to_dict()
    assert eval(optimizer_code(described), {"pg": pg}).to_dict() == described


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_command_line_offers_each(name: str) -> None:
    _, option = typing.get_args(OptimizerOption)
    assert name in option.help
