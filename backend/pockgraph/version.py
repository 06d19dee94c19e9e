"""The release that artefacts, studies and the command line name."""

__version__ = "0.1.0"
