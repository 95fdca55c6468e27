"""``python -m potstill.cli``."""

from potstill.cli import main

if __name__ == "__main__":
    main()
