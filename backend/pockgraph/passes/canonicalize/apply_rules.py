"""Every rule applied, then what they leave simplified: `t(x)` → `permute(x, [1, 0])`, and so on."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ...ir.graph import Builder, Graph, aten, rebuilt
from ..optimize.fold_constants import FoldConstants
from .attention import plain_softmax
from .indexing import plain_index
from .rule_table import RULES


@dataclass(frozen=True)
class Canonicalize:
    """Apply every rule, fold what depends on nothing, drop what nothing needs."""

    name: ClassVar[str] = "canonicalize"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        output = new.graph_copy(graph.fx, copied)
        new.output(output)
        for node in list(new.nodes):
            apply = RULES.get(node.target)
            if apply is None or node.op != "call_function":
                continue
            builder = Builder(new, node.meta["phase"], node.meta["layer"], node.meta["source"])
            with builder.before(node):
                replacement = apply(builder, node)
            if replacement is None:
                continue
            if isinstance(replacement, dict):
                for user in list(node.users):
                    assert user.target is operator.getitem, f"{node} is used as a tuple by {user}"
                    if user.args[1] in replacement:
                        user.replace_all_uses_with(replacement[user.args[1]])
                        new.erase_node(user)
            else:
                node.replace_all_uses_with(replacement)
        for check in new.find_nodes(op="call_function", target=aten._linalg_check_errors.default):
            _not_a_number_where_it_failed(new, check)
        new.eliminate_dead_code()
        return plain_softmax(plain_index(FoldConstants(weights=False)(rebuilt(graph, new))))


def _not_a_number_where_it_failed(graph: fx.Graph, check: fx.Node) -> None:
    """An error that eager PyTorch raises for a matrix → NaN in what was computed of it, which a step refuses.

    LAPACK leaves finite numbers behind where a matrix is not positive definite, or singular.
    """
    info: fx.Node = check.args[0]  # pyright: ignore
    factored: fx.Node = info.args[0]  # pyright: ignore
    builder = Builder(graph, *(factored.meta[k] for k in ("phase", "layer", "source")))
    failed = info.meta["val"].shape
    factored.append(info)  # before the other parts
    for part in list(factored.users):
        val = part.meta["val"]
        if part is info or not (val.is_floating_point() or val.is_complex()):
            continue
        with builder.before(part.next):
            sound = builder.call(aten.eq.Scalar, info, 0)
            shape = [*failed, *[1] * (val.ndim - len(failed))]
            nan = builder.call(aten.full.default, [], math.nan, dtype=val.dtype)
            kept = builder.call(aten.where.self, builder.call(aten.reshape.default, sound, shape), part, nan)
        part.replace_all_uses_with(kept, lambda user, kept=kept: user is not kept)
    graph.erase_node(check)
