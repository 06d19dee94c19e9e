"""`python -m pockgraph.runtime`: see `command.py`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; Ctrl-C while its libraries are loaded ends it without a word, as later on."""
    try:
        from .command import main as run
    except KeyboardInterrupt:
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
