"""Every rule applied, then what they leave simplified: `t(x)` → `permute(x, [1, 0])`, and so on."""

from __future__ import annotations

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
            new.erase_node(check)  # a singular matrix makes a result that is not finite, which is seen
        new.eliminate_dead_code()
        return plain_softmax(plain_index(FoldConstants(weights=False)(rebuilt(graph, new))))
