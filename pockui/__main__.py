"""`pockui` and `python -m pockui`: the command line, where it is installed."""

from __future__ import annotations

import sys

from pockgraph.interruption import ending_on_interrupt

from .foreign_exceptions import explain


def main() -> None:
    """The console script."""
    try:
        with ending_on_interrupt("Stopped."):
            from .cli import main as run
    except ModuleNotFoundError as e:
        text, status = explain(e)
        print(f"error: {text} Training an artefact needs only: python -m pockgraph.runtime", file=sys.stderr)
        sys.exit(status)
    run()


if __name__ == "__main__":
    main()
