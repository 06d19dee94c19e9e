"""Loops over the steps of sequences, as `Scan`."""

from __future__ import annotations

from collections.abc import Sequence

from ..shared.loops import Step, iteration, steps_an_iteration
from .emitter import emit
from .value import Body, Node, Value, parameter

MOST_STEPS = 8


def loop(
    sequences: Sequence[Value], initial: Sequence[Value], shared: Sequence[Value], step: Step, reverse: bool
) -> tuple[list[Value], list[Value]]:
    """Run `step` over the first dimension of `sequences`, from the last to the first where `reverse`.

    Returns:
        What was kept of every step `[T, …]` in the order of `sequences`; and what the last step left.
    """
    count = sequences[0].shape[0]
    size = steps_an_iteration(count, MOST_STEPS)
    given = [emit.reshape(s, [count // size, size * s.shape[1], *s.shape[2:]]) for s in sequences]
    sliced = [parameter("", s.shape[1:], s.dtype) for s in given]
    before = [parameter("", s.shape, s.dtype) for s in initial]
    fixed = [parameter("", s.shape, s.dtype) for s in shared]
    state, made = iteration(emit, step, sliced, before, fixed, size, reverse)
    body = Body((*before, *sliced), (*state, *made), tuple(zip(fixed, shared)))
    attributes = {
        "num_scan_inputs": len(given),
        "scan_input_directions": [int(reverse)] * len(given),
        "scan_output_directions": [int(reverse)] * len(made),
    }
    node = Node("Scan", (*initial, *given), attributes, outputs=len(state) + len(made), body=body)
    last = [Value(node, s.shape, s.dtype, i) for i, s in enumerate(initial)]
    outputs = [Value(node, (count // size, *m.shape), m.dtype, len(last) + i) for i, m in enumerate(made)]
    return [emit.reshape(o, [count, o.shape[1] // size, *o.shape[2:]]) for o in outputs], last
