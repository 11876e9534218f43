"""``onceflow explain``: what a dataflow can promise, before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onceflow.cli.console import print_json
from onceflow.cli.errors import ExitCode
from onceflow.cli.target import GUARANTEE_HELP, INSTANCE_HELP, TARGET_HELP, instance_of, load_target
from onceflow.cli.units import checked_duration, duration_s
from onceflow.types import Guarantee

if TYPE_CHECKING:
    from onceflow.checks import Checked
    from onceflow.dataflow import Dataflow
    from onceflow.instances import Instance

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
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With --check: state directory of the job. Whether it is of this dataflow, and whether the sources "
            "still have what its newest checkpoint goes on from.",
        ),
    ] = None,
    timeout: Annotated[
        str,
        typer.Option(
            metavar="DURATION", callback=checked_duration, help="With --check: how long each source or sink may take."
        ),
    ] = "30s",
) -> None:
    """Show, path by path, which guarantee holds, what it stands on and what could be done.

    Exit code 1 if it is not kept, or if a look at the real systems finds an error.
    """
    if state is not None and not check:
        raise typer.BadParameter("--state is looked at with --check only")
    if check and format not in (_Format.TEXT, _Format.JSON):
        raise typer.BadParameter(f"what --check finds is told as text or json, not as {format}")
    flow = load_target(target)
    one_of = instance_of(instance)
    share = None if one_of is None else (one_of.index, one_of.count)
    explanation = flow.explanation(guarantee, instance=share)
    told = flow.explain(guarantee, format=format.value, instance=share)
    is_text = format is not _Format.JSON or not check
    if is_text:
        typer.echo(told)
    checked = list(_checked(flow, guarantee, one_of, state, duration_s(timeout), is_text=is_text)) if check else []
    if not is_text:
        print_json({**explanation.as_dict(), "checks": [asdict(one) for one in checked]})
    if not explanation.kept or any(one.failed for one in checked):
        raise typer.Exit(ExitCode.FAILED)


def _checked(
    flow: Dataflow,
    guarantee: Guarantee,
    instance: Instance | None,
    state: Path | None,
    timeout_s: float,
    *,
    is_text: bool,
) -> Iterator[Checked]:
    """What is found, printed as it comes: whoever waits sees for what."""
    from onceflow.checks import Checked  # noqa: PLC0415 - loads numpy
    from onceflow.clock import SystemClock  # noqa: PLC0415 - loads numpy
    from onceflow.graph.division import divided  # noqa: PLC0415 - loads numpy
    from onceflow.graph.inspection import looks  # noqa: PLC0415 - loads numpy

    graph = divided(flow.graph, instance)
    positions = None
    if state is not None:
        from onceflow.runtime.resumption import resumption  # noqa: PLC0415 - loads the extension

        finding, positions = resumption(state, graph, guarantee)
        one = Checked(graph.name, "job", "state", (finding,))
        if is_text:
            typer.echo(f"\njob {graph.name}")
            _print_findings(one)
        yield one
    for look in looks(graph, guarantee, SystemClock(), positions):
        if is_text:
            typer.echo(f"\n{look.role} {look.step_id}: {look.connector}")
        one = look.checked(timeout_s)
        if is_text:
            _print_findings(one)
        yield one


def _print_findings(checked: Checked) -> None:
    for finding in checked.findings:
        level = "ERROR" if finding.level == "error" else finding.level
        typer.echo(f"  {level:<7}  {finding.subject}: {finding.text}")
        if finding.advice:
            typer.echo(f"           {finding.advice}")
    if not checked.findings:
        typer.echo("  unknown  it has no check, so nothing was looked at")
