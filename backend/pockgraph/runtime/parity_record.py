"""How a compiled step compares with eager PyTorch, as the manifest keeps it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from .graph_specs import ManifestPart


class RoundingCost(ManifestPart):
    """What rounding frozen weights to int8 costs, in eager PyTorch: the same batch with the weights as they
    were. (The rest of a record is about the rounded ones.)

    Attributes:
        tensors, elements: how many are rounded.
        loss_deviation: relative to the loss; None when it is not finite, as for the others.
        gradient_deviation: of all gradients together, relative to their norm.
        worst_gradient_deviation: of the tensor whose gradient deviates most, relative to its norm, or to
            what is usual where it is quiet; worst_gradient: its FQN.
    """

    tensors: int
    elements: int
    loss_deviation: float | None
    gradient_deviation: float | None
    worst_gradient_deviation: float | None
    worst_gradient: str

    def __str__(self) -> str:
        loss, gradients = (
            "no finite number" if d is None else f"{d:.1e}"
            for d in (self.loss_deviation, self.gradient_deviation)
        )
        return f"moves the loss by {loss}, and gradients by {gradients}"


class ParityRecord(ManifestPart):
    """How a compiled step compares with eager PyTorch on one real batch; see `pockgraph.parity`.

    Attributes:
        loss: what eager PyTorch gives; None when it is not finite, as for the deviations.
        loss_deviation: of the artefact's loss, relative to it.
        gradient_deviation: of the tensor whose gradient in the graph deviates most from autograd's, relative
            to its norm; worst_gradient: its FQN.
        step_deviation: of the state (weights, optimizer) that one step of the artefact leaves farthest from
            where the graph takes it, relative to how far it moves; worst_step: its slot.
        update_deviation: of the state that the graph's update phase takes farthest from where `torch.optim`
            takes it, relative to how far it moves; worst_update: its slot. Empty in records that older
            versions wrote.
        metric_deviation: of the artefact's metric, from eager PyTorch's in evaluation mode, of the sample
            whose value deviates most, relative to that or to the usual one. None in records that older
            versions wrote: they did not compare it.
        prediction_deviation: of the artefact's predictions, in the same way, of the element that deviates
            most. None where there are none.
        tolerance: `"loss"`, `"gradient"`, `"update"`, `"step"`, `"metric"` and `"prediction"` -> the largest
            deviation that ships, for these tensors and this sample: rounding counted, where it was measured.
        rounding: by how much a few last bits in every operator change the graph's own gradients; measured
            only where a deviation would not ship otherwise.
        referee: `"float32"`, `"float64"` where that left a doubt, or `"float32: "` and why not float64.
        batch, batch_sha256: which batch, and a digest of it.
        dtype: of the gradients; device: where the artefact ran; versions: of the programs.
        forced: it was written although it deviates.
        frozen_weights: what rounding them costs; None where they are as they were, and not written then.
    """

    loss: float | None
    loss_deviation: float | None
    gradient_deviation: float | None
    worst_gradient: str
    step_deviation: float | None
    worst_step: str
    update_deviation: float | None = None
    worst_update: str = ""
    metric_deviation: float | None = None
    prediction_deviation: float | None = None
    tolerance: dict[Literal["loss", "gradient", "update", "step", "metric", "prediction"], float]
    rounding: float | None = None
    referee: str = "float32"
    batch: str
    batch_sha256: str
    dtype: str
    device: str
    versions: dict[str, str]
    forced: bool = False
    frozen_weights: RoundingCost | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, rest: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = rest(self)
        if self.frozen_weights is None:
            del found["frozen_weights"]
        return found

    @property
    def ok(self) -> bool:
        """Whether every deviation is within its tolerance."""
        found = {"loss": self.loss_deviation, "gradient": self.gradient_deviation,
                 "update": self.update_deviation, "step": self.step_deviation,
                 "metric": self.metric_deviation, "prediction": self.prediction_deviation}  # fmt: skip
        for later in ("update", "metric", "prediction"):  # which older versions did not compare
            if found[later] is None and later not in self.tolerance:
                del found[later]
        return all(d is not None and d <= self.tolerance[k] for k, d in found.items())  # pyright: ignore
