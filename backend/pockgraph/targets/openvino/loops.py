"""Loops over the steps of sequences, as `TensorIterator`.

Measured with OpenVINO 2026.4 on two cores of a server CPU (an LSTM's step, 16 samples, 64 units): handing an
iteration its slices and taking its results costs as much as computing a step, so that an iteration of eight
or sixteen steps takes half the time a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...runtime.quiet_openvino import ov
from ..shared.loops import Step, iteration, steps_an_iteration
from .emitter import Value, emit, op


def loop(
    sequences: Sequence[Value], initial: Sequence[Value], shared: Sequence[Value], step: Step, reverse: bool
) -> tuple[list[Value], list[Value]]:
    """Run `step` over the first dimension of `sequences`, from the last to the first where `reverse`.

    Returns:
        What was kept of every step `[T, …]` in the order of `sequences`; and what the last step left.
    """
    count = emit.shape(sequences[0])[0]
    size = steps_an_iteration(count)
    rows = emit.shape(sequences[0])[1] * size
    sequences = [emit.reshape(s, [-1, *emit.shape(s)[2:]]) for s in sequences]
    sliced = [_parameter(s, [rows, *emit.shape(s)[1:]]) for s in sequences]
    before = [_parameter(s, emit.shape(s)) for s in initial]
    fixed = [_parameter(s, emit.shape(s)) for s in shared]
    given, state, weights = ([p.output(0) for p in each] for each in (sliced, before, fixed))
    state, kept = iteration(emit, step, given, state, weights, size, reverse)
    after, made = [op.result(s) for s in state], [op.result(k) for k in kept]
    iterator: Any = ov.op.tensor_iterator()
    body: Any = ov.Model([*after, *made], [*sliced, *before, *fixed], "steps")  # pyright: ignore
    iterator.set_function(body)
    start, stride, end = (-1, -rows, 0) if reverse else (0, rows, -1)
    for inner, outer in zip(sliced, sequences):
        iterator.set_sliced_input(inner, outer, start, stride, rows, end, 0)
    for inner, outer, result in zip(before, initial, after):
        iterator.set_merged_input(inner, outer, result.output(0))
    for inner, outer in zip(fixed, shared):
        iterator.set_invariant_input(inner, outer)
    results = [iterator.get_concatenated_slices(r.output(0), start, stride, rows, end, 0) for r in made]
    last = [iterator.get_iter_value(r.output(0), -1) for r in after]
    iterator.validate_and_infer_types()
    return [emit.reshape(r, [count, -1, *emit.shape(r)[1:]]) for r in results], last


def _parameter(value: Value, size: Sequence[int]) -> Any:
    return op.parameter(list(size), value.get_element_type())
