"""What cannot be captured, in the words of people who did not write a tracer."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import torch

from ..errors import CaptureError
from ..task import Task

TORCH_ROOT = str(Path(torch.__file__).parent)
ENGINE_ROOT = str(Path(__file__).parent.parent)
QUANTISATION = f"{TORCH_ROOT}/ao/quantization"
ADAPTIVE_FILE = f"{TORCH_ROOT}/nn/modules/adaptive.py"

DATA_DEPENDENT = (
    "its control flow or a shape depends on the values of a tensor, and a training step that is compiled "
    "before deployment has one fixed graph. Replace the branch by torch.where, a selection "
    "x[mask].mean() by (x * mask).sum() / mask.sum(), or move the decision out of the model"
)
ADAPTIVE = (
    "it uses nn.AdaptiveLogSoftmaxWithLoss, which sorts the samples by their labels, as many to each cluster "
    "as the batch says. Take the same loss of all classes: F.nll_loss(layer.log_prob(hidden), labels)"
)
AS_NUMBER = (
    "it takes a Python number from a tensor, which would be the first batch's in every step. Compute with "
    "the tensor itself, with .detach() where no gradient shall go through it"
)
_EXPERTS = re.compile(r"transformers/.*\bexpert|grouped_mm\(")
_NUMBER = re.compile(r"\.item\(|\b(float|int)\(")
DATA_ASSIGNED = (
    "it assigns `.data` of a tensor, which autograd does not see. Write the value with "
    "`with torch.no_grad(): tensor.copy_(value)`"
)
POST_ACCUMULATE = (
    "it registers a post-accumulate-grad hook, which runs beside the step's update. Remove the hook; the "
    "optimizer given to `build` is part of the graph"
)
BACKWARD_INSIDE = (
    "it calls .backward(), which a step does itself. Return the loss alone; for a gradient within it use "
    "torch.autograd.grad(..., create_graph=True)"
)
PACKED_ROWS = (
    "it calls {name} on the data of a packed sequence, which has as many rows as the lengths in the batch "
    "say. Pad the sequence first, pad_packed_sequence(packed, total_length={steps}), and leave out what lies "
    "after each length: labels of -100 in a cross entropy, or (each * mask).sum() / mask.sum() with "
    "mask = torch.arange({steps}) < lengths[:, None]"
)
PACKED_SIZES = (
    "it computes with the batch sizes of a packed sequence, whose number depends on the lengths in the "
    "batch. Compute with the lengths themselves"
)
PACKED_BY_HAND = (
    "it makes a packed sequence of other rows than pack_padded_sequence gave. Compute on the padded "
    "sequence, and pack the result with pack_padded_sequence"
)
PACKED_COMPUTED = (
    "it pads a packed sequence to the longest of the batch, and the lengths are computed in the step, so "
    "that no device can tell beforehand whether this is {steps}. Say so: "
    "pad_packed_sequence(packed, total_length={steps})"
)
CTC_IN_A_ROW = (
    "the targets of a CTC loss stand one sample after the other, and where each begins depends on the "
    "lengths in the batch. Pad them: targets of shape [{samples}, S], S the longest, the lengths as they are"
)
INFERENCE_MODE = (
    "a tensor made under torch.inference_mode is used where gradients are needed. Use torch.no_grad() "
    "there instead, or clone the tensor outside of inference mode"
)
NO_SHAPE_RULE = (
    "the operator {name} of your own library has no rule for tensors without data. Register one with "
    "torch.library.register_fake"
)
NO_DERIVATIVE = "PyTorch has no derivative of {name}. Compute it another way, or under torch.no_grad()"
COMPARED = (
    "it compares tensors with torch.testing, which reads their values, and a step that is compiled before "
    "deployment has none yet. Leave such comparisons to tests of the model"
)
EXPERTS = (
    "the tokens of each expert are picked by their values, so that their number depends on the batch. In "
    "transformers, model.set_experts_implementation('batched_mm') computes a mixture of experts with shapes "
    "that are fixed; elsewhere compute every expert for every token and weight the results, zero where an "
    "expert is not chosen"
)
QUANTISED = (
    "{layer} observes values and decides by them how it quantises, and a step that is compiled before "
    "deployment has fixed ranges. Train the model without it and quantise what was learned, or put "
    "torch.fake_quantize_per_tensor_affine(x, scale, zero_point, low, high) in its place with the numbers of "
    "its calculate_qparams()"
)
LEAST_SQUARES = (
    "torch.linalg.lstsq finds the rank of a matrix, which is no fixed shape. Take torch.linalg.pinv(a) @ b, "
    "or torch.linalg.solve(a.mT @ a, a.mT @ b) for columns that are independent"
)
MIXED = (
    "it multiplies {dtypes} tensors, which PyTorch refuses as well. Cast one of them, or keep both layers "
    "within torch.autocast"
)
OWN_READING = (
    "it reads a tensor's values in Python or numpy, and a training step that is compiled before deployment "
    "has one fixed graph. Compute with torch operators, or pass the value in the batch; "
    "pack_padded_sequence takes the lengths as a tensor"
)
REPLACED = (
    "it creates or replaces the {what} {fqn!r} while it runs. Create it in __init__, and change its value in "
    "place or, for a buffer, by assignment"
)
RESHAPED = "it makes the buffer {fqn!r} ({was}) {became}; a step's state keeps its shape and dtype"
CONSTANT_CHANGED = (
    "it changes {where} in place, which is no state of the model. Make it a buffer with "
    "register_buffer, or compute a new tensor"
)
TRAINED_CHANGED = (
    "it changes the trained parameter {fqn!r} in place, beside the optimizer's update. Compute the changed "
    "weight as a new tensor (torch.nn.utils.parametrize: a parametrization), or freeze the parameter with "
    "requires_grad_(False)"
)
BATCH_CHANGED = "it changes a tensor of the batch in place. Compute a new tensor, or clone it first"
WRITES = "the operator {name} writes into its operands in a way that has no functional form"
DRAWN = (
    "it draws from {source}, so that every call computes something else, and a compiled step would repeat "
    "one draw for ever. Draw outside and pass the numbers in the batch, or use dropout"
)
REMEMBERED = (
    "{what} changes from call to call, and a compiled step would keep one value for ever. Keep numbers that "
    "the step needs in a buffer, pass them in the batch, or keep them out of the model and the loss"
)
DIFFERS = (
    "it computes something else when it is called again (a random number, the time, a counter), and a "
    "compiled step would keep one value for ever. Pass the value in the batch, or keep it in a buffer"
)
SPARSE = (
    "it computes with a sparse tensor, and a step holds dense ones. Take its .to_dense() before; or, for a "
    "matrix given by `rows`, `columns` and `values`, write A @ x as "
    "x.new_zeros(len(A), x.shape[1]).index_add(0, rows, values[:, None] * x[columns])"
)
LEFT_OVER = (
    "it reads a tensor that an earlier call has kept. Keep it in a buffer (register_buffer), or, if it is a "
    "table that never changes, compute it in __init__"
)
HOLDS_ITSELF = (
    "Task {task!r}: the loss reads the parameter {name!r} of the model through a tensor that was made from "
    "it before. Take the parameter from the `model` argument each time."
)
OVERWRITTEN = (
    "it changes in place a value that the backward pass needs, which PyTorch refuses as well. Use the form "
    "of the operator that returns a new tensor"
)
HIGHER_ORDER = (
    "it uses torch's {name}, whose branches are no part of one graph. Use torch.where or plain operators"
)
NOT_RECORDED = (
    "it asks for a gradient where none is recorded, as a metric is computed under torch.no_grad(). Put those "
    "lines within `with torch.enable_grad():`"
)
TRANSFORMED = (
    "it uses a transform of torch.func, such as vmap, that cannot be written down operator by operator. "
    "Write the computation over the batch dimension instead"
)
INDEX_DTYPE = (
    "labels and indices of {name} are no integers that PyTorch takes for such: make them int64, in the data "
    "or with .long() where they are used"
)
TRANSLATIONS = (
    (r"gather\(\): Expected dtype int32/int64 for index, but got torch\.(?P<name>\w+)|"
     r"tensors used as indices must be .*?but found (?P<name2>\w+)", INDEX_DTYPE),
    (r"does not require grad and does not have a grad_fn", NOT_RECORDED),
    (r"resulted in the unexpected exception above|Tensor-likes are not", COMPARED),
    (r"Expected inputs of BF16 type but got mat_a", EXPERTS),
    (r"functorch|escaped from inside a function being vmapped", TRANSFORMED),
    (r"modified by an inplace operation|leaf Variable that requires grad is being used in an in-place",
     OVERWRITTEN),
    (r"data-dependent|data dependent|DataDependent|DynamicOutputShape|get value out of a tracing tensor|"
     r"Could not (guard|extract specialized)", DATA_DEPENDENT),
    (r"[Ii]nference tensors? ", INFERENCE_MODE),
    (r"derivative for (?P<name>\S+) is not implemented|"
     r"Trying to backward through (?P<name2>\S+?)\.\w+ but no autograd formula", NO_DERIVATIVE),
    (r"There was no fake impl registered for (?:<CustomOpDef\()?(?P<name>[\w:.]+)|"
     r"no fake impl registered.*?(?P<name2>\w+::\w+)|"
     r"[Mm]eta (?:tensor|kernel).*?(?P<name3>\w+::\w+)", NO_SHAPE_RULE),
    (r"\.numpy\(\) is not supported|Cannot access data pointer|FakeTensor.*numpy|"
     r"\.tolist\(\) is not supported", OWN_READING),
)  # fmt: skip


class NotOneGraph(Exception):
    """Found while tracing: `reason` is a clause with its remedy, `source` the user's `file:line` or empty."""

    def __init__(self, reason: str, source: str = "") -> None:
        super().__init__(reason)
        self.reason, self.source = reason, source


