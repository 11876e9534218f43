"""``python -m onceflow``: the command line."""

from __future__ import annotations

from onceflow.cli import main

if __name__ == "__main__":
    main()
