"""What a page hands out as files, beside plans: an artefact as one file, the study's runs as a table."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

from pockgraph.study import Study
from pockgraph.study.tables import RUNS, row_of_run, write_csv


def artifact_zip(folder: str | os.PathLike[str]) -> io.BytesIO:
    """An artefact's folder as a zip: the manifest and what it lists, after a check of each file.

    Raises:
        ArtifactError: there is no artefact, or it is damaged.
    """
    from pockgraph.runtime.manifest import MANIFEST, read_manifest, verify_files

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
