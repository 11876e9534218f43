"""``onceflow explain``: what a dataflow can promise, before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from onceflow.cli.errors import ExitCode
from onceflow.cli.target import GUARANTEE_HELP, TARGET_HELP, load_target
from onceflow.types import Guarantee

if TYPE_CHECKING:
    from onceflow.checks import Checked

__all__ = ["explain"]


def explain(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET_HELP)],
    guarantee: Annotated[Guarantee, typer.Option(metavar="GUARANTEE", help=GUARANTEE_HELP)] = Guarantee.EXACTLY_ONCE,
    check: Annotated[
        bool, typer.Option("--check", help="Also look at the real systems that it reads and writes; changes nothing.")
    ] = False,
) -> None:
    """Show, path by path, which guarantee holds and what it stands on. Exit code 1 if it is not kept, or if a look at
    the real systems finds an error."""
    from onceflow.exceptions import DeliveryGuaranteeError  # noqa: PLC0415 - only here
    from onceflow.graph.guarantees import plan  # noqa: PLC0415 - loads numpy

    flow = load_target(target)
    typer.echo(flow.explain(guarantee))
    kept = True
    try:
        plan(flow.graph, guarantee)
    except DeliveryGuaranteeError:
        kept = False
    checked = flow.check(guarantee) if check else []
    for one in checked:
        _print_findings(one)
    if not kept or any(one.failed for one in checked):
        raise typer.Exit(ExitCode.FAILED)


def _print_findings(checked: Checked) -> None:
    typer.echo(f"\n{checked.role} {checked.step_id}: {checked.connector}")
    for finding in checked.findings:
        level = "ERROR" if finding.level == "error" else finding.level
        typer.echo(f"  {level:<7}  {finding.subject}: {finding.text}")
        if finding.advice:
            typer.echo(f"           {finding.advice}")
    if not checked.findings:
        typer.echo("  unknown  it has no check, so nothing was looked at")
