"""Every public function, fed what does not belong there: it works, or says in its own words what it wants.

The functions and their arguments are read from the packages: a new one is tested by being there.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch.nn.functional as F
from oracle import built

import pockgraph as pg
import pockgraph.runtime
from pockgraph.errors import PockError

BAD = (None, 3, "x", [], {})
FROM_INSIDE = re.compile(
    r"object has no attribute|Input should|pydantic|is not (iterable|callable|subscriptable)|unhashable|"
    r"unexpected keyword|not supported between|must be real number|has no len"
)
VALUES = ("Evaluation", "StepResult", "Runner")  # what is returned, and a protocol: nobody calls them
OBJECTS = (
    "Task",
    "Batches",
    "TrainGraph",
    "Plan",
    "Trained",
    "Study",
    "Artifact",
    "Trainer",
    "Predictor",
    "Budget",
)

Call = tuple[Callable[..., Any], Mapping[str, Any]]  # a function, and good arguments


def classified(model: Any, batch: Any) -> Any:
    return (model(batch["x"]).argmax(1) == batch["y"]).float()


def loss(model: Any, batch: Any) -> Any:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def logits(model: Any, batch: Any) -> Any:
    return model(batch["x"])


def functions() -> Iterator[str]:
    """`build`, `Task`, `Task.named`, …: all that is exported, and the methods of the objects."""
    for name in {*pg.__all__, *pockgraph.runtime.__all__} - {*VALUES}:
        found = getattr(pg, name, None) or getattr(pockgraph.runtime, name)
        is_error = isinstance(found, type) and issubclass(found, BaseException)
        if not is_error and name not in ("TrainGraph", "Artifact", "Trainer", "Predictor"):  # made by others
            yield name
    for name in OBJECTS:
        kind = getattr(pg, name, None) or getattr(pockgraph.runtime, name)
        for method in dir(kind):
            found = inspect.getattr_static(kind, method)
            if isinstance(found, classmethod | staticmethod):
                found = found.__func__
            own = inspect.isfunction(found) and found.__module__.startswith("pockgraph")
            if own and not method.startswith("_") and method != "close":
                yield f"{name}.{method}"


class World:
    """One good object of each kind."""

    def __init__(self, folder: Path) -> None:
        data = models.vectors()
        net = models.randomised(models.MLP())
        self.task = pg.Task("arguments", net, loss, classified, data, data, predict=logits)
        self.batch = next(iter(self.task.train))
        self.batches = pg.Batches({"x": np.zeros((8, 2), np.float32)}, 2)
        self.graph = pg.build(self.task, pg.SGD(lr=0.1))
        self.plan = pg.Plan.full(self.graph)
        self.plan.save(folder / "plan.json")
        self.artifact = pg.compile(self.graph, target="torch", out=folder / "out", parity=False)
        self.trainer = self.artifact.trainer()
        self.predictor = pockgraph.runtime.Predictor.load(folder / "out")
        self.trainer.save(folder / "checkpoint")
        self.study = pg.Study(folder / "study.db", self.task)
        weight = next(row.fqn for row in self.graph.tensors if row.kind == "weight")
        self.quick: dict[str, Any] = {"steps": 1, "tensors": [weight], "ratios": [1.0], "lr": 0.1}
        self.study.analyze(**self.quick)
        assert self.study.profile
        self.study.save_plan("kept", self.plan)
        self.folder = folder

    def call(self, name: str) -> Call:
        owner, _, method = name.partition(".")
        if method:
            of = {
                "Task": self.task, "Batches": self.batches, "TrainGraph": self.graph, "Plan": self.plan,
                "Trained": pg.Trained(), "Study": self.study, "Artifact": self.artifact,
                "Trainer": self.trainer, "Predictor": self.predictor, "Budget": pg.Budget(),
                "Constraints": pg.Constraints(),
            }  # fmt: skip
            return getattr(of[owner], method), self.good().get(name, {})
        return getattr(pg, name, None) or getattr(pockgraph.runtime, name), self.good().get(name, {})

    def good(self) -> dict[str, dict[str, Any]]:
        how = {"loss": loss, "metric": classified, "train": self.task.train, "eval": self.task.eval}
        graph = {"graph": self.graph}
        return {
            "Task": {"name": "a", "model": self.task.model, **how},
            "Batches": {"arrays": {"x": np.zeros((8, 2), np.float32)}, "batch_size": 2},
            "Group": {"pattern": "*"},
            "build": {"task": self.task},
            "compile": {**graph, "target": "torch", "out": self.folder / "again", "parity": False},
            "Plan": {"task": "a", "model": {}, "batch": {}, "optimizer": {}, "tensors": {}},
            "Study": {"path": self.folder / "other.db", "task": self.task},
            "Manifest": self.artifact.manifest.model_dump(by_alias=True),
            "heads": {"graph": built("transformer"), "layer": "blocks.1.attention", "heads": [0]},
            "fisher_scores": {**graph, "batches": [self.batch]},
            "lora": {"task": self.task, "layers": "layers.0"},
            "merge_lora": {"model": pg.lora(self.task, "layers.0").model},
            "register_target": {"target": "mine", "module": "mine"},
            "Task.from_onnx": {"path": self.folder / "no.onnx", "name": "a", **how},
            "Task.named": {"batch": self.batch},
            "Task.rebuild": {"batch": self.task.example},
            "Task.set_mode": {"training": False},
            "Batches.shuffled": {"seed": 0},
            "TrainGraph.prune": {"plan": self.plan},
            "Plan.of": {**graph, "choice": {}},
            **{f"Plan.{rule}": graph for rule in ("full", "head", "preset")},
            "Plan.last_k_biases": {**graph, "k": 1},
            "Plan.check_fits": {"model": self.plan.model},
            "Plan.apply": {"model": self.task.model},
            "Plan.save": {"path": self.folder / "plan.json"},
            "Plan.load": {"path": self.folder / "plan.json"},
            "Plan.from_json": {"text": self.plan.to_json()},
            "Study.analyze": self.quick,
            "Study.verify": {"plan": self.plan},
            "Study.search": {"budget": pg.Budget()},
            "Constraints": {},
            "Constraints.with_locked": {"locked": {}},
            "Constraints.ratios": {"profile": self.study.profile},
            "Study.save_plan": {"name": "kept", "plan": self.plan},
            "Trainer.load": {"path": self.folder / "out"},
            "Trainer.step": {"batch": self.batch},
            **{f"{kind}.predict": {"batch": self.batch} for kind in ("Trainer", "Predictor")},
            "Predictor.load": {"path": self.folder / "out"},
            "Predictor.load_checkpoint": {"path": self.folder / "checkpoint"},
            "Trainer.evaluate": {"batches": [self.batch]},
            "Trainer.set_state": {"tensors": {}},
        }


def raised(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except Exception as e:
        return e
    return None


def is_pythons(error: Exception) -> bool:
    """Of a call that lacks an argument, in Python's own words."""
    return isinstance(error, TypeError) and "required positional argument" in str(error)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("arguments"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(functions())))
