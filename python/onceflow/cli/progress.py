"""What a running job shows: a live panel in a terminal, a plain line now and then elsewhere.

All of it goes to standard error, because standard output may carry the records of a sink. The panel needs both to be
terminals: a live display would be torn by whatever another program of the pipe prints.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from onceflow.cli.console import note, status, warning
from onceflow.cli.units import bytes_text, count_text, duration_text
from onceflow.events import (
    CheckpointCompleted,
    CheckpointFailed,
    JobEvent,
    JobResult,
    Progress,
    Recovered,
    Restarting,
    Stopping,
)
from onceflow.process import HomeProcess

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["JobProgress"]

_LINE_EVERY_S = 2.0
#: What was done about a change of the dataflow.
_DONE = {"drop": "dropped", "empty": "begins empty", "widen": "widened"}
_FRAMES_PER_S = 8
#: A share that is less is rounded to nothing.
_SHOWN_SHARE = 0.005
#: The rate shown is that of the last so many seconds.
_RATE_OVER_S = 3.0
#: And behind a time in which nothing was told, of as much at least.
_RATE_AFTER_S = 1.0


class JobProgress:
    """Listens to a job and tells about it. Use as a context manager around the run, with ``on_event``.

    Args:
        name: The job.
        live: Whether to show a panel; None: if both outputs are terminals.
        clock: Seconds, monotonic.
        now: Seconds since 1970 UTC.
    """

    def __init__(
        self,
        name: str,
        *,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._live = sys.stdout.isatty() and sys.stderr.isatty() if live is None else live
        self._clock = clock
        self._now = now
        self._home = HomeProcess()
        self._panel = ExitStack()
        self._start = clock()
        self._next_line = self._start + _LINE_EVERY_S
        self._first_in = 0
        self._records_in = 0
        self._records_out = 0
        self._late = 0
        self._progress = Progress(0, 0)
        self._checkpoints = 0
        self._restarts = 0
        self._newest: CheckpointCompleted | None = None
        self._samples: deque[tuple[float, int]] = deque()
        self._stopping = False
        self._shown = (0, 0)
        self.last_checkpoint: int | None = None

    def __enter__(self) -> Self:
        if self._live:
            from rich.live import Live  # noqa: PLC0415 - not needed in a pipe

            self._panel.enter_context(
                Live(get_renderable=self._render, console=status(), refresh_per_second=_FRAMES_PER_S, transient=True)
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # The panel in the terminal is the parent's, should a function of the dataflow fork.
        if not self._home.is_left:
            self._panel.close()

    def on_event(self, event: JobEvent) -> None:
        """Takes in what the job tells."""
        if isinstance(event, Recovered):
            self._recovered(event)
        elif isinstance(event, Stopping):
            self._stopping = True
            note("stopping with a last checkpoint; Ctrl-C once more stops at once, which is safe too")
            if event.finishing:
                note(f"  the batch under way, of {count_text(event.finishing)} records, is finished first")
        elif isinstance(event, CheckpointFailed):
            warning(f"{self._name}: checkpoint {event.checkpoint_id} failed: {' '.join(event.reason.split())}")
        elif isinstance(event, Restarting):
            self._restarts = event.restarts
            warning(
                f"{self._name}: failed, and is begun again in {duration_text(event.wait_s)} "
                f"(restart {event.restarts}): {' '.join(event.reason.split())}"
            )
        else:
            self._count(event)

    def _recovered(self, event: Recovered) -> None:
        if not self._restarts:
            # The time of opening and restoring is told by itself and does not count for the rate.
            self._start = self._clock()
            self._first_in = event.records_in
        self._samples.clear()
        self._records_in = event.records_in
        self._records_out = event.records_out
        self._shown = (event.records_in, event.records_out)
        self.last_checkpoint = event.checkpoint_id
        for reason in event.damage:
            warning(f"damage found in the recovery: {reason}")
        if event.checkpoint_id is None:
            note(f"{self._name}: started from nothing")
        else:
            note(
                f"{self._name}: resumed from checkpoint {event.checkpoint_id} after {count_text(event.records_in)} "
                f"records ({count_text(event.rows)} rows of state in {duration_text(event.duration_s)})"
            )
        for change in event.changes:
            note(f"{_DONE[change.action]}: {change.what}")
        if event.replaying_to is not None:
            note(
                f"the state of checkpoint {event.replaying_to} is damaged: its input is replayed, and output that was "
                "written is not written again"
            )

    def _count(self, event: CheckpointCompleted | Progress) -> None:
        now = self._clock()
        self._records_in, self._records_out, self._late = event.records_in, event.records_out, sum(event.late.values())
        if isinstance(event, Progress):
            self._progress = event
        if isinstance(event, CheckpointCompleted):
            self._newest = event
            self._checkpoints += 1
            self.last_checkpoint = event.stats.id
        if self._samples and now - self._samples[-1][0] > _RATE_OVER_S:
            # The job was held up, as by a sink that nobody answered: that is no rate.
            self._samples.clear()
            self._next_line = now + _RATE_AFTER_S
        if not self._samples or now - self._samples[-1][0] >= 0.1:
            self._samples.append((now, event.records_in))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_OVER_S:
            self._samples.popleft()
        if not self._live and now >= self._next_line and self._shown != (self._records_in, self._records_out):
            # A line that says the same as the one before would fill a file, day after day.
            self._shown = (self._records_in, self._records_out)
            self._next_line = now + _LINE_EVERY_S
            note(self._line(now))

    def _rate(self) -> float:
        if not self._samples:
            return 0.0
        begin, before = self._samples[0]
        return (self._records_in - before) / max(self._clock() - begin, 0.1)

    def _line(self, now: float) -> str:
        line = (
            f"{duration_text(now - self._start)}: {count_text(self._records_in)} in, {count_text(self._records_out)} "
            f"out, {count_text(self._rate())} records/s, {_plural(self._checkpoints, 'checkpoint')}"
        )
        if self._late:
            line = f"{line}, {count_text(self._late)} late"
        if self._newest is not None:
            line = f"{line}, the last {_cost(self._newest)}"
        line = f"{line}, {self._load()}"
        lag = self._lag()
        return line if lag is None else f"{line}, {lag}"

    def _load(self) -> str:
        """How busy the worker is, and how much it waits for its sinks."""
        load = f"{self._progress.busy:.0%} busy"
        if self._progress.backpressured >= _SHOWN_SHARE:
            load = f"{load}, {self._progress.backpressured:.0%} backpressured"
        return load

    def _lag(self) -> str | None:
        """How far event time is behind the clock; None where there is none."""
        if self._progress.event_time_s is None:
            return None
        lag_s = max(self._now() - self._progress.event_time_s, 0.0)
        days = int(lag_s // 86400)
        return f"event time {f'{count_text(days)} days' if days > 1 else duration_text(lag_s)} behind"

    def _render(self) -> Table:
        from rich.spinner import Spinner  # noqa: PLC0415 - see above
        from rich.table import Table  # noqa: PLC0415 - see above
        from rich.text import Text  # noqa: PLC0415 - see above

        if not hasattr(self, "_spinner"):
            self._spinner: Any = Spinner("dots", style="cyan")
        grid = Table.grid(padding=(0, 2))
        state = "stopping" if self._stopping else duration_text(self._clock() - self._start)
        grid.add_row(self._spinner, Text(self._name, style="bold"), Text(state, style="dim"))
        grid.add_row(
            "",
            "records",
            Text.assemble(
                (count_text(self._records_in), "bold"),
                " in  ",
                (count_text(self._records_out), "bold"),
                " out  ",
                (f"{count_text(self._rate())}/s", "green"),
                (f"  {count_text(self._late)} late" if self._late else "", "yellow"),
            ),
        )
        lag = self._lag()
        grid.add_row("", "worker", Text.assemble((self._load(), "bold"), ("" if lag is None else f"  {lag}", "dim")))
        newest = "" if self._newest is None else f"  last {_cost(self._newest)}"
        grid.add_row("", "checkpoints", Text.assemble((count_text(self._checkpoints), "bold"), (newest, "dim")))
        return grid

    def finish(self, result: JobResult) -> None:
        """The last words about a run that ended well."""
        seconds = self._clock() - self._start
        if result.finished and result.checkpoints == 0 and not result.restarts:
            note(
                f"{self._name}: had finished already, with checkpoint {result.last_checkpoint}; nothing was done, "
                "whatever has changed since in its code, its input or its output (--resume-from none starts over, once "
                "the output is moved away; --until caught_up, from the beginning, is for input that grows)"
            )
            return
        label = "finished" if result.finished else "caught up" if result.caught_up else "stopped"
        read = result.records_in - self._first_in
        note(
            f"{self._name}: {label} after {duration_text(seconds)}, {_plural(read, 'record')} "
            f"({count_text(read / max(seconds, 1e-9))} records/s), {_plural(result.checkpoints, 'checkpoint')}"
        )
        note(f"  in all     {count_text(result.records_in)} in, {count_text(result.records_out)} out")
        if result.restarts:
            reason = " ".join(result.failures[-1].split())
            note(f"  restarts   {count_text(result.restarts)}, the last one after {reason}")
        if result.rejected or result.skipped:
            note(f"  malformed  {count_text(result.rejected)} to dead letters, {count_text(result.skipped)} skipped")
        if result.raised:
            note(f"  raised     {count_text(result.raised)} to dead letters of the steps whose functions raised")
        for step_id, refused in result.refused.items():
            note(f"  refused    {count_text(refused)} by the target of {step_id}")
        for step_id, late in result.late.items():
            if late:
                note(f"  late       {count_text(late)} too late for their windows in {step_id}")
        if self._newest is not None:
            note(f"  newest     checkpoint {result.last_checkpoint}, {_cost(self._newest)}")
        if result.caught_up:
            note("  run the same command again when there is more")
        elif not result.finished:
            note("  run the same command again to resume from there")


def _cost(checkpoint: CheckpointCompleted) -> str:
    stats = checkpoint.stats
    return f"{duration_text(stats.durable_s)}, {bytes_text(stats.bytes_written)}"


def _plural(number: int, noun: str) -> str:
    return f"{count_text(number)} {noun}{'' if number == 1 else 's'}"
