"""The keyed count as a job: ``python counting_job.py BOOTSTRAP WORDS COUNTS STATE INTERVAL_S`` follows until killed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import onceflow as of
from onceflow.connectors.kafka import KafkaSink, KafkaSource

__all__ = ["Emit", "counting"]

#: What comes out: of each batch the newest count of each word in it, or a count for each word that is read.
Emit = Literal["changes", "each"]


def counting(bootstrap: str, words: str, counts: str, *, emit: Emit, stop_at_end: bool) -> of.Dataflow:
    """Counts the keys of a topic, by columns (``"changes"``) or record by record (``"each"``)."""
    flow = of.Dataflow(f"counting-{counts}")
    columns = emit == "changes"
    source = KafkaSource(bootstrap, words, as_columns=columns, key_codec="str", stop_at_end=stop_at_end)
    keyed = flow.source("words", source).key_by("key")
    counted = keyed.aggregate("counts", count=of.count()) if columns else keyed.stateful_map("counts", _next)
    counted.sink("out", KafkaSink(bootstrap, counts, key="key", value="count"))
    return flow


def _next(state: Any, record: Any) -> tuple[int, dict[str, Any]]:
    count = (state or 0) + 1
    return count, {"key": record["key"], "count": count}


def main(bootstrap: str, words: str, counts: str, state: str, interval_s: str) -> None:
    """See the module."""
    flow = counting(bootstrap, words, counts, emit="each", stop_at_end=False)
    of.run(flow, Path(state), checkpoint_interval_s=float(interval_s), guarantee="exactly_once")


if __name__ == "__main__":
    main(*sys.argv[1:])
