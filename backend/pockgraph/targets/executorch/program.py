"""A program's file as a function of tensors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .library import imported, runtime
from .program_file import check_program

# ExecuTorch's threads are one pool for all programs of a process, and may be replaced between two calls.
running = threading.RLock()


class Program:
    """What `path` holds, loaded.

    Raises:
        ArtifactError: it is damaged, or calls what no training step does.
    """

    def __init__(self, path: Path) -> None:
        check_program(path)
        programs, verification = runtime(), imported("runtime").Verification
        # The program owns the memory of its method.
        self._program = programs.load_program(path, verification=verification.InternalConsistency)
        self._method: Any = self._program.load_method("forward")

    @property
    def takes(self) -> list[tuple[int, ...]]:
        """The shapes of its inputs."""
        about = self._method.metadata
        return [tuple(about.input_tensor_meta(i).sizes()) for i in range(about.num_inputs())]

    @property
    def gives(self) -> list[tuple[int, ...]]:
        """The shapes of its outputs."""
        about = self._method.metadata
        return [tuple(about.output_tensor_meta(i).sizes()) for i in range(about.num_outputs())]

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Its outputs, in memory of their own. Inputs are contiguous."""
        with running:
            return self._method.execute(inputs)