def explained(task: Task, what: str, error: Exception) -> CaptureError:
    """Whatever the user's code or tracing raises as one readable error."""
    name = task.name
    if isinstance(error, NotOneGraph):
        return not_one_graph(name, what, error.reason, error.source or _users_line(error))
    where = _users_line(error)
    quantised = _quantised(error, task)
    if quantised:
        return not_one_graph(name, what, QUANTISED.format(layer=quantised), where)
    kind, text = type(error).__name__, str(error).strip()
    for pattern, reason in TRANSLATIONS:
        found = re.search(pattern, f"{kind}: {text}", re.DOTALL)
        if found:
            if reason is DATA_DEPENDENT and ".tolist(" in where:
                reason = OWN_READING
            elif reason is DATA_DEPENDENT and "lstsq(" in where:
                reason = LEAST_SQUARES
            elif reason is DATA_DEPENDENT and _passes_through(ADAPTIVE_FILE, error):
                reason = ADAPTIVE
            elif reason is DATA_DEPENDENT and _NUMBER.search(where):
                reason = AS_NUMBER
            elif reason is DATA_DEPENDENT and _EXPERTS.search(where):
                reason = EXPERTS
            names = [n for n in found.groupdict().values() if n]
            return not_one_graph(name, what, reason.format(name=names[0] if names else ""), where)
    first = text.splitlines()[0].rstrip(".") if text else kind
    return not_one_graph(name, what, f"{kind}: {first}", where)


