"""Artefacts on the machine that compiles: writing the folder, and merging trained weights into a module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..cost.flops import node_flops
from ..cost.graph_memory import timeline
from ..errors import ArtifactError, PockError, listing, reason, require
from ..files import replacing, resolved, sweep
from ..ir.graph import Graph
from ..notebook_html import figure_text, size_text, summary
from ..optimizer import optimizer_from_dict
from ..passes.batch_limits import limits_of
from ..passes.guard_indices import guards_of
from ..runtime import checkpoint
from ..runtime.artifact_files import (
    LAST_CHECKPOINT,
    MANIFEST,
    PLAN,
    STATE,
    read_manifest,
    read_plan,
    verify_files,
)
from ..runtime.last_used import last_checkpoint, last_trainer
from ..runtime.manifest import NATIVE_SUFFIXES, Manifest, PassSpec
from ..runtime.parity_record import ParityRecord
from ..runtime.result_marks import INEXACT, OUT_OF_BOUNDS
from ..runtime.trained_parts import whole_tensors
from ..runtime.trainer import Trainer
from ..task.batch import nonfinite_entries
from ..version import __version__, installed_version
from . import identity
from .checked_state import checked_state
from .sample_independence import samples_apart
from .specs import file_spec, graph_spec, prediction_spec

if TYPE_CHECKING:
    from torch import nn

    from ..passes import PassCount
    from ..plan import Plan
    from ..targets import Target
    from ..train_graph import TrainGraph
    from ..train_graph.predictions import Prediction

State = Trainer | Mapping[str, Any] | str | os.PathLike[str]


class Artifact:
    """A compiled training step: a folder that `Trainer.load` runs.

    Attributes:
        path: the folder.
        manifest: what it holds.
        plan: what it trains.

    Raises:
        ArtifactError: no such folder, or not an artefact.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = resolved(path)
        self.manifest = read_manifest(self.path)
        self.plan = read_plan(self.path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Artifact:
        """Open an artefact and check every file.

        Raises:
            ArtifactError: as the class, or a file is missing, cut short or changed.
        """
        folder = resolved(path)
        verify_files(folder, read_manifest(folder))
        return cls(folder)

    @property
    def nbytes(self) -> int:
        """The size of all files that the manifest lists."""
        return sum(f.bytes for f in self.manifest.files.values())

    def trainer(
        self,
        device: str = "CPU",
        threads: int | None = None,
        *,
        seed: int = 0,
        allow_native_code: bool = False,
    ) -> Trainer:
        """`Trainer.load` of this artefact."""
        return Trainer.load(self.path, device, threads, seed=seed, allow_native_code=allow_native_code)

    def merge_into(self, net: nn.Module, state: State | None = None) -> None:
        """Copy the trained tensors, and the buffers that training changed, into `net`; its others stay.

        Where the optimizer keeps an average of the weights (`ema_decay`), that is what is copied.

        Args:
            state: where they are: a Trainer of this artefact, FQN -> full-shape array, or the path of
                a checkpoint. None takes the Trainer that this process loaded last from this artefact,
                if it has trained; else the last checkpoint that was saved from it.

        Raises:
            ArtifactError: nothing was trained yet, or the checkpoint is not this artefact's.
            PlanError: `net` has other parameters than the model that was compiled, with the names.
        """
        require(ArtifactError, "net", net, torch.nn.Module, "Pass the PyTorch model that was compiled.")
        named = dict(net.named_parameters(remove_duplicate=False))
        unused = set(self.manifest.unused) - set(self.plan.model)
        self.plan.check_fits({n: tuple(p.shape) for n, p in named.items() if n not in unused})
        tensors = self._trained(state)
        named |= dict(net.named_buffers(remove_duplicate=False))
        unknown = [n for n in tensors if n not in named]
        if unknown:
            raise ArtifactError(
                f"The model has no parameter or buffer {listing(unknown)}. Pass trained tensors by FQN."
            )
        shapes = {n: tuple(np.shape(t)) for n, t in tensors.items()}
        wrong = [
            f"{n} {s} instead of {tuple(named[n].shape)}" for n, s in shapes.items() if s != named[n].shape
        ]
        if wrong:
            raise ArtifactError(f"Tensors to merge have other shapes: {listing(wrong)}.")
        with torch.no_grad():
            for fqn, tensor in tensors.items():
                named[fqn].copy_(torch.as_tensor(tensor))

    def _trained(self, state: State | None) -> Mapping[str, Any]:
        if state is None:
            living = last_trainer(self.path)
            if living is not None and living.changed and living.manifest == self.manifest:
                state = living
            else:
                state = last_checkpoint(self.path)
        if state is None:
            raise ArtifactError(
                f"Nothing was trained with {self.path} yet, so there is nothing to merge. Take steps with "
                "artifact.trainer(), or pass state= with a Trainer, a checkpoint or tensors."
            )
        if isinstance(state, Trainer):
            mine, other = self.manifest, state.manifest
            if (mine.fingerprint, mine.computation) != (other.fingerprint, other.computation):
                raise ArtifactError(f"That Trainer runs another artefact ({state.folder}), not {self.path}.")
            return state.state(averaged=self.manifest.averaged)
        if isinstance(state, Mapping):
            return state
        loaded = checkpoint.load_checkpoint(Path(state), self.manifest)
        return whole_tensors(self.path, self.manifest, loaded.state, self.manifest.averaged)

    def __repr__(self) -> str:
        m = self.manifest
        trained = f"{len(self.plan.tensors)} of {len(self.plan.model)} tensors trained"
        what = f"task {m.task!r}, target {m.target!r}, {trained}, {self.nbytes / 1e6:.1f} MB"
        return f"Artifact({str(self.path)!r}, {what})"

    def _repr_html_(self) -> str:
        plan = self.plan
        rows = [("target", self.manifest.target), ("size", size_text(self.nbytes))]
        if isinstance(self.manifest.parity, ParityRecord) and (cost := self.manifest.parity.frozen_weights):
            rows.append(("frozen weights", f"int8, which {cost}"))
        for kind, figures in (("modelled", plan.predicted), ("measured", plan.measured)):
            for key, value in figures.items():
                name, text = figure_text(key, value)
                rows.append((name if key.startswith(("metric", "gain", "score")) else f"{kind} {name}", text))
        shares = [plan.ratio(fqn) for fqn in plan.model]
        return summary(repr(self), ("", ""), rows, shares, "trained share, input to output")


def write_artifact(
    out: str | os.PathLike[str],
    target: Target,
    train: Graph,
    evaluation: Graph,
    predictions: Sequence[Prediction],
    graph: TrainGraph,
    options: Mapping[str, Any] | None = None,
    check_parity: Callable[[Path, Manifest], ParityRecord] | None = None,
    replace: bool = True,
    counts: Sequence[PassCount] = (),
) -> Artifact:
    """Write an artefact: all of it, or nothing.

    The folder is made beside `out`, flushed to disk and exchanged with what is there, see
    `require_replaceable`.

    Args:
        train, evaluation, predictions: what `graph`'s plan is lowered from, after the shared passes.
        graph: the pruned training graph: its plan, and the model's values when it was built.
        options: the target's options.
        check_parity: measures the parity of what was written, or refuses it; None skips that.
        replace: whether another artefact may be replaced.
        counts: what the shared passes did to the operators of `train`.

    Raises:
        ParityError: from `check_parity`.
        ArtifactError: `out` holds something that may not be replaced, or cannot be written.
        UnsupportedOperators, PockError: from the target.
    """
    folder, pipeline = resolved(out), target.pipeline(options or {})
    try:
        with replacing(folder) as partial, _named(partial, folder):
            partial.mkdir()
            passes = [*counts]
            target.write(pipeline.finish(train, "train", passes), partial, "train", options or {})
            target.write(pipeline.finish(evaluation, "eval"), partial, "eval", options or {})
            for p in predictions:
                target.write(pipeline.finish(p.graph, p.stem), partial, p.stem, options or {})
            _write_state(partial / STATE, train, graph)
            (partial / PLAN).write_text(graph.plan.to_json(), encoding="utf-8")
            files = {p.name: file_spec(p) for p in sorted(partial.iterdir())}
            manifest = Manifest(
                task=graph.plan.task,
                fingerprint=identity.fingerprint(graph),
                computation=identity.computation(graph),
                target=target.name,
                options=dict(options or {}),
                batch=graph.plan.batch,
                train=graph_spec(train),
                eval=graph_spec(evaluation),
                predict=tuple(prediction_spec(p, target.integers_below) for p in predictions),
                optimizer=graph.plan.optimizer,
                batch_norm=graph.plan.batch_norm,
                dropout=graph.plan.dropout,
                predicted={**_figures(train), **graph.plan.predicted},
                unused=tuple(sorted({*graph.unused, *graph.frozen, *(graph.aliases or {})})),
                versions=_versions(),
                passes=tuple(PassSpec(**count._asdict()) for count in passes),
                files=files,
                telling_state=checked_state(train),
                nonfinite_entries=nonfinite_entries(graph.task.example),
                train_limits=limits_of(train, target.integers_below),
                eval_limits=limits_of(evaluation, target.integers_below),
                train_guards=guards_of(train, OUT_OF_BOUNDS),
                eval_guards=guards_of(evaluation, OUT_OF_BOUNDS),
                train_integers=guards_of(train, INEXACT),
                eval_integers=guards_of(evaluation, INEXACT),
                numbered_guards=True,
                samples_apart=samples_apart(evaluation, graph.task.example),
                native_code=tuple(name for name in files if name.endswith(NATIVE_SUFFIXES)),
            )
            parity = "skipped" if check_parity is None else check_parity(partial, manifest)
            manifest = manifest.model_copy(update={"parity": parity})
            (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            # Again: all of this took its time, and others may have written there.
            require_replaceable(folder, graph.plan, target.name, replace)
        return Artifact(folder)
    except (OSError, SafetensorError) as e:
        raise ArtifactError(
            f"Cannot write the artefact {folder}: {reason(e)}. Choose another place, or make room."
        ) from e


@contextmanager
def _named(partial: Path, folder: Path) -> Iterator[None]:
    """Errors name the folder that was asked for, not the hidden one that becomes it."""
    try:
        yield
    except PockError as e:
        e.args = (str(e).replace(str(partial), str(folder)), *e.args[1:])
        raise


def require_replaceable(out: str | os.PathLike[str], plan: Plan, target: str, replace: bool = True) -> None:
    """Refuse a place whose content an artefact must not replace.

    Nothing, an empty folder and an artefact of the same task, plan, optimizer and target may be replaced.
    So may another artefact if `replace`, but nothing else, nor an artefact with files of somebody else in it.

    Raises:
        ArtifactError: saying what lies there, and how another artefact differs.
    """
    folder = resolved(out)
    sweep(folder.parent)  # it gives back what a killed compilation had moved aside
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    what = "is not a folder" if not folder.is_dir() else ""
    if not what:
        try:
            manifest = read_manifest(folder)
        except ArtifactError:
            what = "is not empty and holds no artefact"
        else:
            own = {*manifest.files, MANIFEST, LAST_CHECKPOINT}
            names = (p.name for p in folder.iterdir())
            foreign = sorted(n for n in names if n not in own and not n.startswith(f".{LAST_CHECKPOINT}."))
            what = f"holds {listing(foreign)} beside an artefact" if foreign else ""
            if not foreign and not replace:
                _require_same(folder, manifest, plan, target)
    if what:
        raise ArtifactError(
            f"{folder} {what}; nothing was written. Choose another folder, or empty this one."
        )


def _require_same(folder: Path, manifest: Manifest, plan: Plan, target: str) -> None:
    """Refuse to replace an artefact of another task, plan, optimizer or target."""
    try:
        there = read_plan(folder)
    except ArtifactError:
        said = f"a damaged artefact (task {manifest.task!r} for {manifest.target})"
    else:
        differs = _differences(there, plan)
        if manifest.target != target:
            differs.insert(0, f"its target is {manifest.target}, not {target}")
        if not differs:
            return
        said = f"another artefact: {listing(differs, 3)}"
    raise ArtifactError(
        f"{folder} holds {said}. Nothing was written. Choose another folder; replace=True (--replace) puts "
        "the new artefact in its place."
    )


def _differences(there: Plan, here: Plan) -> list[str]:
    """What tells the plan of an artefact from another one, apart from the batch and the figures."""
    found = []
    if there.task != here.task:
        found.append(f"its task is {there.task!r}, not {here.task!r}")
    if there.model != here.model:
        found.append("its model has other tensors")
    names = [n for n in {**there.tensors, **here.tensors} if there.tensors.get(n) != here.tensors.get(n)]
    if names:
        found.append(f"it trains {listing([_as_trained(n, there, here) for n in names], 2)}")
    old, new = _rule(there), _rule(here)
    if old.get("name") != new.get("name"):
        found.append(f"its optimizer is {old.get('name')}, not {new.get('name')}")
    else:
        keys = [k for k in {**old, **new} if old.get(k) != new.get(k)]
        found += [f"its optimizer's {k} is {old.get(k)}, not {new.get(k)}" for k in keys]
    for key in ("batch_norm", "dropout"):
        if getattr(there, key) != getattr(here, key):
            found.append(f"its {key} is {getattr(there, key)!r}, not {getattr(here, key)!r}")
    return found


def _as_trained(fqn: str, there: Plan, here: Plan) -> str:
    old, new = there.ratio(fqn), here.ratio(fqn)
    return f"{fqn} (other channels)" if old == new else f"{fqn} (ratio {old:.4g}, not {new:.4g})"


def _rule(plan: Plan) -> dict[str, Any]:
    """A plan's optimizer with what its writer left to defaults."""
    try:
        return optimizer_from_dict(plan.optimizer).to_dict()
    except PockError:
        return plan.optimizer


def _write_state(path: Path, train: Graph, graph: TrainGraph) -> None:
    state = {s.name: train.values[s.name] for s in train.state_slots}
    parts = [s for s in train.state_slots if s.trained and s.indices is not None]
    state.update({f"param:{s.fqn}": graph.initial(s.fqn) for s in parts})
    # Clones: the file format has no tensors that share memory.
    save_file({n: t.detach().cpu().contiguous().clone() for n, t in state.items()}, path)


def _figures(train: Graph) -> dict[str, float]:
    modelled = timeline(train)
    return {
        "peak_bytes": modelled.peak_bytes,
        "extra_bytes": modelled.extra_bytes,
        "step_flops": sum(node_flops(n) for n in train.nodes()),
    }


def _versions() -> dict[str, str]:
    """Of this project and of the runtimes installed here."""
    packages = ("torch", "openvino", "onnx", "onnxruntime", "executorch")
    found = {name: version for name in packages if (version := installed_version(name))}
    return {"pockui": __version__, **found}
