"""The report runs every suite and produces tables, JSON, plots and a page. What the figures are is not its claim."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).parents[2] / "benches"
#: The suites of logs and of services have tests of their own.
APART = {"log", "kafka", "postgres", "durable_execution", "keyed_count"}
SUITES = sorted({path.stem.removeprefix("bench_") for path in BENCHES.glob("bench_*.py")} - APART)
TABLES = {
    "hot_path",
    "checkpoint_frequency",
    "pauses",
    "restore_size",
    "restore_length",
    "timers",
    "alternatives",
    "record_at_a_time",
    "files",
    "workers",
    "guarantees",
    "sequence",
    "aligner",
    "long_run",
}
PLOTS = {
    "hot_path",
    "checkpoint_frequency",
    "pauses",
    "restore",
    "alternatives",
    "record_at_a_time",
    "guarantees",
    "file_size",
}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """One quick run of all suites, the long one included."""
    output = tmp_path_factory.mktemp("report")
    (output / "README.md").write_text("before\n<!-- figures -->\nformer figures\n<!-- /figures -->\nafter\n")
    command = [sys.executable, str(BENCHES / "report.py"), "--quick", "--only", ",".join(SUITES)]
    command += ["--output", str(output), "--state-dir", str(output / "state")]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return output, ran.stdout


@pytest.fixture(scope="module")
def results(report):
    return json.loads((report[0] / "benches" / "results" / "results.json").read_text())


def test_every_table_has_rows_with_every_column(results):
    assert set(results["tables"]) == TABLES
    for table in results["tables"].values():
        assert table["rows"], table["name"]
        assert 0 <= table["cpu_used_by_others"] <= 1
        for row in table["rows"]:
            assert set(row["values"]) <= set(table["units"])
            assert all(goal["column"] in row["values"] for goal in row["goals"])


def test_the_machine_is_described(results):
    machine = results["machine"]
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine["kernel"].startswith("Linux")
    assert machine["file_system"]
    assert machine["device"]
    assert 0 < machine["fdatasync_p50_s"] <= machine["fdatasync_p99_s"]
    assert {"numpy", "lmdb", "rocksdict"} <= set(machine["packages"])
    assert len(machine["load_average"]) == 3


def test_targets_are_printed_with_whether_they_are_met(report):
    printed = report[1]
    assert "target" in printed
    assert "met" in printed
    assert "yes" in printed or "missed" in printed


def test_plots_are_pictures(report):
    images = report[0] / "docs" / "images"
    assert {path.stem for path in images.iterdir()} == PLOTS
    for path in images.iterdir():
        assert path.read_bytes().startswith(PNG)
        assert path.stat().st_size > 10_000


def test_the_pages_quote_the_figures(report, results):
    page = (report[0] / "docs" / "benchmarks.md").read_text()
    for table in results["tables"].values():
        assert f"## {table['title']}" in page
    for plot in PLOTS:
        assert f"(images/{plot}.png)" in page
    readme = (report[0] / "README.md").read_text()
    assert readme.startswith("before\n<!-- figures -->\n")
    assert readme.endswith("\n<!-- /figures -->\nafter\n")
    assert "former figures" not in readme
    assert "| question | figure | target | met |" in readme
    assert "(docs/images/alternatives.png)" in readme
