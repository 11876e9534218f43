"""Flights of a year, exactly once, through kill -9.

``python examples/flights.py`` runs a job over 336,776 flights twice: once undisturbed, once killed with SIGKILL at
random moments and resumed. It then checks that both wrote the same bytes, and that a polars ``group_by`` over the same
file gives the same numbers, and exits with 1 if anything is false.

``python examples/flights.py job STATE OUT`` is the job alone; ``onceflow run examples/flights.py:flow --state STATE``
runs it with output under ``out/``.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from nycflights import flights_csv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import onceflow as of
from onceflow import Dataflow, run
from onceflow.connectors.files import CsvSink, CsvSource, read_parts
from onceflow.events import CheckpointCompleted, Recovered
from onceflow.windows import Tumbling

FLIGHTS = 336_776
KILLS = 5
COLUMNS = ["carrier", "dest", "dep_delay", "distance", "time_hour"]
INTERVAL_S = 0.05
BATCH = 4096


def build(out: Path) -> Dataflow:
    """Windows per carrier and day, and totals per destination."""
    flow = Dataflow("flights")
    flights = flow.source(
        "flights",
        CsvSource(flights_csv(), event_time="time_hour", columns=COLUMNS, types={"dep_delay": "int"}),
    )
    flown = flights.filter(lambda flight: flight["dep_delay"] is not None)
    (
        flown.key_by("carrier")
        .window("daily", Tumbling(days=1))
        .aggregate(flights=of.count(), mean_delay=of.mean("dep_delay"), worst_delay=of.max("dep_delay"))
        .sink("delays", CsvSink(out / "delays"))
    )
    (
        flights.key_by("dest")
        .aggregate("destinations", flights=of.count(), miles=of.sum("distance"))
        .sink("totals", CsvSink(out / "totals"))
    )
    return flow


flow = build(Path("out"))


def say(event: object) -> None:
    """Says on standard output how far a job is, a JSON object a line."""
    if isinstance(event, Recovered):
        line: dict[str, Any] = {"recovered": event.duration_s, "rows": event.rows, "from": event.checkpoint_id}
    elif isinstance(event, CheckpointCompleted):
        stats = event.stats
        line = {
            "records": event.records_in,
            "durable": stats.durable_s,
            "bytes": stats.bytes_written,
            "pause": stats.longest_pause_s,
        }
    else:
        return
    print(json.dumps(line), flush=True)


def live_once(dataflow: Dataflow, state: str) -> None:
    """One life of a job, told line by line."""
    start = time.perf_counter()
    result = run(dataflow, state, checkpoint_interval_s=INTERVAL_S, batch_size=BATCH, on_event=say)
    elapsed = time.perf_counter() - start
    print(json.dumps({"finished": result.finished, "records": result.records_in, "seconds": elapsed}), flush=True)


@dataclass
class Story:
    """What the job told while it ran, over all its lives."""

    records: int = 0
    seconds: float = 0.0
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)

    def hear(self, line: dict[str, Any]) -> None:
        """Takes in one line."""
        self.records = line.get("records", self.records)
        self.seconds = line.get("seconds", self.seconds)
        if "recovered" in line:
            self.recoveries.append(line)
        elif "durable" in line:
            self.checkpoints.append(line)


class Screen:
    """A bar in a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.console = Console()
        self._progress: Progress | None = None
        self._task: Any = None

    def begin(self, title: str) -> None:
        """A new run."""
        if not self.console.is_terminal:
            self.console.print(title, highlight=False)
            return
        self.end()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=self.console)
        self._progress.start()
        self._task = self._progress.add_task(title, total=FLIGHTS)

    def at(self, records: int) -> None:
        """So many records are committed."""
        if self._progress is not None:
            self._progress.update(self._task, completed=records)

    def end(self) -> None:
        """The run is over."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def live(screen: Screen, story: Story, state: Path, out: Path, kill_at: int | None) -> bool:
    """One life of the job, up to the end or to a SIGKILL soon after ``kill_at`` records; true if it finished."""
    command = [sys.executable, __file__, "job", str(state), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            story.hear(json.loads(text))
            screen.at(story.records)
            if kill_at is not None and story.records >= kill_at:
                # Anywhere between two checkpoints, and within one.
                time.sleep(random.random() * INTERVAL_S)
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        code = process.wait()
    if kill_at is None and code != 0:
        raise SystemExit(f"the job failed with exit code {code}")
    return code == 0


def expected(path: Path) -> tuple[list[tuple[Any, ...]], dict[str, tuple[int, int]]]:
    """The same numbers by polars: windows in order, totals by destination."""
    flights = pl.read_csv(path, null_values=["NA", ""], infer_schema_length=None)
    day = pl.col("time_hour").str.slice(0, 10).alias("day")
    delays = (
        flights.filter(pl.col("dep_delay").is_not_null())
        .group_by(day, "carrier")
        .agg(pl.len(), pl.col("dep_delay").mean().alias("mean"), pl.col("dep_delay").max().alias("worst"))
        .sort("day", "carrier")
    )
    totals = flights.group_by("dest").agg(pl.len(), pl.col("distance").sum())
    return delays.rows(), {dest: (number, miles) for dest, number, miles in totals.rows()}


def found(out: Path) -> tuple[list[tuple[Any, ...]], dict[str, tuple[int, int]]]:
    """What the job wrote; of the running totals the last of each destination."""
    rows = [line.split(",") for line in read_parts(out / "delays").decode().splitlines()[1:]]
    delays = [
        (start[:10], carrier, int(number), float(average), int(worst))
        for carrier, start, _, number, average, worst in rows
    ]
    lines = read_parts(out / "totals").decode().splitlines()[1:]
    totals = {dest: (int(number), int(miles)) for dest, number, miles in (line.split(",") for line in lines)}
    return delays, totals


def main() -> int:
    """Runs both jobs, compares, reports; 0 if all is true."""
    screen = Screen()
    path = flights_csv()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        calm, rough = Story(), Story()
        screen.begin("undisturbed")
        live(screen, calm, root / "calm-state", root / "calm", None)
        moments = sorted(random.sample(range(10_000, FLIGHTS - 20_000), KILLS))
        for number, moment in enumerate(moments, 1):
            screen.begin(f"life {number}, killed after {moment:,} flights")
            if live(screen, rough, root / "rough-state", root / "rough", moment):
                raise SystemExit("the job ended before it could be killed; run the demo again")
        screen.begin(f"life {KILLS + 1}, to the end")
        live(screen, rough, root / "rough-state", root / "rough", None)
        screen.end()
        same = all(
            read_parts(root / "calm" / name) == read_parts(root / "rough" / name) for name in ("delays", "totals")
        )
        delays, totals = found(root / "rough")
        wanted_delays, wanted_totals = expected(path)
        flown = {dest: number for dest, (number, _) in totals.items()}
        wanted_flown = {dest: number for dest, (number, _) in wanted_totals.items()}
        checks = {
            "output is byte for byte that of the undisturbed run": same,
            "windows equal polars' group_by": delays == wanted_delays,
            "totals equal polars' group_by": totals == wanted_totals,
            "nothing lost": all(flown.get(dest, 0) >= number for dest, number in wanted_flown.items()),
            "nothing twice": all(number <= wanted_flown.get(dest, 0) for dest, number in flown.items()),
        }
    verdict(screen.console, checks)
    report(screen.console, calm, rough)
    return 0 if all(checks.values()) else 1


def verdict(console: Console, checks: dict[str, bool]) -> None:
    """What is true and what is not."""
    table = Table(show_header=False, box=None)
    for text, true in checks.items():
        table.add_row("[green]true[/]" if true else "[red]FALSE[/]", text)
    console.print(table)


def report(console: Console, calm: Story, rough: Story) -> None:
    """Figures."""
    durations = sorted(checkpoint["durable"] for checkpoint in calm.checkpoints)
    sizes = [checkpoint["bytes"] for checkpoint in calm.checkpoints]
    pauses = [checkpoint["pause"] for checkpoint in calm.checkpoints]
    average = sum(sizes) // len(sizes)
    console.print(
        f"{calm.records / calm.seconds:,.0f} records/s over {calm.records:,} records with a checkpoint every "
        f"{INTERVAL_S * 1000:.0f} ms\n"
        f"{len(durations)} checkpoints, {average:,} bytes each; durable after "
        f"{durations[len(durations) // 2] * 1000:.1f} ms (median), {durations[-1] * 1000:.1f} ms (longest); "
        f"longest pause {max(pauses) * 1000:.2f} ms",
        highlight=False,
    )
    tell_recoveries(console, rough)


def tell_recoveries(console: Console, story: Story) -> None:
    """How long each took."""
    for number, recovery in enumerate(story.recoveries[1:], 1):
        console.print(
            f"recovery {number}: from checkpoint {recovery['from']}, {recovery['rows']:,} rows in "
            f"{recovery['recovered'] * 1000:.1f} ms",
            highlight=False,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        live_once(build(Path(sys.argv[3])), sys.argv[2])
    else:
        sys.exit(main())
