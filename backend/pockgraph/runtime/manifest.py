"""The artefact's manifest: what is in the folder, and what a step takes and gives.

Imports no torch: `SlotSpec` is `ir.graph.Slot` as a device sees it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ..errors import ArtifactError, PlanError, listing, reason, violations
from ..files import open_regular, parse_json, read_text, sweep
from ..ir.slot_names import Role, SlotNames
from ..plan import BatchSpec, Plan
from ..plan.plan import MAX_BYTES, BatchNorm
from ..strict_model import Strict
from .batch_limits import Limit

SCHEMA = "pockui.artifact/1"
MANIFEST = "manifest.json"
PLAN = "plan.json"
STATE = "state.safetensors"
LAST_CHECKPOINT = "last_checkpoint"
MAX_ELEMENTS = 1 << 40
EMA = "ema"  # key of the optimizer state that averages a trained tensor
# Endings of files that hold machine code.
NATIVE_SUFFIXES = (".pt2", ".so", ".dll", ".dylib")


class _Strict(Strict):
    refusal = ArtifactError


class SlotSpec(SlotNames, _Strict):
    """One input or output of a graph; the fields are those of `ir.graph.Slot`."""

    role: str
    fqn: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: str = Field(pattern="^(bool|u?int(8|16|32|64)|float(16|32|64)|bfloat16)$")
    key: str = ""
    trained: bool = False
    changes: bool = False
    dim: int | None = None
    indices: tuple[int, ...] | None = None

    @field_validator("shape")
    @classmethod
    def _bounded(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"{list(shape)} is larger than any tensor")
        return shape


class GraphSpec(_Strict):
    """The calling convention of one graph."""

    inputs: tuple[SlotSpec, ...]
    outputs: tuple[SlotSpec, ...]

    @property
    def batch(self) -> tuple[SlotSpec, ...]:
        return tuple(s for s in self.inputs if s.role == Role.BATCH)

    @property
    def state(self) -> tuple[SlotSpec, ...]:
        return tuple(s for s in self.inputs if s.is_state)


class FileSpec(_Strict):
    """A file's digest (hexadecimal SHA-256) and size."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class PassSpec(_Strict):
    """How many operators the training step had before and after a pass of the compiler."""

    name: str = Field(max_length=100)
    before: int = Field(ge=0)
    after: int = Field(ge=0)


class ParityRecord(_Strict):
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


class PredictionSpec(_Strict):
    """What the task predicts of batches of one size.

    Attributes:
        samples: of a batch. None: the outputs have no row for each sample, and batches are taken as they are.
        graph: its slots; the outputs are named like the task's own, a single tensor has no name.
        limits, guards, integers: as those of an evaluation, see `Manifest`.
        nonfinite_entries: as the manifest's, of the example that it was compiled with.
        samples_apart: whether each sample's row depends on that sample alone, so that batches of other sizes
            can be padded and split.
    """

    samples: int | None = Field(ge=1)
    graph: GraphSpec
    limits: tuple[Limit, ...] = ()
    guards: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    nonfinite_entries: tuple[str, ...] = ()
    samples_apart: bool = True

    @property
    def stem(self) -> str:
        """How its files are called."""
        return "predict" if self.samples is None else f"predict-{self.samples}"

    @cached_property
    def batch(self) -> dict[str, BatchSpec]:
        """What a batch holds."""
        return {s.fqn: BatchSpec(shape=s.shape, dtype=s.dtype) for s in self.graph.batch}

    @field_validator("limits")
    @classmethod
    def _of_entries(cls, limits: tuple[Limit, ...], info: ValidationInfo) -> tuple[Limit, ...]:
        graph = info.data.get("graph")
        _require_entries(limits, {s.fqn: s.shape for s in graph.batch} if graph else {})
        return limits


class Manifest(_Strict):
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
        _require_entries(limits, {n: s.shape for n, s in info.data.get("batch", {}).items()})
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


