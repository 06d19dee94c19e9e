"""AOTInductor packages: a graph as machine code in a file. Beside `capture/` the only file that touches
torch's private interfaces.

A package is a zip that holds a shared library. To load one is to run code of whoever made it, so
callers load only what their user said to trust. The compiler is imported when it is asked for: other
modes need neither its time nor its memory.
"""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from ...errors import ArtifactError, PockError


def require_compiler() -> None:
    """Refuse to begin where no C++ compiler is found.

    Raises:
        PockError: with what to install.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as e:
        raise PockError(
            "Mode 'aot' compiles C++ code, and there is no C++ compiler here (CXX is "
            f"{os.environ.get('CXX', 'not set')}). Install g++ or clang++ (on Debian: apt-get install g++), "
            "or use mode 'eager', which needs none."
        ) from e


def compile_package(graph: fx.Graph, inputs: Sequence[torch.Tensor], path: Path) -> None:
    """Compile `graph` for this machine's processor; inputs that it changes are changed in place.

    Args:
        inputs: one tensor per placeholder; only their shapes and dtypes matter.

    Raises:
        PockError: the compiler failed; with its last words.
    """
    from torch._inductor import aoti_compile_and_package

    module = fx.GraphModule(torch.nn.Module(), graph)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, tuple(inputs), strict=False)
            aoti_compile_and_package(exported, package_path=str(path))
    except Exception as e:  # inductor wraps whatever its compiler raises in classes of its own
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        words = textwrap.shorten(lines[-1], 300) if lines else type(e).__name__
        raise PockError(
            f"AOTInductor cannot compile {path.stem}: {words}. Use mode 'eager' or 'compile'."
        ) from e


def load_package(path: Path) -> Callable[..., Any]:
    """The function that a package holds. Runs the package's own code.

    Raises:
        ArtifactError: not a package, or not one for this machine.
    """
    from torch._inductor import aoti_load_package

    try:
        return aoti_load_package(str(path))
    except Exception as e:  # the loader's errors have no class of their own
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        raise ArtifactError(
            f"PyTorch {torch.__version__} cannot load {path}: {lines[0] if lines else type(e).__name__}. "
            "Compile the artefact again on this kind of machine, with this version of PyTorch."
        ) from e