def foreign(task: str, name: str) -> str:
    return (
        f"Task {task!r}: the loss would train {name}, which requires gradients and is no parameter of the "
        "task's model, so that it would stay as it is. Put it into the model, for example as "
        "`net.criterion = criterion`, and use it from the `model` argument; or, if it shall stay, set "
        "requires_grad_(False) on it."
    )


def nothing_to_train(task: Task) -> str:
    frozen = not any(p.requires_grad for p in task.model.parameters())
    if frozen and next(task.model.parameters(), None) is not None:
        return (
            f"Task {task.name!r}: nothing can be trained, because every parameter of the model has "
            "requires_grad=False. Set requires_grad_(True) on those that shall learn."
        )
    return (
        f"Task {task.name!r}: the loss depends on no parameter; nothing can be trained. Is it computed under "
        "torch.no_grad(), from detached tensors, or behind torch.cond, which gives no gradient here?"
    )


def not_one_graph(name: str, what: str, reason: str, source: str = "") -> CaptureError:
    where = f" at {source}" if source else ""
    return CaptureError(f"Task {name!r}: the {what} cannot be turned into one static graph{where}: {reason}.")


def _users_line(error: Exception) -> str:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((TORCH_ROOT, ENGINE_ROOT, "<")):
            return f"{frame.filename}:{frame.lineno}: `{frame.line}`"
    return ""


def _passes_through(file: str, error: Exception) -> bool:
    return any(frame.filename == file for frame in traceback.extract_tb(error.__traceback__))


def _quantised(error: Exception, task: Task) -> str:
    """The layer of torch.ao.quantization, with its class, whose code raised an error; or empty."""
    paths = {id(m): name for name, m in task.model.named_modules()}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        layer = frame.f_locals.get("self")
        if frame.f_code.co_filename.startswith(QUANTISATION) and id(layer) in paths:
            return f"the layer {paths[id(layer)]!r} ({type(layer).__name__})"
    return ""