def test_a_bad_argument_is_refused_in_words(
    name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # "x" is a good name of a file
    function, good = world.call(name)
    for argument, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        for value in BAD:
            error = raised(lambda value=value, argument=argument: function(**{**good, argument: value}))
            if error is not None and not is_pythons(error):
                what = f"{name}({argument}={value!r}): {type(error).__name__}: {error}"
                assert isinstance(error, PockError), what
                assert not FROM_INSIDE.search(str(error)), what
                assert str(error).rstrip()[-1] in ".?", what
                assert len(str(error).split()) > 4, what


def test_what_is_public_is_tested() -> None:
    """That the list is read at all."""
    assert {"build", "compile", "Task", "Plan.load", "Study.analyze", "Trainer.step"} <= set(functions())


def test_the_part_of_a_plan_that_is_wrong_is_named() -> None:
    with pytest.raises(PockError, match=r"tensors\.x\.dim: it must be a whole number.*help\(Plan\)"):
        pg.Plan(task="a", model={"x": (3,)}, batch={}, optimizer={}, tensors={"x": {"dim": "q"}})  # pyright: ignore
    with pytest.raises(PockError, match="dim and channels are given together, or neither"):
        pg.Trained(dim=3)


def test_fewer_than_no_biases_are_none() -> None:
    with pytest.raises(PockError, match=r"k=-1 is no number of biases\. Pass 0 or more"):
        pg.Plan.last_k_biases(built("mlp"), -1)
