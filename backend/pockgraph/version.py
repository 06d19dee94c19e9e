"""The release that artefacts, studies and the command line name, and those of other packages."""

from __future__ import annotations

import importlib.metadata

__version__ = "0.1.0"


def installed_version(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
