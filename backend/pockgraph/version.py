"""The release that artefacts, studies and the command line name, and those of other packages."""

from __future__ import annotations

__version__ = "0.1.0"


def installed_version(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    import importlib.metadata  # most of what importing this package would take

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
