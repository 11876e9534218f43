"""``onceflow doctor``: what a dead job left behind, and its removal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onceflow.cli.console import note, print_json
from onceflow.cli.errors import ExitCode
from onceflow.cli.target import INSTANCE_HELP, TARGET_HELP, instance_of, load_target
from onceflow.exceptions import ConfigurationError

if TYPE_CHECKING:
    from onceflow.runtime.doctor import Diagnosis, StepDiagnosis

__all__ = ["doctor"]

_WORDS = {"removable": "remove", "decided": "decided", "kept": "keep"}


def doctor(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET_HELP)],
    state: Annotated[Path, typer.Option(metavar="DIR", help="State directory of the job.")],
    instance: Annotated[str | None, typer.Option(metavar="INDEX/COUNT", help=INSTANCE_HELP)] = None,
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Remove what nobody needs, after asking. The next run stays exact.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what a job that died holds or has left behind in the systems that it reads and writes.

    The next run resolves all of it by itself; this is for when none will come soon. A job that runs is not touched, nor
    is output that was decided: the next run makes that visible. Exit code 1 if something can be removed and was not, or
    could not be looked at.
    """
    from onceflow.runtime.doctor import diagnosed, resolved  # noqa: PLC0415 - loads numpy and the extension

    flow = load_target(target)
    one_of = instance_of(instance)
    found = diagnosed(flow, state, one_of)
    if resolve and not found.running and found.removable:
        if not as_json:
            _print(found)
        _confirm(found.removable, yes=yes)
        found = resolved(flow, state, one_of)
        _say(found, as_json=as_json, done=True)
        if found.failed:
            raise typer.Exit(ExitCode.FAILED)
        return
    _say(found, as_json=as_json, done=False)
    if found.failed or found.removable:
        raise typer.Exit(ExitCode.FAILED)


def _say(found: Diagnosis, *, as_json: bool, done: bool) -> None:
    if as_json:
        print_json(
            {
                "version": 1,
                "job": found.job,
                "running": found.running,
                "owner": found.owner,
                "damage": list(found.damage),
                "resolved": done,
                "sources": list(map(_as_json, found.sources)),
                "sinks": list(map(_as_json, found.sinks)),
            }
        )
    elif done:
        for which, step in _steps(found):
            if step.error is not None:
                typer.echo(f"  ERROR    {which} {step.step_id}: {step.error}")
        note(f"{found.removable} removed" if not found.failed else "not everything was removed")
    else:
        _print(found)


def _print(found: Diagnosis) -> None:
    if found.running:
        whose = "" if found.owner is None else f" in process {found.owner}"
        typer.echo(f"job {found.job!r} is running{whose}: what it holds is its own, and nothing was looked at")
        return
    was = "" if found.owner is None else f"; its last run was process {found.owner}"
    typer.echo(f"job {found.job!r} is not running{was}")
    for text in found.damage:
        typer.echo(f"  damage   {text}; so it is not known what was decided, and nothing is removed")
    for which, step in _steps(found):
        typer.echo(f"\n{which} {step.step_id}: {step.connector}")
        for each in step.leftovers:
            typer.echo(f"  {_WORDS[each.fate]:<7}  {each.subject}: {each.text}")
        if step.error is not None:
            typer.echo(f"  ERROR    it could not be looked at: {step.error}")
        elif not step.leftovers:
            typer.echo("  nothing was left behind")


def _steps(found: Diagnosis) -> list[tuple[str, StepDiagnosis]]:
    return [*(("source", step) for step in found.sources), *(("sink", step) for step in found.sinks)]


def _as_json(step: StepDiagnosis) -> dict[str, object]:
    return {
        "step_id": step.step_id,
        "connector": step.connector,
        "error": step.error,
        "leftovers": [{"fate": each.fate, "subject": each.subject, "text": each.text} for each in step.leftovers],
    }


def _confirm(count: int, *, yes: bool) -> None:
    """Raises unless somebody agrees."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError("--resolve asks before it removes anything, and nobody is there to ask; add --yes")
    if not typer.confirm(f"Remove {count}?", err=True):
        note("nothing was changed")
        raise typer.Exit(ExitCode.USAGE)
