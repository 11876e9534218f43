"""``onceflow run``: runs a dataflow until its sources end, or until it is interrupted."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceflow.cli.console import note
from onceflow.cli.directory import job_record, reader
from onceflow.cli.errors import ExitCode
from onceflow.cli.restart import RESTART_HELP, restart_policy
from onceflow.cli.target import GUARANTEE_HELP, INSTANCE_HELP, TARGET_HELP, instance_of, load_target
from onceflow.cli.units import checked_duration, count_text, duration_s
from onceflow.exceptions import (
    ConfigurationError,
    DamagedCheckpointWarning,
    DataflowChangedError,
    FinishedJobWarning,
    OnceflowError,
    RestartWarning,
    StoreLockedError,
    StoreMissingError,
)
from onceflow.runtime.resume_from import checkpoint_of
from onceflow.types import Guarantee

if TYPE_CHECKING:
    from onceflow.dataflow import Dataflow
    from onceflow.events import JobEvent
    from onceflow.metrics import JobMetrics

__all__ = ["run"]


#: Settings of ``run`` as messages name them, and what the command line calls them.
_OPTIONS = {
    "resume_from='none'": "--resume-from none",
    "resume_from": "--resume-from",
    "savepoint": "--savepoint",
    "take_over": "--take-over",
    "batch_size": "--batch-size",
    "guarantee=": "--guarantee",
    "codec=": "--codec",
    "until=": "--until",
    "max_drift_s=": "--max-drift",
    "instance=": "--instance",
    "checkpoint_timeout_s": "--checkpoint-timeout",
    "workers=": "--workers",
}


class _Until(StrEnum):
    END = "end"
    CAUGHT_UP = "caught_up"


class _Codec(StrEnum):
    MSGPACK = "msgpack"
    PICKLE = "pickle"


def run(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET_HELP)],
    state: Annotated[
        Path, typer.Option(metavar="DIR", help="State directory, made if missing. What is in it is resumed from.")
    ],
    checkpoint_interval: Annotated[
        str, typer.Option(metavar="DURATION", callback=checked_duration, help="Between checkpoints: 100ms, 10s, 2m.")
    ] = "1s",
    checkpoint_timeout: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            callback=checked_duration,
            help="A checkpoint that is not ready to be decided after so long fails, and the run with it.",
        ),
    ] = "10m",
    checkpoint_min_pause: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            callback=lambda text: text and checked_duration(text),
            help="At least so long from the end of a checkpoint to the start of the next one.",
        ),
    ] = None,
    guarantee: Annotated[Guarantee, typer.Option(metavar="GUARANTEE", help=GUARANTEE_HELP)] = Guarantee.EXACTLY_ONCE,
    batch_size: Annotated[int, typer.Option(min=1, help="Records that a source is asked for at once.")] = 8192,
    codec: Annotated[
        _Codec, typer.Option(help="How user state becomes bytes. Reading pickles runs code.")
    ] = _Codec.MSGPACK,
    retain: Annotated[int, typer.Option(min=1, help="Complete checkpoints kept besides savepoints.")] = 2,
    until: Annotated[
        _Until,
        typer.Option(
            help="end: the job is over when its sources are. caught_up: process what is there now; run it again when "
            "files have grown or come."
        ),
    ] = _Until.END,
    max_drift: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            callback=lambda text: text and checked_duration(text),
            help="How far in event time one partition may read on ahead of another that has nothing yet: 10m, 2h.",
        ),
    ] = None,
    instance: Annotated[str | None, typer.Option(metavar="INDEX/COUNT", help=INSTANCE_HELP)] = None,
    restart: Annotated[
        str,
        typer.Option(metavar="POLICY", callback=lambda text: (restart_policy(text), text)[1], help=RESTART_HELP),
    ] = "never",
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Serve metrics for Prometheus there by HTTP: pip install 'onceflow\\[metrics]'. 0: any that is free.",
        ),
    ] = None,
    metrics_address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where; whoever can reach it can read them.")
    ] = "127.0.0.1",
    workers: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Processes that run the dataflow, each on a share of its partitions and keys."
        ),
    ] = 1,
    savepoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Keep the last checkpoint of this run for ever, under this name.")
    ] = None,
    resume_from: Annotated[
        str,
        typer.Option(
            metavar="newest|none|N|NAME",
            help="Resume from this checkpoint, by its number or its savepoint's name; 'none' starts over, after "
            "asking. Outputs that came after it are written again.",
        ),
    ] = "newest",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Replace a running or paused process of this job, which is fenced.")
    ] = False,
    on_change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHANGE",
            help="Where the dataflow is not the one that made the state: STEP=ACTION or STEP/RESULT=ACTION, once for "
            "each change. 'drop' what is gone, begin 'empty' with what is new, 'widen' whole numbers to floats. A run "
            "that is refused says which.",
        ),
    ] = None,
    from_checkpoint: Annotated[str | None, typer.Option(hidden=True)] = None,
    fresh: Annotated[bool, typer.Option("--fresh", hidden=True)] = False,
) -> None:
    """Run a dataflow until its sources end; run it again to resume.

    Ctrl-C or SIGTERM ends it with a last checkpoint, and the next run goes on from there. So it does from the newest
    checkpoint after a crash. A second Ctrl-C stops at once.

    Progress goes to standard error: standard output is for sinks.
    """
    flow = load_target(target)
    from onceflow.graph.division import instance_in  # noqa: PLC0415 - loads numpy

    one_of = instance_in(flow.graph, instance_of(instance))
    job = flow.name if one_of is None else one_of.job(flow.name)
    resume_from = _renamed(resume_from, from_checkpoint, fresh=fresh)
    if resume_from == "none":
        _confirm_start_over(job, state, yes=yes)
    elif resume_from != "newest":
        _tell_repeated_output(flow, job, state, _checkpoint(resume_from))

    from onceflow.cli.progress import JobProgress  # noqa: PLC0415 - loads the extension
    from onceflow.runtime.run import run as run_job  # noqa: PLC0415 - loads numpy and the extension

    progress = JobProgress(job)
    try:
        with _options_told(), _metrics(job, metrics_port, metrics_address) as told, progress, warnings.catch_warnings():
            # The progress tells what they say.
            warnings.simplefilter("ignore", DamagedCheckpointWarning)
            warnings.simplefilter("ignore", FinishedJobWarning)
            warnings.simplefilter("ignore", RestartWarning)
            result = run_job(
                flow,
                state,
                checkpoint_interval_s=duration_s(checkpoint_interval),
                guarantee=guarantee,
                batch_size=batch_size,
                codec=codec.value,
                retain=retain,
                savepoint=savepoint,
                resume_from=_checkpoint(resume_from),
                take_over=take_over,
                on_change=_on_change(on_change),
                on_event=progress.on_event if told is None else _both(told.on_event, progress.on_event),
                until=until.value,
                max_drift_s=None if max_drift is None else duration_s(max_drift),
                instance=None if one_of is None else (one_of.index, one_of.count),
                restart=restart_policy(restart),
                checkpoint_timeout_s=duration_s(checkpoint_timeout),
                checkpoint_min_pause_s=None if checkpoint_min_pause is None else duration_s(checkpoint_min_pause),
                workers=workers,
            )
    except KeyboardInterrupt:
        newest = progress.last_checkpoint
        note(
            f"{job}: interrupted at once; the next run "
            + ("begins anew" if newest is None else f"resumes from checkpoint {newest} or a later one")
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    progress.finish(result)


@contextmanager
def _metrics(job: str, port: int | None, address: str) -> Iterator[JobMetrics | None]:
    """Metrics of the job, served while it runs; None where nobody has asked for them."""
    if port is None:
        yield None
        return
    from onceflow.metrics import JobMetrics  # noqa: PLC0415 - needs the extra

    with JobMetrics(job, port=port, address=address) as metrics:
        note(f"{job}: metrics at http://{f'[{address}]' if ':' in address else address}:{metrics.port}/metrics")
        yield metrics


def _both(first: Callable[[JobEvent], None], second: Callable[[JobEvent], None]) -> Callable[[JobEvent], None]:
    def tell(event: JobEvent) -> None:
        first(event)
        second(event)

    return tell


def _renamed(resume_from: str, from_checkpoint: str | None, *, fresh: bool) -> str:
    """What ``--resume-from`` says, also to those who call it by its old names."""
    if from_checkpoint is None and not fresh:
        return resume_from
    if fresh and from_checkpoint is not None:
        raise ConfigurationError("--fresh starts from nothing; give it or --from-checkpoint, not both")
    chosen = "none" if from_checkpoint is None else from_checkpoint
    note(f"{'--fresh' if fresh else '--from-checkpoint'} is called --resume-from {chosen} now")
    return chosen


def _checkpoint(text: str) -> int | str:
    """A number, or the name of a savepoint, which is never a number."""
    return int(text) if text.isdecimal() else text


def _on_change(given: list[str] | None) -> Any:
    """What ``run`` takes, which checks it."""
    if not given:
        return "refuse"
    pairs = [text.rpartition("=") for text in given]
    for text, (name, _, _) in zip(given, pairs, strict=True):
        if not name:
            raise ConfigurationError(f"--on-change {text}: give STEP=ACTION or STEP/RESULT=ACTION, such as totals=drop")
    return {name: action for name, _, action in pairs}


@contextmanager
def _options_told() -> Iterator[None]:
    """Messages name settings of ``run``: here is what they are called on the command line."""
    try:
        yield
    except OnceflowError as failure:
        said, told = str(failure), []
        for setting, option in _OPTIONS.items():
            if setting in said:
                if option not in said:
                    told.append(option)
                said = said.replace(setting, "")
        if isinstance(failure, StoreLockedError):
            failure.add_note("--take-over replaces the run that owns it, which stops within about a second")
        elif isinstance(failure, DataflowChangedError) and failure.on_change:
            options = (f"--on-change {shlex.quote(f'{name}={action}')}" for name, action in failure.on_change.items())
            failure.add_note(f"on the command line: {' '.join(options)}")
        elif told:
            failure.add_note(f"on the command line: {', '.join(told)}")
        raise


def _confirm_start_over(job: str, state: Path, *, yes: bool) -> None:
    """Asks before a job with checkpoints starts over.

    Raises:
        ConfigurationError: There is nobody to ask.
        typer.Exit: The answer was no.
    """
    try:
        with reader(state) as backend:
            # What belongs to another job is refused by the run, not asked about.
            known = [] if backend.job != job else backend.checkpoints()
    except StoreMissingError:
        return
    if not known:
        return
    newest = known[-1]
    record = job_record(newest)
    after = "" if record is None else f" after {count_text(record.counts['records_in'])} records"
    note(
        f"{state} holds the job {job!r} up to checkpoint {newest.id}{after}. --resume-from none starts over in "
        "a new lineage: all input is read again and all outputs are written again, besides those that are there. The "
        "old checkpoints go as new ones come."
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "--resume-from none asks before it starts over, and there is no terminal to ask; add --yes"
        )
    if not typer.confirm("Start over?", err=True):
        note("nothing was changed")
        raise typer.Exit(ExitCode.USAGE)


def _tell_repeated_output(flow: Dataflow, job: str, state: Path, wanted: int | str) -> None:
    """Says what resuming from this checkpoint writes again."""
    with reader(state) as backend:
        if backend.job != job:
            return  # The run refuses it.
        chosen = checkpoint_of(backend, wanted)
        newest = backend.checkpoints()[-1]
    number = chosen.id
    if newest.id == number:
        note(f"checkpoint {number} is the newest one of this state: no output that it knows of is written again")
        return
    sinks = ", ".join(step.step_id for step in flow.graph.sinks())
    then, now = (None if info.damage else job_record(info) for info in (chosen, newest))
    span = ""
    if then is not None and now is not None:
        records = (then.counts["records_in"], now.counts["records_in"])
        outputs = now.counts["records_out"] - then.counts["records_out"]
        span = (
            f" That is the output of records {count_text(records[0])} to {count_text(records[1])}, "
            f"{count_text(outputs)} records out."
        )
    note(
        f"resuming from checkpoint {number} instead of {newest.id} starts a new lineage: what the sinks ({sinks}) "
        f"wrote after it is written again; file sinks want their later part files moved away first.{span}"
    )
