"""How PyTorch is set while a trace is made: as plain operators as it has, and nothing said."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.distributions import Distribution
from torch.nn.attention import SDPBackend, sdpa_kernel

from .causal_masks import masks_as_given
from .model_stand_ins import plain_checkpoints
from .padded_encoders import padded_encoders


@contextmanager
def plain_operators() -> Iterator[None]:
    """As plain operators as PyTorch has: no fused kernels, whose backward exists on one device only."""
    compiler: Any = torch.compiler
    flags = compiler._is_compiling_flag, compiler._is_exporting_flag
    fast = torch.backends.mha.get_fastpath_enabled()
    checked = Distribution._validate_args
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(plain_checkpoints())
        stack.enter_context(masks_as_given())
        stack.enter_context(padded_encoders() if fast else nullcontext())
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            # Libraries leave out checks of values, such as whether a mask masks anything.
            compiler._is_compiling_flag = compiler._is_exporting_flag = True
            Distribution.set_default_validate_args(False)
            yield
        finally:
            compiler._is_compiling_flag, compiler._is_exporting_flag = flags
            Distribution.set_default_validate_args(checked)
            torch.backends.mha.set_fastpath_enabled(fast)
