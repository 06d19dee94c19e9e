"""The operators of a profile as arrays, and who reads what: made once for all plans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..cost.liveness import Flags
from .operator_cost import WORK_KINDS

if TYPE_CHECKING:
    from .profile import Profile


class OperatorTable:
    """
    Attributes:
        storage, bytes, elementwise, forward: [N], of each operator.
        work: [N, 1 + K], FLOPs, and the amount of each of `WORK_KINDS`.
        readers, reads: [P], an operator and a storage that it reads, for each operand.
        readers_of: per storage, the operators that read it.
        weight_readers: per tensor, the operators that read the weight.
        norm_sums, clamp_backwards: the operators that add to the norm of all gradients, and that compare a
            clamped result.
    """

    def __init__(self, profile: Profile) -> None:
        operators = profile.operators
        count = len(operators)
        self.storage = np.array([o.storage for o in operators], np.int64)
        self.bytes = np.array([o.bytes for o in operators], np.int64)
        self.elementwise = np.array([o.elementwise for o in operators], bool)
        self.forward = np.array([o.forward for o in operators], bool)
        self.work = np.zeros((count, 1 + len(WORK_KINDS)), np.int64)
        self.work[:, 0] = [o.flops for o in operators]
        self.work[np.arange(count), [1 + o.kind for o in operators]] = [o.work for o in operators]
        pairs = [(n, s) for n, o in enumerate(operators) for s in o.operands]
        self.readers, self.reads = np.array(pairs, np.int64).reshape(-1, 2).T
        self.readers_of: list[list[int]] = [[] for _ in operators]
        for n, s in pairs:
            self.readers_of[s].append(n)
        self.weight_readers: list[list[int]] = [[] for _ in profile.tensors]
        for n, o in enumerate(operators):
            for i in o.reads:
                self.weight_readers[i].append(n)
        self.norm_sums = [n for n, o in enumerate(operators) if o.adds_norm_of >= 0]
        self.clamp_backwards = [n for n, o in enumerate(operators) if o.compared >= 0]
        self._serve: dict[int, list[int]] = {}  # a set of tensors -> the operators that serve them
        for n, o in enumerate(operators):
            self._serve.setdefault(o.serves, []).append(n)
        places = {what: k for k, what in enumerate(self._serve)}
        self._place = np.array([places[o.serves] for o in operators], np.int64)
        self._needed = np.array([o.needed for o in operators], bool)

    def existing(self, trained: int) -> Flags:
        """[N]: has a plan that trains these tensors this operator? As `pruning_rules.when_exists` says."""
        return self._needed | np.array([bool(what & trained) for what in self._serve], bool)[self._place]

    def serving_one(self, trained: int) -> Iterator[tuple[int, list[int]]]:
        """Of these tensors, those that operators serve alone, with these operators (and ones of the loss)."""
        for what, operators in self._serve.items():
            served = what & trained
            if served and not served & (served - 1):
                yield served.bit_length() - 1, operators
