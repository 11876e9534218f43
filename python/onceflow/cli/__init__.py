"""The command line ``onceflow``: a module for each command group, light to import, because all are when it starts."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The entry point."""
    from onceflow.cli.app import app  # noqa: PLC0415 - typer is needed by the program alone

    app()
