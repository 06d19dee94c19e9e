"""State of an OpenVINO model as constants of it.

The plugin then puts weights in the order of its kernels once, and folds what they are scaled with, as it does
for a network that does not learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .quiet_openvino import ov


def with_constants(model: Any, values: Mapping[str, np.ndarray]) -> Any:
    """The model, changed: its state is gone, and what read it has these values.

    Args:
        values: state by name, in the dtypes in which the model holds it.
    """
    for operator in model.get_ops():
        if operator.get_type_name() == "ReadValue":
            value = np.ascontiguousarray(values[operator.get_friendly_name()])
            operator.output(0).replace(ov.op.Constant(value).output(0))
    for sink in model.get_sinks():
        model.remove_sink(sink)
    for variable in model.get_variables():
        model.remove_variable(variable)
    return model
