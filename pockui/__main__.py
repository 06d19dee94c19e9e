"""`pockui` and `python -m pockui`: the command line, where it is installed."""

from __future__ import annotations

import sys

from .foreign_exceptions import explain


def main() -> None:
    """The console script."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as e:
        text, status = explain(e)
        print(f"error: {text} Training an artefact needs only: python -m pockgraph.runtime", file=sys.stderr)
        sys.exit(status)
    run()


if __name__ == "__main__":
    main()
