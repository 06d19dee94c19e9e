"""Opens whatever holds samples: an npz file, or a folder that says in its `data.json` what it is."""

from __future__ import annotations

from pathlib import Path

from ...errors import BatchError, suggest
from ...files import sweep
from ..manifest import Manifest
from . import images, shards
from .folder import INDEX, read_index
from .npz import NpzFile
from .source import Data, Wanted

_FOLDERS = {shards.SCHEMA: shards.ShardFolder, images.SCHEMA: images.ImageFolder}


def training_data(path: Path, manifest: Manifest) -> Data:
    """Samples to train on or to evaluate.

    Raises:
        BatchError: there are none, or they do not fit the artefact's batches.
    """
    return open_data(path, Wanted.for_training(manifest))


def open_data(path: Path, wanted: Wanted) -> Data:
    """The samples of a file or a folder.

    Raises:
        BatchError: there are none, or they do not fit.
    """
    if not path.exists():
        sweep(path.parent)  # a killed writer may have left a folder under another name
    if not path.is_dir():
        return NpzFile(path, wanted)
    index = read_index(path)
    schema = index.get("schema")
    if not isinstance(schema, str) or schema not in _FOLDERS:
        known = " or ".join(map(repr, _FOLDERS))
        raise BatchError(
            f"{path / INDEX} has schema {schema!r}, and this version of pockgraph reads {known}."
            f"{suggest(str(schema), _FOLDERS)}"
        )
    return _FOLDERS[schema](path, index, wanted)
