"""Trace -> the canonical form that every later room relies on: one rule per operator that autograd emits in
a form that a plan cannot drop or slice piecewise.

Not here: what makes a graph cheaper (`passes/optimize/`), or fits it to a target (`passes/legalize/`).

Before → after:

- `detach`, `alias` → nothing; `t`, `transpose` → `permute`; `view`, `_unsafe_view` → `reshape`
- `convolution_backward` → dX (`convolution`, transposed), dW (`convolution_backward` with only the
  weight asked for), db (`sum`): three nodes that can be kept or dropped one by one, and dX no longer
  holds on to the saved activation
- batch norm with frozen statistics, and its backward → `x * scale + shift` and their gradients, so
  that a frozen one can be folded into its convolution
- batch norm with batch statistics → the same with `mean` and `var` of the batch, and new running
  statistics; its backward → dx, dgamma and dbeta of elementwise operators and sums, one by one
- batch norm over one sample that keeps no running statistics, which is how `instance_norm` comes →
  group norm with a channel a group
- `native_layer_norm_backward`, `native_group_norm_backward` → db as a `sum`, which needs no saved
  activation; the former's dX and dW apart, like a convolution's
- PReLU, and its backward → comparisons and products
- `hardtanh_backward(dy, x)` → `hardtanh_backward(dy, y)`: the result decides as well as the input
  (`x <= low` exactly when `y <= low`), and it is often saved anyway
- `diagonal` → a strided `slice`, `diagonal_scatter` → a strided `slice_scatter`; `select_scatter`, and
  `slice_scatter` without a stride → `cat`
- operators along a dimension of a tensor without any → the same along a line of one number
- nodes without any input → constants
- `x[arange, arange, None]`, as attention masks are made → `reshape`
- `_safe_softmax` → `_softmax`, with rows that are masked out entirely set to zero where there can be any
"""

from . import activations, convolution, normalization, scalars, views  # noqa: F401 — they add their rules
from .apply_rules import Canonicalize

__all__ = ["Canonicalize"]
