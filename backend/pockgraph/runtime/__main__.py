"""`python -m pockgraph.runtime`: see `command.py`."""

from __future__ import annotations

import sys

from ..interruption import ending_on_interrupt


def main() -> int:
    """Run the command; Ctrl-C while its libraries are loaded ends it without a word, as later on."""
    with ending_on_interrupt():
        from .command import main as run
    return run()


if __name__ == "__main__":
    sys.exit(main())
