"""``onceflow explain``: what a dataflow can promise, before it runs."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from onceflow.cli.console import print_json
from onceflow.cli.errors import ExitCode
from onceflow.cli.target import GUARANTEE_HELP, INSTANCE_HELP, TARGET_HELP, instance_of, load_target
from onceflow.types import Guarantee

if TYPE_CHECKING:
    from onceflow.checks import Checked

__all__ = ["explain"]


class _Format(StrEnum):
    TEXT = "text"
    JSON = "json"
    MERMAID = "mermaid"
    SVG = "svg"


def explain(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET_HELP)],
    guarantee: Annotated[Guarantee, typer.Option(metavar="GUARANTEE", help=GUARANTEE_HELP)] = Guarantee.EXACTLY_ONCE,
    format: Annotated[
        _Format, typer.Option(help="mermaid is a flowchart as text; svg is drawn by Graphviz.")
    ] = _Format.TEXT,
    instance: Annotated[str | None, typer.Option(metavar="INDEX/COUNT", help=INSTANCE_HELP)] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Also look at the real systems that it reads and writes; changes nothing.")
    ] = False,
) -> None:
    """Show, path by path, which guarantee holds, what it stands on and what could be done.

    Exit code 1 if it is not kept, or if a look at the real systems finds an error.
    """
    if check and format not in (_Format.TEXT, _Format.JSON):
        raise typer.BadParameter(f"what --check finds is told as text or json, not as {format}")
    flow = load_target(target)
    one_of = instance_of(instance)
    share = None if one_of is None else (one_of.index, one_of.count)
    explanation = flow.explanation(guarantee, instance=share)
    told = flow.explain(guarantee, format=format.value, instance=share)
    checked = flow.check(guarantee, instance=share) if check else []
    if check and format is _Format.JSON:
        print_json({**explanation.as_dict(), "checks": [asdict(one) for one in checked]})
    else:
        typer.echo(told)
        for one in checked:
            _print_findings(one)
    if not explanation.kept or any(one.failed for one in checked):
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
