"""All commands joined: a new group is one module and one line here."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from onceflow.cli import checkpoints, log, state
from onceflow.cli.doctor import doctor
from onceflow.cli.errors import errors_as_messages, warnings_as_lines
from onceflow.cli.explain import explain
from onceflow.cli.run import run

__all__ = ["app"]


class _Commands(TyperGroup):
    """Errors and warnings of every command end in one place."""

    def invoke(self, ctx: Any) -> Any:
        with errors_as_messages(), warnings_as_lines():
            return super().invoke(ctx)


app = typer.Typer(
    name="onceflow",
    cls=_Commands,
    no_args_is_help=True,
    # Their tracebacks would show the values of variables.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(explain)
app.command()(doctor)
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(state.app, name="state")
app.add_typer(log.app, name="log")


def _version(wanted: bool) -> None:
    if wanted:
        from onceflow._native import __version__  # noqa: PLC0415 - loads the extension

        typer.echo(f"onceflow {__version__}")
        raise typer.Exit


_EXIT_CODES = """Exit codes:

0    finished, or stopped with a last checkpoint; the guarantee is kept; no damage

1    the job failed; the guarantee is not kept; there is damage

2    wrong usage; nothing was run

3    the state directory cannot be used

4    a newer run of the job has taken over

130  interrupted at once

141  the reader of the output went away
"""


@app.callback(epilog=_EXIT_CODES)
def _onceflow(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Exactly-once stream processing: run dataflows, look at their checkpoints and state, use logs."""
