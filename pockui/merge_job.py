"""The whole model with the weights of a run, as a file: a process of its own, `python -m pockui.merge_job`.

A `worker` that reads a `MergeSpec` and writes `{"kind": "result"}`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from pockgraph.errors import ArtifactError
from pockgraph.files import write_atomically

from .worker import Reporter, Spec, Stop, run


@dataclass(frozen=True)
class MergeSpec(Spec):
    """Whose weights go where.

    Attributes:
        reference: `module:task` that makes the Task; the user named it, see `project.named_reference`.
        artifact: the folder that was trained. checkpoint: the weights that training left.
        out: the safetensors file to write.
    """

    reference: str
    artifact: str
    checkpoint: str
    out: str


def merge(spec: MergeSpec, report: Reporter, _: Stop) -> None:
    """Write a file that `model.load_state_dict(safetensors.torch.load_file(…))` takes.

    Raises:
        ArtifactError: the task's model is another than the one that was compiled, or the checkpoint is not
            the artefact's.
        PockError: the task cannot be made.
    """
    from pathlib import Path

    from safetensors.torch import save

    import pockgraph as pg
    from pockgraph.artifact.identity import fingerprint
    from pockgraph.optimizer import optimizer_from_dict

    from .project import load_task

    task, artifact = load_task(spec.reference), pg.Artifact.load(spec.artifact)
    graph = pg.build(task, optimizer_from_dict(artifact.plan.optimizer)).prune(artifact.plan)
    if fingerprint(graph) != artifact.manifest.fingerprint:
        raise ArtifactError(
            f"The task {spec.reference!r} makes another model now than the one that was trained: weights "
            "that the plan leaves frozen have other values. Load the weights that it was compiled with, or "
            "draw them from a fixed seed."
        )
    artifact.merge_into(task.model, spec.checkpoint)
    # Clones: the file format has no tensors that share memory.
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in task.model.state_dict().items()}
    write_atomically(Path(spec.out), save(tensors, {"format": "pt", "task": task.name}))
    report("result")


if __name__ == "__main__":
    sys.exit(run(merge, MergeSpec))
