"""Tensor names of an ONNX model -> FQNs of a module tree.

Exporters leave the names of layers in different places: on initializers (`features.0.0.weight`,
`fc_0.w_0`, `conv12_bn_scale`), on nodes (`/encoder/layer.0/query/MatMul`), or nowhere. The layer is
looked for in that order; the last part of the name is what the tensor is at its operator: weight,
bias, running_mean. A bias that is added to a product belongs to that product's layer.

Where no layer has a numbered part of its own, numbers inside names become parts
(`conv12_depthwise` -> `conv.12.depthwise`), so that repeated blocks can be told.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Set

from torch import nn

from .program import Node, Program
from .tensor_roles import ELEMENTWISE, TensorRole, follows_product

# Ends of tensor names that say what the tensor is, and parts that only tell of an exporter's plumbing.
_LEAF = re.compile(
    r"^(weights?|bias(es)?|kernel|gamma|beta|scale|offset|mean|var(iance)?|alpha|slope|embeddings?|"
    r"running_(mean|var)|moving_(mean|variance)|[wb]_?\d*)$",
    re.I,
)
_LEAF_SUFFIX = re.compile(r"_(weights?|bias(es)?|kernel|gamma|beta|scale|offset|mean|variance)$")
_PLUMBING = re.compile(
    r"^(ReadVariableOp|resource|read|Cast|MatMul|BiasAdd|Conv[123]D|Tensordot|FusedBatchNorm(V\d)?|"
    r"batchnorm|Reshape|ExpandDims|Conv|ConvTranspose|Gemm|Add|Mul|Sub|Div|Gather(V2)?|mul|add|sub|"
    r"convolution|merged_input)(_\d+)?$"
)
_ANONYMOUS = re.compile(
    r"^(const(ant)?|const_fold_opt_?|tensor|val|value|initializer|var|params?|t|p|node|arg|out(put)?|helper|"
    r"p2o)?[_@]*\d*$",
    re.I,
)
OF_MODULES = frozenset(dir(nn.Module()))
_NUMBER = re.compile(r"_?(?<!\d)(\d+)(?![\dd])_?")


def _parts(name: str) -> list[str]:
    """`a/b.0.weight:0` -> `[a, b, 0, weight]`."""
    name = re.sub(r":\d+$", "", name)
    return [re.sub(r"\W+", "_", p) for p in re.split(r"[/.;]", name) if p.strip()]


def _without_plumbing(parts: list[str]) -> list[str]:
    while parts and _PLUMBING.match(parts[-1]):
        parts = parts[:-1]
    return parts


def _layer_of_tensor(name: str) -> list[str]:
    """The layer that a tensor's name tells; empty when it tells none."""
    if "::" in name:
        return []
    parts = _without_plumbing(_parts(name))
    if parts and _LEAF.match(parts[-1]):
        parts = _without_plumbing(parts[:-1])
    elif parts:
        parts = [*parts[:-1], _LEAF_SUFFIX.sub("", parts[-1])]
    return [] if all(_ANONYMOUS.match(p) for p in parts) else parts


def _layer_of_node(node: Node) -> list[str]:
    parts = _parts(node.name)
    if len(parts) < 2 and re.match(rf"^(\w*_)?{node.op}[_@]*\d*$", node.name, re.I):
        return []
    parts = _without_plumbing(parts)
    return [] if all(_ANONYMOUS.match(p) for p in parts) else parts


def _home(program: Program, name: str, role: TensorRole) -> Node:
    """The operator whose layer a tensor belongs to: a bias lives with the product that it is added to."""
    if role.node.op == "Add" and role.leaf == "bias":
        product = follows_product(program, role.node, name)
        if product and (product.op not in ("Conv", "ConvTranspose", "Gemm") or len(product.inputs) < 3):
            return product
    return role.node


def name_tensors(
    program: Program, roles: Mapping[str, TensorRole], reserved: Set[str] = frozenset()
) -> dict[str, str]:
    """Tensor name -> FQN, all different, and valid as a tree of modules.

    Args:
        reserved: names that the root of the tree needs for itself.
    """
    homes = {name: _home(program, name, role) for name, role in roles.items()}
    groups: dict[int, list[str]] = {}
    for name, node in homes.items():
        groups.setdefault(id(node), []).append(name)
    counts: dict[str, int] = {}
    layers: dict[str, list[str]] = {}
    for node in program.nodes:
        members = groups.get(id(node), [])
        if not members:
            continue
        members.sort(key=lambda n: (roles[n].leaf != "weight", n))
        counts[node.op] = counts.get(node.op, -1) + 1
        layer = next(filter(None, map(_layer_of_tensor, members)), None) or _layer_of_node(node)
        for name in members:
            # Two operands of one sum or product need not belong together.
            own = node.op in ELEMENTWISE and _layer_of_tensor(name)
            layers[name] = own or layer or [f"{node.op.lower()}_{counts[node.op]}"]
    trained = [layer for name, layer in layers.items() if roles[name].trained]
    if not any(part.isdigit() for layer in trained for part in layer):
        shared = _shared(trained)
        layers = {n: _without(layer, shared) for n, layer in layers.items()}
        layers = {name: [p for part in layer for p in _split_numbers(part)] for name, layer in layers.items()}
    return _distinct(layers, roles, reserved)


def _shared(layers: list[list[str]]) -> list[str]:
    """The path that all layers lie below: the model's own name, which tells nothing."""
    levels = itertools.takewhile(lambda parts: len({*parts}) == 1, zip(*(layer[:-1] for layer in layers)))
    return [parts[0] for parts in levels]


def _without(layer: list[str], shared: list[str]) -> list[str]:
    return layer[len(shared) :] if layer[: len(shared)] == shared else layer


def _split_numbers(part: str) -> list[str]:
    """`conv12_depthwise` -> `[conv, 12, depthwise]`; `conv2d` stays."""
    return [p for p in _NUMBER.sub(r".\1.", part).split(".") if p]


def _distinct(
    layers: Mapping[str, list[str]], roles: Mapping[str, TensorRole], reserved: Set[str]
) -> dict[str, str]:
    """FQNs without two alike, without a tensor where a module must be, without names `nn.Module` needs."""
    modules: set[str] = set()
    taken: set[str] = set()
    names = {}
    for name, layer in layers.items():
        safe = [
            f"{p}_" if p in (OF_MODULES if i else reserved | OF_MODULES) else p for i, p in enumerate(layer)
        ]
        path, number = _beside(safe, taken), 0
        while (fqn := ".".join([*path, roles[name].leaf])) in taken | modules:
            number += 1
            path = _beside([*safe[:-1], f"{safe[-1]}_{number}"], taken)
        modules.update(".".join(path[: i + 1]) for i in range(len(path)))
        taken.add(fqn)
        names[name] = fqn
    return names


def _beside(path: list[str], taken: set[str]) -> list[str]:
    """A module cannot stand where a tensor does: the part of the path that would, gets another name."""
    made: list[str] = []
    for part in path:
        while ".".join([*made, part]) in taken:
            part += "_"
        made.append(part)
    return made
