"""Does a compiled step compute what eager PyTorch computes? Measured on one real batch, before shipping.

Two links, and the loss across both:

- the *gradients* of the plan's graph, run operator by operator, against autograd through the user's module
- the *step* of the compiled artefact (every trained tensor and optimizer state after one update, read
  back from its runtime) against the same graph run operator by operator in PyTorch
- the *loss* that the artefact reports against the one that the user's module gives

A deviation is the norm of the difference over the norm of what it should be. Where a gradient is rounding
and nothing else (an attention key's bias: its true gradient is zero), an optimizer that divides by the
gradient's size makes a whole update out of it, in PyTorch as well. Such elements are not compared.

Among millions of activations some lie so near a kink (ReLU at 0, ReLU6 at 6) that rounding decides on which
side: two correct programs then differ by a whole element of a gradient. So where a deviation is beyond its
tolerance, the last bits of weights and batch are changed at random, and what that does to PyTorch's own
gradients is what rounding may do to ours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .capture import as_captured
from .errors import ParityError
from .graph import Graph, Role
from .interpret import interpret
from .optimizer import SGD
from .prune import prune
from .runtime import checkpoint
from .runtime.manifest import Manifest, Parity
from .runtime.runner import open_runner
from .runtime.seed import step_keys
from .task import Batch, Task
from .train_graph import TrainGraph

DEVICE = "CPU"
# A gradient smaller than this share of the whole model's (root mean square) is held against that share.
FLOOR_RATIO = 1e-3


@dataclass(frozen=True)
class Tolerance:
    """Up to which deviation an artefact ships; ratios."""

    loss: float
    gradient: float
    step: float

    def beside(self, rounding: float) -> Tolerance:
        """What ships where rounding alone deviates by this much."""
        allowed = min(ROUNDING_FACTOR * rounding, MOST_ROUNDING)
        return Tolerance(self.loss, max(self.gradient, allowed), max(self.step, allowed))


# Looser than the tests': networks are deeper than the zoo's. What it has to tell apart is rounding
# (1e-6 here) and wrong mathematics (1e-2 and more).
# In bfloat16 and float16 the gradient of the graph is still compared in float32, the step is what costs.
TOLERANCES = {  # by the target's option `precision`
    "f32": Tolerance(loss=1e-4, gradient=1e-3, step=1e-3),
    "f16": Tolerance(loss=5e-3, gradient=1e-3, step=1e-1),
    "bf16": Tolerance(loss=2e-2, gradient=1e-3, step=5e-1),
}
SEED = 0  # of dropout's masks
ROUNDING_DRAWS = 3
ROUNDING_FACTOR = 4.0  # times the most that so few draws found
MOST_ROUNDING = 5e-2


def prove(folder: Path, manifest: Manifest, graph: TrainGraph, force: bool) -> Parity:
    """Measure the artefact in `folder`, and refuse it when it deviates.

    Args:
        manifest: of the artefact; the file need not be written yet.
        graph: the plan's training graph, before any pass.
        force: accept any deviation; the record then says so.

    Raises:
        ParityError: a deviation is beyond the tolerance, or the artefact cannot be run here.
    """
    parity = measure(folder, manifest, graph)
    if parity.ok:
        return parity
    if not force:
        raise ParityError(
            f"The compiled step of task {manifest.task!r} does not agree with eager PyTorch on the first "
            f"training batch: {_beyond(parity)}. Nothing was written. If the model was changed after the "
            "graph was built, build it again; otherwise this is a bug of the target: please report it, and "
            "compile for another target. force=True (--force) writes it all the same, and records that."
        )
    return parity.model_copy(update={"forced": True})


def measure(folder: Path, manifest: Manifest, graph: TrainGraph) -> Parity:
    """The deviations, without judging them.

    Raises:
        ParityError: the artefact cannot be run here.
    """
    task, tolerance = graph.task, _tolerance(manifest)
    # The first step of SGD with momentum leaves the gradient itself behind, as its state.
    by_sgd = prune(graph.gradients, SGD(momentum=0.9), graph.plan)
    derived = interpret(by_sgd, task.example, 0.0)
    if task.dropout:  # whose masks are the graph's own: autograd through the module would draw others
        loss = float(derived["loss"])
        gradients = {fqn: derived[_left_behind(fqn)] for fqn in graph.plan.tensors}
    else:
        loss, gradients = _autograd(task, graph)
    lr = graph.optimizer.lr or 1e-2
    reference = interpret(graph, task.example, lr)
    own_loss, own = _artefact_step(folder, manifest, task.example, lr)
    scale = max(abs(loss), 1e-2)

    def judged(tolerance: Tolerance, rounding: float | None = None) -> Parity:
        noise = _Noise(gradients, tolerance)
        by_tensor = {f: _ratio(derived[_left_behind(f)] - g, noise.size(f)) for f, g in gradients.items()}
        by_slot = {}
        for slot in manifest.train.state:
            if slot.next_name in reference:
                before, after = graph.values[slot.name], reference[slot.next_name]
                by_slot[slot.name] = noise.step_deviation(slot.fqn, own[slot.name], after, before)
        worst_gradient, worst_step = _worst(by_tensor), _worst(by_slot)
        return Parity(
            loss=_finite(loss), loss_deviation=_finite(abs(own_loss - loss) / scale),
            gradient_deviation=_finite(by_tensor.get(worst_gradient, 0.0)), worst_gradient=worst_gradient,
            step_deviation=_finite(by_slot.get(worst_step, 0.0)), worst_step=worst_step,
            tolerance={"loss": tolerance.loss, "gradient": tolerance.gradient, "step": tolerance.step},
            rounding=rounding,
            batch="first of `train`" + ("; with dropout, against the traced graph" if task.dropout else ""),
            batch_sha256=_digest(task.example), dtype=_dtype(gradients), device=DEVICE,
            versions=dict(manifest.versions),
        )  # fmt: skip

    parity = judged(tolerance)
    if parity.ok:
        return parity
    rounding = _rounding(by_sgd, task.example, {f: derived[_left_behind(f)] for f in gradients}, tolerance)
    return judged(tolerance.beside(rounding), _finite(rounding))


def _left_behind(fqn: str) -> str:
    return f"new_opt_state:{fqn}:momentum_buffer"


def _tolerance(manifest: Manifest) -> Tolerance:
    precision = str(manifest.options.get("precision", "f32"))
    if precision not in TOLERANCES:
        raise ParityError(
            f"No tolerance is stated for the precision {precision!r}, so agreement with PyTorch cannot be "
            "judged. Compile in f32, or pass parity=False (--no-parity) to write it without a record."
        )
    return TOLERANCES[precision]


# ---------------------------------------------------------------- the three runs


def _autograd(task: Task, graph: TrainGraph) -> tuple[float, dict[str, Tensor]]:
    """The user's module: its loss, and FQN -> gradient of what the plan trains."""
    params = dict(task.model.named_parameters())
    changed = {s.fqn for s in graph.gradients.outputs if s.role is Role.NEW_BUFFER}
    with (
        as_captured(task, changed & params.keys()),
        _requiring_grad(params, graph.plan.tensors),
        torch.enable_grad(),
    ):
        loss = task.loss(task.model, task.rebuild(task.example))
        grads = torch.autograd.grad(loss, [params[fqn] for fqn in graph.plan.tensors])
    found = {}
    for (fqn, how), grad in zip(graph.plan.tensors.items(), grads, strict=True):
        if how.dim is not None and how.channels is not None:
            grad = grad.index_select(how.dim, torch.tensor(how.channels, device=grad.device))
        found[fqn] = grad
    return float(loss.detach()), found


