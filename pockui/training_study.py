"""Which study a training belongs to, so that it can be kept there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pockgraph.errors import StudyError, listing

from .info.studies import find_studies

if TYPE_CHECKING:
    from pockgraph import Plan, Study
    from pockgraph.runtime import Trainer
    from pockgraph.task import Task


class Held(NamedTuple):
    """What is held out from training: test and validation batches, None where there are none."""

    test: Iterable[Any] | None
    validation: Iterable[Any] | None


def held_of(task: Task) -> Held:
    """A task's; validation data that may have no end is left out."""
    from pockgraph.task.data_sources import is_stream

    validation = task.validation
    return Held(task.eval, None if validation is None or is_stream(validation) else validation)


def task_differences(study: Study, plan: Plan, reference: str = "", any_optimizer: bool = False) -> list[str]:
    """How a plan's task differs from a study's, a sentence's part each; empty when it is the same.

    Args:
        reference: `module:task` whose data is trained on; empty when that is not known.
        any_optimizer: another optimizer is no difference.
    """
    facts = study.facts
    batch = {k: v.model_dump(mode="json") for k, v in plan.batch.items()}
    rule = {k: v for k, v in json.loads(json.dumps(plan.optimizer)).items() if k != "lr"}
    known_rule = {k: v for k, v in facts["optimizer"].items() if k != "lr"}
    wrong = []
    if plan.task != facts["name"]:
        wrong.append(f"its task is {facts['name']!r}, not {plan.task!r}")
    if {k: list(v) for k, v in plan.model.items()} != facts["model"]:
        wrong.append("its model has other tensors")
    if batch != facts["batch"]:
        wrong.append("its batches have another shape")
    if not any_optimizer and any(rule.get(k) != known_rule.get(k) for k in rule.keys() & known_rule.keys()):
        wrong.append("its optimizer is another one")
    if reference and facts["reference"] and reference != facts["reference"]:
        wrong.append(f"its data is that of {facts['reference']}, not of {reference}")
    return wrong


def study_of(plan: Plan, reference: str, named: Path | None) -> Study | None:
    """The study that keeps a training of `plan`: the named one, or the newest near that is of its task.

    Raises:
        StudyError: the named one cannot be written, or is of another task.
    """
    from pockgraph import Study

    if named is not None:
        study = Study(named)
        if wrong := task_differences(study, plan):
            study.close()
            raise StudyError(
                f"The study {named} is of another task than this artefact: {listing(wrong)}. Name the one "
                "that its plan was made with, or leave --study out."
            )
        study.check_writable()
        return study
    found = (study_at(path, plan, reference) for path in find_studies())
    return next(filter(None, found), None)


def study_at(path: str | Path, plan: Plan, reference: str, any_optimizer: bool = False) -> Study | None:
    """The study at a path, if it is of the plan's task and can be written; else None, without a word.

    Args:
        any_optimizer: take runs with another optimizer than the study's: somebody chose it for this study.
    """
    from pockgraph import Study

    if not str(path):
        return None
    try:
        with Study(path, read_only=True) as found:  # a study of another task stays as it is
            if task_differences(found, plan, reference, any_optimizer):
                return None
        study = Study(path)
    except StudyError:  # gone, damaged, or another program's file
        return None
    with suppress(StudyError):
        study.check_writable()
        return study
    study.close()
    return None


def metrics(trainer: Trainer, data: Held, before: bool) -> dict[str, float]:
    """What a run notes before its first step, or after its last: fields of `Run`."""
    found = {}
    for name, batches in (("metric", data.test), ("validation_metric", data.validation)):
        if batches is not None:
            field = name.replace("metric", "baseline") if before else name
            found[field] = trainer.evaluate(batches).metric
    return found
