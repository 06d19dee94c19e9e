"""Models that cannot be trained as they are, told before anything is traced."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import TaskError, listing
from ..ir.graph import dtype_name
from ..task import Task

HALVES = (torch.float64, torch.float16, torch.bfloat16)


def check_model(task: Task) -> None:
    """Refuse tensors that a step does not hold, and modules that hide their code.

    Raises:
        TaskError: naming the first of them and what to do.
    """

    def refuse(found: list[str], verb: str, reason: str) -> None:
        if found:
            verb = verb if len(found) == 1 else _PLURAL[verb]
            raise TaskError(f"Task {task.name!r}: {listing(found, 3)} {verb} {reason}.")

    net = task.model
    scripted = [
        repr(n) or "the model" for n, m in net.named_modules() if isinstance(m, torch.jit.ScriptModule)
    ]
    refuse(
        scripted[:1], "is", "TorchScript, which hides its code. Use the Python module that it was made from"
    )
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    quantised = [repr(n) for n, m in net.named_modules() if "quantized" in type(m).__module__.split(".")]
    quantised += [repr(n) for n, t in tensors.items() if not is_lazy(t) and t.is_quantized]
    remedy = "Train the float model, and quantise after"
    refuse(quantised, "is", f"quantised, and integers have no gradient. {remedy}")
    lazy = [repr(n) for n, t in tensors.items() if is_lazy(t)]
    refuse(lazy, "has", "no shape yet. Run the model once on a batch first")
    empty = [repr(n) for n, t in tensors.items() if t.device.type == "meta"]
    refuse(empty, "is", "on the meta device, without values. Load the weights first")
    away = [f"{n!r} ({t.device})" for n, t in tensors.items() if t.device.type != "cpu"]
    refuse(away, "is", "not on the CPU, where a step is made and compared with PyTorch. Use model.cpu()")
    foreign = [f"{n!r} ({type(t).__name__})" for n, t in tensors.items() if type(t) not in _PLAIN]
    refuse(foreign, "is", "of a special kind, which hides values. Use plain tensors")
    sparse = [repr(n) for n, t in tensors.items() if t.layout is not torch.strided]
    refuse(sparse, "is", "sparse, and a step holds dense tensors. Take .to_dense(), or keep its indices")
    floats = [
        f"{n!r} ({dtype_name(t.dtype)})" for n, t in tensors.items() if t.dtype in HALVES or t.is_complex()
    ]
    remedy = "use model.float(), and the option `precision` for cheaper activations"
    if any(t.is_complex() for t in tensors.values()):
        remedy = "keep the real and the imaginary part as two tensors"
    refuse(floats, "is", f"not float32, in which a step keeps weights and state; {remedy}")


_PLURAL = {"is": "are", "has": "have"}
_PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)
