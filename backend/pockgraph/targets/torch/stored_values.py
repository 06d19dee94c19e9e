"""The values of a graph, from the files of an artefact: read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch


class StoredValues(Mapping[str, torch.Tensor]):
    """Values by slot name: those of the graph's own file, those in memory, and those of the other files.

    Args:
        opened: opens a file of tensors.
        own: the graph's file.
        held: what is in memory already.
        others: files that the graph leans on, the first that holds a value counts.
    """

    def __init__(
        self,
        opened: Callable[[str], AbstractContextManager[Any]],
        own: str,
        held: Mapping[str, torch.Tensor],
        others: Sequence[str],
    ) -> None:
        self._opened, self._held = opened, held
        self._place: dict[str, str] = {}
        self._find(own)
        for name in held:
            self._place.setdefault(name, "")
        for file in others:
            self._find(file)

    def _find(self, file: str) -> None:
        with self._opened(file) as f:
            for name in f.keys():  # noqa: SIM118
                self._place.setdefault(name, file)

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self._place[name]
        if not file:
            return self._held[name]
        with self._opened(file) as f:
            return f.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)
