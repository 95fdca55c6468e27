"""``python -m potstill``: the command line without its script."""

from __future__ import annotations

from potstill.cli import main

if __name__ == "__main__":
    main()
