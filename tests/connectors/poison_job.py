"""The job that the tests of dead letters kill: python poison_job.py ROOT INTERVAL_MS.

Reads CSV, JSON Lines and text with bad records in all of them, and maps them by a function that raises for some.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import onceflow as of
from onceflow.connectors.files import CsvSink, CsvSource, JsonLinesSink, JsonLinesSource, TextSource

LINES = 400
SOURCES = ("csv", "jsonl", "text")


def write_input(root: Path) -> None:
    """Every 7th record is bad for its source, every 11th for the function."""
    root.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        csv, jsonl, text = [b"id,value"], [], []
        for number in range(part, LINES, 2):
            value = 0 if number % 11 == 0 else number
            bad = number % 7 == 0
            csv.append(b'%d,"open' % number if number % 2 and bad else b"%d,%d%s" % (number, value, b",more" * bad))
            jsonl.append(b'{"id": %d, "value": %d%s' % (number, value, b"" if bad else b"}"))
            text.append(b"%d %d%s" % (number, value, b"\xff" * bad))
        for name, lines in (("csv", csv), ("jsonl", jsonl), ("text", text)):
            (root / f"in-{part}.{name}").write_bytes(b"\n".join(lines) + b"\n")


def build(root: Path) -> of.Dataflow:
    flow = of.Dataflow("poison")
    policy = {"on_malformed": "dead_letter"}
    sources = {
        "csv": CsvSource(root / "in-*.csv", types={"id": "int", "value": "int"}, **policy),
        "jsonl": JsonLinesSource(root / "in-*.jsonl", **policy),
        "text": TextSource(root / "in-*.text", **policy),
    }

    def slowly(batch):
        # So that a few checkpoints fall within a run.
        time.sleep(0.001)
        return batch

    def parsed(record):
        if isinstance(record, str):
            first, second = record.split()
            record = {"id": int(first), "value": int(second)}
        return {"id": record["id"], "inverse": 1 / record["value"]}

    for name, source in sources.items():
        stream = flow.source(name, source).map_batch(slowly).map(parsed, dead_letters=f"{name}-parsed")
        stream.sink(f"{name}-out", CsvSink(root / "out" / name))
        flow.dead_letters(name).sink(f"{name}-bad", JsonLinesSink(root / "out" / f"{name}-bad"))
        flow.dead_letters(f"{name}-parsed").sink(f"{name}-failed", JsonLinesSink(root / "out" / f"{name}-failed"))
    return flow


def run_job(root: Path, interval_ms: float) -> bool:
    """One life of the job; whether it has finished."""
    return of.run(build(root), root / "state", checkpoint_interval_s=interval_ms / 1000, batch_size=20).finished


if __name__ == "__main__":
    sys.exit(0 if run_job(Path(sys.argv[1]), float(sys.argv[2])) else 3)
