"""What a page hands out as files, beside plans: an artefact as one file, weights, runs as a table."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

from pockgraph.errors import PockError, reason
from pockgraph.files import ScratchFolder
from pockgraph.study import Study
from pockgraph.study.tables import RUNS, row_of_run, write_csv

from .jobs import Jobs
from .merge_job import MergeSpec

MERGE_JOB = "pockui.merge_job"


def artifact_zip(folder: str | os.PathLike[str]) -> io.BytesIO:
    """An artefact's folder as a zip: the manifest and what it lists, after a check of each file.

    Raises:
        ArtifactError: there is no artefact, or it is damaged.
    """
    from pockgraph.runtime.artifact_files import MANIFEST, read_manifest, verify_files

    place = Path(folder)
    manifest = read_manifest(place)
    verify_files(place, manifest)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name in (MANIFEST, *manifest.files):
            file.write(place / name, f"{place.name}/{name}")
    made.seek(0)
    return made


def runs_csv(path: str | os.PathLike[str]) -> io.BytesIO:
    """A study's runs as `pockui study export` writes them.

    Raises:
        StudyError: the study cannot be read.
    """
    with Study(path, read_only=True) as study:
        return io.BytesIO(write_csv(RUNS, [row_of_run(run, study.facts) for run in study.runs()]))


def checkpoint_file(path: str | os.PathLike[str]) -> io.BytesIO:
    """The weights that a run has kept.

    Raises:
        PockError: they are gone.
    """
    try:
        return io.BytesIO(Path(path).read_bytes())
    except OSError as e:
        raise PockError(f"Cannot read the checkpoint {path}: {reason(e)}. Train the plan again.") from None


def merged_weights(jobs: Jobs, reference: str, artifact: str, checkpoint: str) -> io.BytesIO:
    """The whole model with a run's weights, in safetensors. Waits for a process that makes the task.

    Args:
        reference: the task's, as its user named it.
        artifact: the folder that was trained. checkpoint: what training left.

    Raises:
        PockError: why there is none.
    """
    with ScratchFolder("merging") as folder:
        out = folder / "model.safetensors"
        spec = MergeSpec(reference, artifact, checkpoint, str(out))
        job = jobs.start("Merged weights", MERGE_JOB, spec.to_dict())
        job.wait()
        if not out.is_file():
            raise PockError(job.error or "The merge was ended. Ask for the weights again.")
        return io.BytesIO(out.read_bytes())
