"""The task that a study is opened with: the same that it was made for, or it is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import StudyError, listing
from .records import mapping_differences
from .study_file import StudyFile

if TYPE_CHECKING:
    from ..optimizer import Optimizer
    from ..task import Task
    from ..train_graph import TrainGraph


class StudyTask(StudyFile):
    """What `Study` does with its task, where it was opened with it."""

    def __init__(self, task: Task | None, optimizer: Optimizer | None) -> None:
        super().__init__()
        self._task = task
        self._optimizer = optimizer
        self._graph: TrainGraph | None = None

    @property
    def graph(self) -> TrainGraph:
        """The task's training graph, built when first asked for.

        Raises:
            StudyError: the study was opened without a task.
        """
        with self._lock:
            return self._graph or self._build()

    def _build(self) -> TrainGraph:
        from ..optimizer import optimizer_from_dict
        from ..train_graph.builder import build

        task = self._needed_task()
        optimizer = self._optimizer
        if optimizer is None and hasattr(self, "facts"):
            optimizer = optimizer_from_dict(self.facts["optimizer"])
        graph = build(task, optimizer)
        if hasattr(self, "facts") and graph.fingerprint != self.fingerprint:
            self._refuse([f"fingerprint {graph.fingerprint} instead of {self.fingerprint}"])
        self._graph = graph
        return graph

    @property
    def task(self) -> Task:
        """
        Raises:
            StudyError: the study was opened without it.
        """
        return self._needed_task()

    def _needed_task(self) -> Task:
        if self._task is None:
            made = f" It was made from {self.reference!r}." if self.reference else ""
            raise StudyError(
                f"The study {self.path} was opened without its task {self.name!r}, which this needs.{made} "
                "Give the task too: --task MODULE:TASK, or in Python Study(path, task)."
            )
        return self._task

    def _check_same(self, task: Task) -> None:
        """Refuse another task by what can be told without tracing it."""
        facts, wrong = self.facts, []
        if task.name != facts["name"]:
            wrong.append(f"task {task.name!r} instead of {facts['name']!r}")
        batch = {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in task.example.items()}
        stored = {k: [v["shape"], v["dtype"]] for k, v in facts["batch"].items()}
        wrong += mapping_differences("batch entry ", stored, batch)
        shapes = {n: list(p.shape) for n, p in task.model.named_parameters(remove_duplicate=False)}
        unused = set(facts["unused"]) - set(facts["model"])
        wrong += mapping_differences("", facts["model"], {n: s for n, s in shapes.items() if n not in unused})
        if self._optimizer is not None:
            given = json.loads(json.dumps(self._optimizer.to_dict()))
            wrong += mapping_differences("optimizer's ", facts["optimizer"], given)
        if self._graph is not None and self._graph.fingerprint != self.fingerprint:
            wrong.append(f"fingerprint {self._graph.fingerprint} instead of {self.fingerprint}")
        if wrong:
            self._refuse(wrong)

    def _refuse(self, wrong: Sequence[str]) -> None:
        self._store.close()
        raise StudyError(
            f"The study {self.path} belongs to another task: {listing(wrong)}. Open it with the task it was "
            "made for, or use another file."
        )