def _require_entries(limits: Iterable[Limit], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for limit in limits:
        if limit.entry not in shapes or not limit.fits(shapes[limit.entry]):
            raise ValueError(f"a limit of {limit.entry!r} is of no entry, or of no part of it")


def read_manifest(folder: Path) -> Manifest:
    """Parse and validate `folder/manifest.json`.

    Raises:
        ArtifactError: no such folder, not an artefact, another schema, or an invalid manifest.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        sweep(folder.parent)  # a killed compilation may have left it under another name
    if not folder.is_dir():
        raise ArtifactError(f"There is no artefact folder {folder}. Compile one with pockgraph.compile(…).")
    try:
        _require_inside(folder, path)
        text = read_text(path, MAX_BYTES)
        data = parse_json(text)
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder} is not an artefact: it has no {MANIFEST}. Pass a folder that pockgraph.compile wrote."
        ) from None
    except (OSError, ValueError) as e:
        raise ArtifactError(f"Cannot read {path}: {reason(e)}. {_AGAIN}") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path} has schema {schema!r}; this version of pockgraph reads {SCHEMA!r}. Compile the artefact "
            "again with this version, or run it with the version that wrote it."
        )
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as e:
        raise ArtifactError(f"{path} is not a valid manifest: {violations(e, 'file')}. {_AGAIN}") from None


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest.

    Raises:
        ArtifactError: naming each file that is missing, cut short, changed, or that lies elsewhere.
    """
    wrong = [found for name in manifest.files if (found := _difference(folder, manifest, name))]
    missing = {PLAN, STATE} - set(manifest.files)
    wrong += [f"{name} is not listed in {MANIFEST}" for name in sorted(missing)]
    if wrong:
        raise ArtifactError(f"The artefact {folder} is damaged: {listing(wrong)}. {_AGAIN}")


def require_unchanged(folder: Path, manifest: Manifest, *names: str) -> None:
    """Refuse files that are no longer those that were there when the artefact was loaded.

    Raises:
        ArtifactError: with their names.
    """
    wrong = [found for name in names if (found := _difference(folder, manifest, name, trust_times=True))]
    if wrong:
        raise ArtifactError(
            f"The artefact {folder} was replaced or damaged after it was loaded: {listing(wrong)}. "
            "Load it again; a checkpoint keeps what was trained."
        )


def _difference(folder: Path, manifest: Manifest, name: str, trust_times: bool = False) -> str:
    """What tells a file from the one that the manifest lists, or an empty string.

    Args:
        trust_times: do not read a file again that this process read, and that nobody wrote to since.
    """
    path, spec = folder / name, manifest.files.get(name)
    try:
        if spec is None:
            return f"{name} is not listed in {MANIFEST}"
        _require_inside(folder, path)
        with open_regular(path) as f:
            status = os.fstat(f.fileno())
            if status.st_size != spec.bytes:
                return f"{name} has {status.st_size} bytes instead of {spec.bytes}"
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            digest = _digests.get(stamp) if trust_times else None
            if digest is None:
                digest = hashlib.file_digest(f, "sha256").hexdigest()
                if len(_digests) >= _MAX_DIGESTS:
                    _digests.clear()
                _digests[stamp] = digest
            if digest != spec.sha256:
                return f"{name} was changed (its SHA-256 differs)"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as e:
        return f"{name} cannot be read ({e.strerror or e})"
    return ""


_LONGEST_NAME = 100
_MAX_DIGESTS = 1024
_digests: dict[tuple[int, ...], str] = {}  # of the files that this process read, by what changes with them


def _require_inside(folder: Path, path: Path) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise OSError(errno.EPERM, "it is a link to a place outside the folder", str(path))


def read_plan(folder: Path) -> Plan:
    """The plan of a verified artefact.

    Raises:
        ArtifactError: it is no plan.
    """
    try:
        _require_inside(folder, folder / PLAN)
        return Plan.load(folder / PLAN)
    except (PlanError, OSError) as e:
        raise ArtifactError(f"The artefact {folder} is damaged: {str(e).rstrip('.')}. {_AGAIN}") from None


def file_sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def describe(slots: Iterable[tuple[str, BatchSpec]]) -> str:
    """`x float32 [8, 3, 32, 32] and y int64 [8]`."""
    parts = [f"{name} {spec.dtype} {list(spec.shape)}" for name, spec in slots]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) if parts else "nothing"


_AGAIN = "Copy the folder again, or compile it again."
