"""Runs the suites, prints their tables, and writes JSON, plots and the pages that quote the figures.

``make bench``, or ``python benches/report.py [--quick] [--long] [--log] [--services] [--only hot_path,restore]``. The
full run takes about ten minutes of a machine that has nothing else to do; figures of a busy machine are low, and the
tables say how busy it was. Nothing fails because of a figure: a target that was missed is shown as missed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

import pages
import plots
from harness.figures import show, verdict
from harness.machine import describe

BENCHES = Path(__file__).parent
CHECKOUT = BENCHES.parent
SUITES = (
    "hot_path",
    "checkpoint_frequency",
    "restore",
    "timers",
    "alternatives",
    "record_at_a_time",
    "workers",
    "files",
    "guarantees",
    "sequence",
    "aligner",
)
LONG = "long_run"
#: With a real Kafka beside it: ten minutes more.
LOG = "log"
#: On real servers.
SERVICES = ("kafka", "postgres", "durable_execution", "keyed_count")
#: Of the tables in a file or pipe.
_WIDTH = 160


def main() -> int:
    """The command."""
    options = _options()
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    options.state_dir.mkdir(parents=True, exist_ok=True)
    output: Path = options.output
    results_file = output / "benches" / "results" / "results.json"
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    results: dict[str, Any] = {"started": started, "scale": "quick" if options.quick else "full"}
    results["machine"] = describe(options.state_dir)
    results["tables"] = _earlier(results_file, results) if options.adds else {}
    _print_machine(console, results["machine"])
    failed: list[str] = []
    for suite in options.suites:
        console.rule(f"[bold]{suite}", align="left")
        tables = _run(suite, options)
        if tables is None:
            failed.append(suite)
            continue
        for name, table in tables.items():
            results["tables"][name] = table
            _print_table(console, table)
    results["machine"]["load_average_after"] = list(os.getloadavg())
    results_file.parent.mkdir(parents=True, exist_ok=True)
    results_file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    images = plots.draw(results["tables"], output / "docs" / "images")
    written = pages.write(results, output, images)
    for path in [results_file, *images.values(), *written]:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if failed:
        console.print(f"[red]these suites did not run to their end: {', '.join(failed)}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute: shows that everything runs, gives no figures")
    parser.add_argument("--long", action="store_true", help="ten minutes: the size of the file over a long run")
    parser.add_argument("--log", action="store_true", help="ten minutes: the embedded log beside a real Kafka")
    parser.add_argument("--only", default="", help=f"some of {','.join(SUITES)}; the tables of the others are kept")
    parser.add_argument("--services", action="store_true", help="twenty minutes: sources and sinks on real servers")
    parser.add_argument("--output", type=Path, help="instead of the checkout (quick: benches/results/quick)")
    parser.add_argument("--state-dir", type=Path, default=CHECKOUT / ".data" / "benches", help="the disk to measure")
    options = parser.parse_args()
    asked = [name for name in options.only.split(",") if name]
    asked += [LONG] if options.long else []
    asked += [LOG] if options.log else []
    asked += SERVICES if options.services else []
    options.adds = bool(asked)
    options.suites = asked or list(SUITES)
    unknown = set(options.suites) - {*SUITES, LONG, LOG, *SERVICES}
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    if options.output is None:
        # Figures of a quick run must never replace those that the pages quote.
        options.output = BENCHES / "results" / "quick" if options.quick else CHECKOUT
    return options


def _earlier(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Tables of an earlier run on this machine."""
    if not path.exists():
        return {}
    earlier = json.loads(path.read_text(encoding="utf-8"))
    same = earlier["scale"] == results["scale"] and earlier["machine"]["cpu"] == results["machine"]["cpu"]
    tables: dict[str, Any] = earlier["tables"] if same else {}
    return tables


def _run(suite: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """The tables of one suite, from a process of its own: memory and caches begin alike for each."""
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", str(BENCHES / f"bench_{suite}.py"), "-q", "--no-header"]
        command += ["-p", "no:cacheprovider", "--benchmark-quiet", f"--benchmark-json={found}"]
        command += ["--scale", "quick" if options.quick else "full", "--state-dir", str(options.state_dir)]
        # Within tests that are spread over processes pytest-benchmark would measure nothing.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        ran = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        if ran.returncode != 0:
            sys.stdout.write(ran.stdout)
            return None
        benchmarks = json.loads(found.read_text(encoding="utf-8"))["benchmarks"]
    tables: dict[str, Any] = {}
    others: dict[str, list[float]] = {}
    for benchmark in benchmarks:
        extra = benchmark["extra_info"]
        for table in extra["tables"]:
            kept = tables.setdefault(table["name"], {**table, "rows": []})
            kept["rows"] += table["rows"]
            others.setdefault(table["name"], []).append(extra["cpu_used_by_others"])
    for name, shares in others.items():
        tables[name]["cpu_used_by_others"] = max(shares)
    return tables


def _print_machine(console: Console, machine: dict[str, Any]) -> None:
    table = RichTable(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in pages.machine_lines(machine):
        table.add_row(f"[dim]{name}", text)
    console.print(table)


def _print_table(console: Console, table: dict[str, Any]) -> None:
    units = table["units"]
    busy = f"Other processes used {show(table['cpu_used_by_others'], 'share')} of the CPUs."
    printed = RichTable(title=table["title"], caption=f"{table['note']} {busy}", title_justify="left")
    for name, unit in units.items():
        printed.add_column(name, justify="left" if unit == "text" else "right")
    has_goals = any(row["goals"] for row in table["rows"])
    if has_goals:
        printed.add_column("target", justify="right")
        printed.add_column("met")
    for row in table["rows"]:
        cells = [show(row["values"].get(name), unit) for name, unit in units.items()]
        target, met = verdict(row, units)
        colour = "yellow" if "missed" in met else "green"
        printed.add_row(*cells, *([target, f"[{colour}]{met}[/]"] if has_goals else []))
    console.print(printed)


if __name__ == "__main__":
    sys.exit(main())