@contextmanager
def _requiring_grad(params: Mapping[str, nn.Parameter], wanted: Mapping[str, object]) -> Iterator[None]:
    before = {p: p.requires_grad for p in params.values()}
    try:
        for fqn, p in params.items():
            if p.is_floating_point():
                p.requires_grad_(fqn in wanted)
        yield
    finally:
        for p, required in before.items():
            p.requires_grad_(required)


def _rounding(graph: Graph, batch: Batch, gradients: Mapping[str, Tensor], tolerance: Tolerance) -> float:
    """How far gradients move when the last bits of weights and batch change; of the tensor that moves most.

    Args:
        graph: leaves the gradients behind, see `measure`.
    """
    generator = torch.Generator().manual_seed(0)
    noise = _Noise(gradients, tolerance)

    def changed(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        bits = torch.rand(value.shape, generator=generator) * 2 - 1
        return value * (1 + bits.to(value) * torch.finfo(value.dtype).eps)

    worst = 0.0
    for _ in range(ROUNDING_DRAWS):
        values = {
            s.name: changed(graph.values[s.name]) for s in graph.inputs if s.role in (Role.PARAM, Role.BUFFER)
        }
        other = replace(graph, values={**graph.values, **values})
        found = interpret(other, {name: changed(value) for name, value in batch.items()}, 0.0)
        moved = (_ratio(found[_left_behind(f)] - g, noise.size(f)) for f, g in gradients.items())
        worst = max(worst, *moved)
    return worst


def _artefact_step(
    folder: Path, manifest: Manifest, batch: Batch, lr: float
) -> tuple[float, dict[str, Tensor]]:
    """One step of the artefact by its own runtime: the loss, and every state slot after it."""
    arrays = {name: batch[name].numpy(force=True) for name in manifest.batch}
    try:
        runner = open_runner(folder, manifest, DEVICE, None)
        runner.write_state(checkpoint.initial_state(folder, manifest))
        draws = any(s.role == "seed" for s in manifest.train.inputs)
        loss = runner.step(arrays, lr, *((step_keys(SEED, 0),) if draws else ()))
        return loss, {name: torch.from_numpy(a) for name, a in runner.read_state().items()}
    except Exception as e:  # whatever the runtime, or a compiler that it calls, raises
        raise ParityError(
            f"The compiled step of task {manifest.task!r} cannot be run here, so its agreement with PyTorch "
            f"cannot be measured: {str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__} "
            "Compile where the target's runtime works, or pass parity=False (--no-parity) to write it "
            "without a record."
        ) from e


# ---------------------------------------------------------------- comparing


class _Noise:
    """Tells gradients from rounding."""

    def __init__(self, gradients: Mapping[str, Tensor], tolerance: Tolerance) -> None:
        self._gradients, self._tolerance = gradients, tolerance
        self._rms = {fqn: float(g.double().square().mean().sqrt()) for fqn, g in gradients.items()}
        count = sum(g.numel() for g in gradients.values())
        square = sum(self._rms[fqn] ** 2 * g.numel() for fqn, g in gradients.items())
        self._floor = FLOOR_RATIO * math.sqrt(square / max(count, 1))

    def size(self, fqn: str) -> float:
        """The norm of a gradient, or what it is held against when it is much smaller than the others."""
        return max(self._rms[fqn], self._floor) * math.sqrt(self._gradients[fqn].numel())

    def step_deviation(self, fqn: str, got: Tensor, after: Tensor, before: Tensor) -> float:
        """How far one state slot is from where it should be, as a share of how far it should have moved."""
        whole = _moved(got, after, before)
        if whole <= self._tolerance.step or fqn not in self._gradients:
            return whole
        gradient = self._gradients[fqn]
        certain = gradient.abs() > self._tolerance.gradient * max(self._rms[fqn], self._floor)
        if not certain.any():
            return 0.0
        if got.shape != gradient.shape:
            return whole
        return _moved(got[certain], after[certain], before[certain])


def _moved(got: Tensor, after: Tensor, before: Tensor) -> float:
    error = float((got.double() - after.double()).norm())
    eps = torch.finfo(after.dtype).eps if after.is_floating_point() else 0.0
    rounding = eps * float(before.double().norm())  # of storing the new value
    return _ratio(max(error - rounding, 0.0), float((after.double() - before.double()).norm()))


def _ratio(error: Tensor | float, size: float) -> float:
    norm = float(error.double().norm()) if isinstance(error, Tensor) else error
    return norm / size if size else (math.inf if norm else 0.0)


def _worst(deviations: Mapping[str, float]) -> str:
    return max(deviations, key=lambda k: math.inf if math.isnan(deviations[k]) else deviations[k], default="")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _beyond(parity: Parity) -> str:
    """What deviates, in words."""
    rows = (
        (parity.tolerance["loss"], "the loss", parity.loss_deviation),
        (parity.tolerance["gradient"], f"the gradient of {parity.worst_gradient}", parity.gradient_deviation),
        (parity.tolerance["step"], f"{parity.worst_step} after one step", parity.step_deviation),
    )
    said = []
    for allowed, what, deviation in rows:
        if deviation is None:
            said.append(f"{what} is not finite")
        elif deviation > allowed:
            said.append(f"{what} is off by {deviation:.2g} of its size (tolerance {allowed:.0e})")
    return ", ".join(said)


def _digest(batch: Batch) -> str:
    digest = hashlib.sha256()
    for name, value in batch.items():
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)};".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def _dtype(gradients: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted({str(g.dtype).removeprefix("torch.") for g in gradients.values()}))
