"""``onceflow explain``: what a dataflow can promise, before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from onceflow.cli.errors import ExitCode
from onceflow.cli.target import GUARANTEE_HELP, TARGET_HELP, load_target
from onceflow.types import Guarantee

__all__ = ["explain"]


def explain(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET_HELP)],
    guarantee: Annotated[Guarantee, typer.Option(metavar="GUARANTEE", help=GUARANTEE_HELP)] = Guarantee.EXACTLY_ONCE,
) -> None:
    """Show, path by path, which guarantee holds and what it stands on. Exit code 1 if it is not kept."""
    from onceflow.exceptions import DeliveryGuaranteeError  # noqa: PLC0415 - only here
    from onceflow.graph.guarantees import plan  # noqa: PLC0415 - loads numpy

    flow = load_target(target)
    typer.echo(flow.explain(guarantee))
    try:
        plan(flow.graph, guarantee)
    except DeliveryGuaranteeError:
        raise typer.Exit(ExitCode.FAILED) from None
