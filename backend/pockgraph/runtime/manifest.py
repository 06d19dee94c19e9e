"""The artefact's manifest: what is in the folder, and what a step takes and gives. Imports no torch.

Not here: reading it, and comparing the folder's files with it (`artifact_files.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from ..ir.slot_names import EMA, Role
from ..plan import BatchSpec
from ..plan.plan import BatchNorm
from .batch_limits import Limit, require_entries
from .graph_specs import GraphSpec, ManifestPart, PredictionSpec, SlotSpec
from .parity_record import ParityRecord

SCHEMA = "pockui.artifact/1"
# Endings of files that hold machine code.
NATIVE_SUFFIXES = (".pt2", ".so", ".dll", ".dylib")
_LONGEST_NAME = 100


class FileSpec(ManifestPart):
    """A file's digest (hexadecimal SHA-256) and size."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class PassSpec(ManifestPart):
    """How many operators the training step had before and after a pass of the compiler."""

    name: str = Field(max_length=100)
    before: int = Field(ge=0)
    after: int = Field(ge=0)


class Manifest(ManifestPart):
    """What an artefact holds.

    Attributes:
        task: the task's name.
        fingerprint: what a checkpoint must agree with: the plan's model, tensors and optimizer, and
            the values that training leaves alone. Neither the target nor the batch shape is in it.
        computation: a digest of the loss's operators, which a checkpoint must agree with, too; see
            `identity.computation`. Empty when the artefact was written by a version without it.
        target, options: what the graphs were compiled for.
        batch: what a training batch holds.
        train, eval: the slots of both graphs.
        predict: what the task predicts, in ascending batch sizes; empty without a prediction.
        optimizer: `{"name": "sgd", "lr": 0.01, …}`.
        batch_norm, dropout: what a step does with those layers, as in the plan.
        predicted: figures, keys with unit suffixes.
        unused: parameters of the model that the plan does not know: unused ones, names of tied ones.
        versions: of the programs that wrote the artefact.
        passes: what the compiler did after pruning, in order. Empty, as older versions wrote: not counted.
        files: every other file of the folder.
        native_code: those of them that hold machine code: to load them is to run their author's code.
        telling_state: the state slots by which a step is judged: while what it leaves in them is finite, so
            is all of its result. None, as older versions wrote: all that change.
        nonfinite_entries: the batch entries whose first batch held NaN or infinite values (an additive mask
            of -inf): only these may hold such values later on. None, as older versions wrote: all may hold
            infinite ones.
        train_limits, eval_limits: what the entries of a batch may hold that a step, or an evaluation, uses as
            indices: labels, token ids.
        train_guards, eval_guards: the indices that a step, or an evaluation, computes and checks itself, in
            words.
        train_integers, eval_integers: the integers that they compute, and check that the target is exact.
        numbered_guards: whether a failed check gives the numbers of `result_marks.py` as the loss or the
            metric; False, as older versions wrote: -inf and NaN.
        samples_apart: whether the metric looks at each sample alone, so that short batches can be padded.
        parity: how the step compares with eager PyTorch; `"skipped"` when that was not to be measured,
            None when the artefact was written by a version that did not measure it.
    """

    schema_: Literal["pockui.artifact/1"] = Field(default=SCHEMA, alias="schema")
    task: str
    fingerprint: str
    computation: str = ""
    target: str
    options: dict[str, Any] = Field(default={})
    batch: dict[str, BatchSpec]
    train: GraphSpec
    eval: GraphSpec
    predict: tuple[PredictionSpec, ...] = ()
    optimizer: dict[str, Any]
    batch_norm: BatchNorm = "frozen"
    dropout: bool = False
    predicted: dict[str, float] = Field(default={})
    unused: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default={})
    passes: tuple[PassSpec, ...] = ()
    files: dict[str, FileSpec]
    native_code: tuple[str, ...] = Field(default=(), validate_default=True)
    telling_state: tuple[str, ...] | None = None
    nonfinite_entries: tuple[str, ...] | None = None
    train_limits: tuple[Limit, ...] = ()
    eval_limits: tuple[Limit, ...] = ()
    train_guards: tuple[str, ...] = ()
    eval_guards: tuple[str, ...] = ()
    train_integers: tuple[str, ...] = ()
    eval_integers: tuple[str, ...] = ()
    numbered_guards: bool = False
    samples_apart: bool = True
    parity: ParityRecord | Literal["skipped"] | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, FileSpec]) -> dict[str, FileSpec]:
        for name in files:
            plain = Path(name).name == name and name not in ("", ".", "..")
            if not plain or not name.isprintable() or len(name) > _LONGEST_NAME:
                raise ValueError(f"{name[:_LONGEST_NAME]!r} is not a plain file name")
        return files

    @field_validator("native_code")
    @classmethod
    def _is_declared(cls, listed: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        native = tuple(sorted(n for n in info.data.get("files", ()) if n.endswith(NATIVE_SUFFIXES)))
        if listed != native:
            raise ValueError(f"it lists {list(listed)} instead of {list(native)}")
        return listed

    @field_validator("train_limits", "eval_limits")
    @classmethod
    def _of_entries(cls, limits: tuple[Limit, ...], info: ValidationInfo) -> tuple[Limit, ...]:
        require_entries(limits, {n: s.shape for n, s in info.data.get("batch", {}).items()})
        return limits

    @field_validator("predict")
    @classmethod
    def _ascending(cls, predict: tuple[PredictionSpec, ...]) -> tuple[PredictionSpec, ...]:
        sizes = [p.samples or 0 for p in predict]
        if sizes != sorted(set(sizes)) or (0 in sizes and len(sizes) > 1):
            raise ValueError(f"its predictions have the sizes {sizes}")
        if len({tuple(s.name for s in p.graph.outputs) for p in predict}) > 1:
            raise ValueError("its predictions have different outputs")
        return predict

    @property
    def changing_state(self) -> tuple[SlotSpec, ...]:
        """The state slots that a step gives a new value."""
        made = {s.name for s in self.train.outputs}
        return tuple(s for s in self.train.state if s.next_name in made)

    @property
    def checked_state(self) -> tuple[str, ...]:
        """The names of the state slots that are looked at after every step, see `telling_state`."""
        floating = [s.name for s in self.changing_state if s.dtype.startswith(("float", "bfloat"))]
        checked = set(floating if self.telling_state is None else self.telling_state)
        return tuple(n for n in floating if n in checked)

    @property
    def partial(self) -> dict[str, SlotSpec]:
        """FQN -> slot of each tensor that is trained in part."""
        return {s.fqn: s for s in self.train.inputs if s.trained and s.indices is not None}

    @property
    def averaged(self) -> bool:
        """Whether training keeps an average of the weights, which evaluation reads."""
        return any(s.role == Role.OPT_STATE and s.key == EMA for s in self.train.inputs)

    @property
    def parity_json(self) -> dict[str, Any] | str | None:
        """`parity` as JSON."""
        return self.parity.model_dump(mode="json") if isinstance(self.parity, ParityRecord) else self.parity

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1) + "\n"
