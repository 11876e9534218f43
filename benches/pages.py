"""The pages that quote the figures: ``docs/benchmarks.md`` in full, ``README.md`` in short, between two marks each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.figures import show, verdict

__all__ = ["machine_lines", "replace_between", "write"]

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"

#: Which plot belongs to which table.
_IMAGES = {
    "hot_path": "hot_path",
    "checkpoint_frequency": "checkpoint_frequency",
    "pauses": "pauses",
    "restore_length": "restore",
    "alternatives": "alternatives",
    "record_at_a_time": "record_at_a_time",
    "guarantees": "guarantees",
    "long_run": "file_size",
    "log_transactions": "log_transactions",
}
_IN_README = ("alternatives", "checkpoint_frequency")


def write(results: Mapping[str, Any], output: Path, images: Mapping[str, Path]) -> list[Path]:
    """Replaces the figures in both pages; gives the pages that were written.

    Outside a checkout ``docs/benchmarks.md`` is made; a README is never.
    """
    benchmarks, readme = output / "docs" / "benchmarks.md", output / "README.md"
    if not benchmarks.exists():
        benchmarks.parent.mkdir(parents=True, exist_ok=True)
        benchmarks.write_text(f"# Benchmarks\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    written = [benchmarks] if replace_between(benchmarks, _full(results, images)) else []
    if readme.exists() and replace_between(readme, _short(results, images)):
        written.append(readme)
    return written


def replace_between(path: Path, text: str) -> bool:
    """Replaces what stands between the marks; false if the page has none."""
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return False
    path.write_text(f"{before}{BEGIN}\n{text.strip()}\n{END}{after}", encoding="utf-8")
    return True


def machine_lines(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the figures were measured on."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    loads = " ".join(f"{load:.1f}" for load in machine["load_average"])
    after = machine.get("load_average_after")
    loads += f" before, {' '.join(f'{load:.1f}' for load in after)} after" if after else ""
    median, p99 = (show(machine[name], "seconds") for name in ("fdatasync_p50_s", "fdatasync_p99_s"))
    return [
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores, {show(machine['memory_bytes'], 'bytes')} of memory"),
        ("Kernel", machine["kernel"]),
        ("Disk", f"{machine['file_system']} on {machine['device']}; fdatasync of 4 KiB: median {median}, p99 {p99}"),
        ("Python", f"{machine['python']}; {packages}"),
        ("Load average", loads),
    ]


def _full(results: Mapping[str, Any], images: Mapping[str, Path]) -> str:
    parts = [f"Measured {results['started'][:10]}:", ""]
    parts += [f"- {name}: {text}" for name, text in machine_lines(results["machine"])]
    for name, table in results["tables"].items():
        busy = show(table["cpu_used_by_others"], "share")
        parts += ["", f"## {table['title']}", "", table["note"], f"Other processes used {busy} of the CPUs meanwhile."]
        image = images.get(_IMAGES.get(name, ""))
        if image is not None:
            parts += ["", f"![{table['title']}](images/{image.name})"]
        parts += ["", *_markdown(table)]
    return "\n".join(parts)


def _markdown(table: Mapping[str, Any]) -> Iterable[str]:
    units = table["units"]
    goals = any(row["goals"] for row in table["rows"])
    heads = [*units, *(("target", "met") if goals else ())]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join('---' if units.get(head, 'text') == 'text' else '---:' for head in heads)}|"
    for row in table["rows"]:
        cells = [show(row["values"].get(name), unit) for name, unit in units.items()]
        yield f"| {' | '.join([*cells, *(verdict(row, units) if goals else ())])} |"


def _short(results: Mapping[str, Any], images: Mapping[str, Path]) -> str:
    machine, tables = results["machine"], results["tables"]
    busy = show(max(table["cpu_used_by_others"] for table in tables.values()), "share")
    parts = [
        f"Each measured side by side with what it is compared with, on {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['file_system']}, fdatasync {show(machine['fdatasync_p50_s'], 'seconds')}; other processes used up "
        f"to {busy} of the CPUs. [How, in full, and on your machine](docs/benchmarks.md).",
        "",
        "| question | figure | target | met |",
        "|---|---|---|---|",
    ]
    for name, table in tables.items():
        parts += [f"| {' | '.join(_headline(name, table, row))} |" for row in _headline_rows(name, table["rows"])]
    for name in _IN_README:
        image = images.get(name)
        if image is not None:
            parts += ["", f"![{tables[name]['title']}](docs/images/{image.name})"]
    return "\n".join(parts)


#: What a row with targets answers.
_HEADLINES = {
    "hot_path": "Keyed sum and count, {keys} {distribution} keys, of a bare array loop",
    "checkpoint_frequency": "Throughput kept with a checkpoint every {interval}, {keys} keys",
    "pauses": "Longest pause (p99), a checkpoint every {interval}, {keys} keys",
    "restore_size": "Recovery of {entries} entries: {recovery}; time an entry, of that of the smallest state",
    "restore_length": "Recovery after {checkpoints before} checkpoints, of that after the fewest",
    "timers": "A hundred of {open} open windows close, of a walk over all of them",
    "alternatives": "Faster than the best alternative ({what}), durable every {interval}",
    "record_at_a_time": "Keyed count, {records}: {what}",
    "files": "Count and sum by a string key of {file}, read as {what}: of polars' read_csv and group_by",
    "workers": "Keyed count of two files by {workers} workers, a function of {function}: of one worker",
    "log_rates": "{what}, records of {record}: produce and consume, of Kafka",
    "log_transactions": "{what}, records of {record}: throughput kept with a commit every {commit every}",
    "log_delivery": "{what}: produce to delivery (p99) at {asked} with a commit every {commit every}",
    "kafka_guarantees": "Into Kafka exactly once, records of {record}, a commit every {commit every}; of at_least_once",
    "postgres_guarantee": "Into PostgreSQL exactly once, a commit every {commit every}, of COPY without any guarantee",
    "durable_execution": "Upserts from Kafka into PostgreSQL, exactly once, faster than {what}",
    "keyed_count": "Keyed count from a topic of Kafka into another, exactly once, of the rate of Quix Streams",
    "recovery_on_kafka": "The same count after kill -9, until the next committed result",
    "long_run": "File after {time} of checkpoints every {interval}, of the bytes it must hold and of the live state",
}


def _headline_rows(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with targets; of a trend only its end, of distributions the harder one."""
    rows = [row for row in rows if row["goals"]]
    if name.startswith("restore"):
        return rows[-1:]
    return [row for row in rows if row["values"].get("distribution") != "zipf"]


def _headline(name: str, table: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    units = table["units"]
    shown = {column: show(value, units[column]) for column, value in row["values"].items()}
    figures = ", ".join(shown[goal["column"]] for goal in row["goals"])
    return [_HEADLINES[name].format_map(shown), figures, *verdict(row, units)]
