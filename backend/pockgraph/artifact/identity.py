"""What makes two training steps the same, so that a checkpoint of one may go on in the other."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import fx

from ..ir.graph import Graph, Role, Slot, output_args
from ..ir.reachability import ancestors

if TYPE_CHECKING:
    from ..train_graph import TrainGraph

_MODEL = (Role.PARAM, Role.BUFFER)
# Arguments that follow from shapes, and so may hold the batch's; `*` stands for all but the tensors.
_SHAPED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "expand", "repeat", "slice", "arange"), ("*",)),
    **dict.fromkeys(("full", "zeros", "ones", "empty", "new_zeros", "new_ones", "new_empty", "new_full"),
                    ("size",)),
    **dict.fromkeys(("eye", "split", "split_with_sizes", "unsafe_split", "chunk", "linspace"), ("*",)),
    "select": ("index",),
}  # fmt: skip
# A mean over the batch divides by its size.
_SCALED = ("mul", "div", "add", "sub")


def fingerprint(graph: TrainGraph) -> str:
    """What two artefacts must share so that a checkpoint fits both: what is trained and how, and the
    values of all that is not trained, or not in full."""
    data = graph.plan.model_dump(mode="json", include={"model", "tensors", "optimizer"})
    data["optimizer"].pop("lr", None)
    data |= graph.plan.model_dump(include={"batch_norm", "dropout"}, exclude_defaults=True)
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode())
    whole = {f"param:{fqn}" for fqn, t in graph.plan.tensors.items() if t.channels is None}
    whole |= {s.name for s in graph.inputs if s.changes}
    values = {s.name: graph.gradients.values[s.name] for s in graph.gradients.inputs if s.role in _MODEL}
    for name in sorted(set(values) - whole):
        value = values[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        if value.numel():
            digest.update(cast(Any, value.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def computation(graph: TrainGraph) -> str:
    """A digest of how the loss is computed: operators, their order and arguments, and constants.

    Autograd derives the rest from that, whatever the target and the plan. What follows from the shape of the
    batch is left out, since a checkpoint goes on with batches of another size: sizes of views, and whole
    numbers (or one over such a number) that something is multiplied with.
    """
    whole = graph.gradients
    loss = next(n for s, n in zip(whole.outputs, output_args(whole.fx)) if s.role is Role.LOSS)
    needed = ancestors(loss)
    slots = dict(zip(whole.placeholders.values(), whole.inputs))
    number: dict[fx.Node, int] = {}
    digest = hashlib.sha256()
    for node in whole.fx.nodes:
        if node in needed:
            number[node] = len(number)
            said = _input(whole, slots[node]) if node in slots else _call(node, number)
            digest.update(f"{said};".encode())
    return digest.hexdigest()


def _input(graph: Graph, slot: Slot) -> str:
    if slot.role is not Role.CONST:
        return f"{slot.name} {slot.dtype}"
    value = graph.values[slot.name].detach().cpu().contiguous()
    if not value.is_floating_point():  # positions and masks, whose shape may be the batch's
        return f"const {value.dtype}"
    data = value.reshape(-1).view(torch.uint8).numpy() if value.numel() else b""
    return f"const {value.dtype} {tuple(value.shape)} {hashlib.sha256(cast(Any, data)).hexdigest()}"


def _call(node: fx.Node, number: dict[fx.Node, int]) -> str:
    target: Any = node.target
    schema = getattr(target, "_schema", None)
    if schema is None:  # operator.getitem
        return f"{target.__name__} {[number.get(a, a) for a in node.args]}"  # pyright: ignore
    name = target.overloadpacket.__name__
    shaped = _SHAPED.get(name, ())
    said = []
    for i, argument in enumerate(schema.arguments):
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        if argument.name in shaped or ("*" in shaped and "Tensor" not in str(argument.type)):
            continue
        if name in _SCALED and isinstance(value, int | float) and _may_count(value):
            value = "n"
        said.append(f"{argument.name}={_text(value, number)}")
    return f"{target} {' '.join(said)}"


def _may_count(value: float) -> bool:
    """Whether a factor may be a number of samples, or one over it."""
    return value != 0 and any(1 <= v < 1e12 and abs(v - round(v)) <= 1e-6 * v for v in (value, 1 / value))


def _text(value: Any, number: dict[fx.Node, int]) -> str:
    if isinstance(value, fx.Node):
        return f"%{number[value]}"
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(v, number) for v in value)}]"
    return repr(value)
