"""What is counted of the records of a source, and what a job says of it: the same whatever kind of source it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis

from onceflow import Columns, Dataflow, run
from onceflow.connectors.arrow import ArrowSource
from onceflow.connectors.files import ArrowIpcSource, CsvSource, JsonLinesSource, ParquetSource, TextSource
from onceflow.connectors.iterable import IterableSource
from onceflow.connectors.log import LogSource
from onceflow.connectors.polling import PollingSource
from onceflow.connectors.redis import RedisStreamSource
from onceflow.log import Log, Producer
from onceflow.testing import TransactionalTestingSink

#: Ten records; three of them have no valid event time.
TIMES: list[int | None] = [1, 2, None, 4, 5, None, 7, None, 9, 10]
GOOD, BAD = 7, 3
FAR = 2**62


def rows():
    return [{"at": "never" if at is None else at} for at in TIMES]


def at(record):
    return record["at"] if isinstance(record, dict) else json.loads(record)["at"]


def of_csv(path, policy):
    path.write_text("at\n" + "".join(f"{row['at']}\n" for row in rows()))
    return CsvSource(path, event_time="at", types={"at": "int"}, on_malformed=policy)


def of_csv_columns(path, policy):
    path.write_text("at\n" + "".join(f"{row['at']}\n" for row in rows()))
    return CsvSource(path, event_time="at", types={"at": "int"}, as_columns=True, on_malformed=policy)


def of_jsonl(path, policy):
    # Empty lines are not records.
    path.write_text("".join(f"{json.dumps(row)}\n\n" for row in rows()))
    return JsonLinesSource(path, event_time="at", on_malformed=policy)


def of_text(path, policy):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows()))
    return TextSource(path, event_time=at, on_malformed=policy)


def of_parquet(path, policy):
    pq.write_table(pa.table({"at": pa.array(TIMES, pa.int64())}), path)
    return ParquetSource(path, event_time="at", on_malformed=policy)


def of_ipc(path, policy):
    table = pa.table({"at": pa.array(TIMES, pa.int64())})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return ArrowIpcSource(path, event_time="at", on_malformed=policy)


def of_frame(path, policy):
    return ArrowSource(pl.DataFrame({"at": TIMES}), event_time="at", on_malformed=policy)


def of_list(path, policy):
    return IterableSource(rows(), event_time="at", on_malformed=policy)


def of_poll(path, policy):
    return PollingSource(
        lambda position: (rows(), 1) if position is None else None,
        every=timedelta(seconds=1),
        event_time="at",
        on_malformed=policy,
    )


def a_topic(path):
    log = Log.open(path, create=True)
    log.create_topic("rows")
    with Producer(log) as producer:
        for row in rows():
            producer.produce("rows", json.dumps(row))
    return log


def of_log(path, policy):
    return LogSource(a_topic(path), "rows", decode="json", event_time=at, stop_at_end=True, on_malformed=policy)


def of_log_columns(path, policy):
    def times(columns: Columns):
        known = [json.loads(value.as_py())["at"] for value in columns.arrays["value"]]
        return np.array([FAR if one == "never" else one for one in known], dtype=np.int64)

    log = a_topic(path)
    return LogSource(log, "rows", as_columns=True, event_time=times, stop_at_end=True, on_malformed=policy)


SOURCES = {
    "csv": of_csv,
    "csv columns": of_csv_columns,
    "jsonl": of_jsonl,
    "text": of_text,
    "parquet": of_parquet,
    "ipc": of_ipc,
    "frame": of_frame,
    "list": of_list,
    "poll": of_poll,
    "log": of_log,
    "log columns": of_log_columns,
}


def counted(source, state, policy):
    flow, letters = Dataflow("counts"), TransactionalTestingSink()
    flow.source("in", source).sink("out", TransactionalTestingSink())
    if policy == "dead_letter":
        flow.dead_letters("in").sink("letters", letters)
    result = run(flow, state, batch_size=4)
    assert len(letters.records) == result.rejected
    return result.records_in, result.rejected, result.skipped, result.raised


EXPECTED = {"skip": (GOOD, 0, BAD, 0), "dead_letter": (GOOD, BAD, 0, 0)}


@pytest.mark.parametrize("policy", EXPECTED)
@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_read_is_counted_once(state, tmp_path, kind, policy):
    """Kind: what one source calls read another one does not, so that figures of two jobs cannot be compared."""
    assert counted(SOURCES[kind](tmp_path / "in", policy), state, policy) == EXPECTED[policy]


@pytest.mark.parametrize("policy", EXPECTED)
def test_also_of_a_stream_of_redis(state, redis_url, policy):
    """Kind: see above."""
    with Redis.from_url(redis_url) as client:
        for row in rows():
            client.xadd("rows", {"json": json.dumps(row)})

    def decode(entry):
        return json.loads(entry["fields"][b"json"])

    source = RedisStreamSource(
        redis_url,
        "rows",
        decode=decode,
        event_time=lambda record: datetime.fromtimestamp(record["at"], UTC),
        stop_at_end=True,
        on_malformed=policy,
    )
    assert counted(source, state, policy) == EXPECTED[policy]


def test_what_a_function_raises_for_was_read(state):
    """Kind: a record of a step's dead letters is counted as if its source had not been able to read it."""
    flow = Dataflow("counts")
    stream = flow.source("in", IterableSource(rows())).map(lambda row: row["at"] + 1, dead_letters="add")
    stream.sink("out", TransactionalTestingSink())
    flow.dead_letters("add").sink("letters", TransactionalTestingSink())
    result = run(flow, state)
    assert (result.records_in, result.rejected, result.skipped, result.raised) == (len(TIMES), 0, 0, BAD)
    assert result.records_out == len(TIMES)


def test_counts_go_on_after_a_stop(state, tmp_path):
    """Kind: a resumed job forgets what earlier runs have refused, or counts it once more."""
    flow = Dataflow("counts")
    path = tmp_path / "in"
    stream = flow.source("in", of_jsonl(path, "dead_letter")).map(lambda row: 1 // (row["at"] - 4), dead_letters="by")
    stream.sink("out", TransactionalTestingSink())
    flow.dead_letters("in").sink("letters", TransactionalTestingSink())
    flow.dead_letters("by").sink("raised", TransactionalTestingSink())
    first = run(flow, state, until="caught_up", batch_size=3)
    with path.open("a") as file:
        file.write('{"at": 11}\n{"at": "never"}\n{"at": 4}\n')
    second = run(flow, state, until="caught_up", batch_size=3)
    for result, expected in ((first, (GOOD, BAD, 0, 1)), (second, (GOOD + 2, BAD + 1, 0, 2))):
        assert (result.records_in, result.rejected, result.skipped, result.raised) == expected
