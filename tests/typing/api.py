"""The public API as users see it: checked by mypy --strict, never run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

from onceflow import (
    Columns,
    Consumer,
    Dataflow,
    Guarantee,
    JobResult,
    Log,
    Producer,
    count,
    first,
    last,
    max,
    mean,
    min,
    run,
    sum,
)
from onceflow.aggregates import Aggregate
from onceflow.checks import Checked, Finding
from onceflow.codec import Codec, MsgpackCodec
from onceflow.connectors.files import CsvSource, JsonLinesSource, ParquetSink
from onceflow.dataflow import KeyedStream, Stream, WindowedStream
from onceflow.embed import (
    CheckpointInfo,
    CheckpointStats,
    Deduplicator,
    PendingCheckpoint,
    Recovery,
    Rows,
    StateBackend,
    Table,
    TableSchema,
    Verdicts,
    key_group,
)
from onceflow.events import CheckpointCompleted, JobEvent, PartsStats, Recovered
from onceflow.exceptions import (
    FencedError,
    InvalidTransactionStateError,
    OffsetOutOfRangeError,
    OnceflowError,
    StoreLockedError,
    UserFunctionError,
)
from onceflow.graph.explanation import Explanation
from onceflow.log import (
    ConsumerState,
    Message,
    Positions,
    Produced,
    ProducerState,
    Records,
    TopicPartition,
)
from onceflow.sinks import SinkWriter
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.state import ListState, MapState, Processor, ValueState
from onceflow.testing import TestingSource, TransactionalTestingSink
from onceflow.types import KeyElementType, Plain
from onceflow.windows import Tumbling


class Visits(Processor):
    visits = ValueState(default=0)
    pages = ListState(ttl=timedelta(hours=1))
    names = MapState()

    def process(self, record: dict[str, Any]) -> list[Any]:
        assert_type(self.pages.get(), list[Any])
        assert_type(self.names.items(), dict[Any, Any])
        assert_type(self.now_us, int)
        return [self.visits.get()]


def dataflow() -> None:
    flow = Dataflow("typed")
    rows = flow.source("rows", TestingSource([1, 2]), max_out_of_orderness=timedelta(seconds=1))
    assert_type(rows, Stream)
    assert_type(rows.map(str).filter(bool).flat_map(list).inspect(print), Stream)
    assert_type(rows.map_batch(lambda batch: batch).filter_batch(lambda batch: np.ones(len(batch), bool)), Stream)
    assert_type(rows.union(rows.map(str)), Stream)
    assert_type(rows.drop_duplicates("d", ["id"], horizon=timedelta(days=1)), Stream)
    assert_type(rows.assign_timestamps("t", "at", max_out_of_orderness=timedelta(1), dead_letters=True), Stream)
    keyed = rows.key_by("user", "day", key_type=("i64", "str"))
    assert_type(keyed, KeyedStream)
    assert_type(rows.key_by(lambda row: row["user"]), KeyedStream)
    assert_type(
        keyed.aggregate("t", n=count(), s=sum("v"), lo=min("v"), hi=max("v"), a=mean("v"), f=first("v")), Stream
    )
    assert_type(last("v", type="bytes"), Aggregate)
    assert_type(keyed.stateful_map("m", lambda state, row: (state, row)), Stream)
    assert_type(keyed.process("p", Visits), Stream)
    window = keyed.window("w", Tumbling(days=1, offset=timedelta(hours=1)), allowed_lateness=timedelta(minutes=5))
    assert_type(window, WindowedStream)
    assert_type(window.aggregate(n=count()), Stream)
    assert_type(flow.late("w"), Stream)
    assert_type(flow.dead_letters("rows"), Stream)
    assert_type(rows.sink("out", TransactionalTestingSink()), None)
    assert_type(flow.explain(), str)
    assert_type(flow.explain(format="mermaid"), str)
    assert_type(flow.explanation("at_least_once"), Explanation)
    assert_type(flow.check(), list[Checked])
    assert_type(flow.check("at_least_once")[0].findings, tuple[Finding, ...])

    def on_event(event: JobEvent) -> None:
        if isinstance(event, Recovered):
            assert_type(event.damage, tuple[str, ...])
        elif isinstance(event, CheckpointCompleted):
            assert_type(event.stats, CheckpointStats | PartsStats)

    result = run(
        flow,
        "state/",
        checkpoint_interval_s=0.1,
        guarantee="exactly_once",
        resume_from=3,
        take_over=True,
        on_event=on_event,
    )
    assert_type(result, JobResult)
    assert_type(result.finished, bool)
    assert_type(result.last_checkpoint, int | None)
    run(flow, "state/", guarantee=Guarantee.AT_LEAST_ONCE)


def backend() -> None:
    with StateBackend.open("state/", job="typed", resume_from="newest", restore_key_groups=(0, 64)) as backend:
        assert_type(backend, StateBackend)
        assert_type(backend.recovery, Recovery)
        assert_type(backend.positions, dict[str, int | str | bytes])
        assert_type(backend.checkpoints(), list[CheckpointInfo])
        assert_type(backend.tables(), dict[str, TableSchema])
        assert_type(backend.size(), tuple[int, int])
        assert_type(backend.backup("copy/"), None)

        table = backend.table("totals", key=("i64", "str"), columns={"sum": "f64", "n": "i64"})
        assert_type(table, Table)
        assert_type(table.add(np.arange(3), sum=1.5, n=[1, 2, 3]), None)
        assert_type(table.update([1], {"sum": ("add", [1.0]), "n": ("count", None)}), None)
        assert_type(table.count([1], "n"), None)
        assert_type(table.get([1]), Rows)
        assert_type(table.scan(0, 64), Rows)
        assert_type(table.drain_below(5), Rows)
        assert_type(table.contains([1]), npt.NDArray[np.bool_])
        assert_type(table.delete([1]), npt.NDArray[np.bool_])
        assert_type(table.get_bytes([1], "text"), list[bytes | None])
        assert_type(table.get_distinct([1]), tuple[Rows, npt.NDArray[np.int64]])
        assert_type(table.get([1]).found, npt.NDArray[np.bool_])
        assert_type(table.get([1]).columns, dict[str, Any])
        assert_type(table.schema.key, KeyElementType | tuple[KeyElementType, ...])

        pending = backend.checkpoint({"input": 42, "file": "a:7", "token": b"x"}, savepoint="before the change")
        assert_type(pending, PendingCheckpoint)
        assert_type(pending.wait(timeout_s=1.0), CheckpointStats)
        assert_type(pending.done, bool)
        begun = backend.begin_checkpoint()
        begun.freeze(["totals"])
        begun.put_blob("mine", b"bytes")
        assert_type(begun.commit(), None)

        seen = backend.deduplicator("producers", window=5)
        assert_type(seen, Deduplicator)
        verdicts = seen.check_many(np.array([1]), 0, [0], [9], now_s=1.0)
        assert_type(verdicts, Verdicts)
        assert_type(verdicts.accepted, npt.NDArray[np.bool_])
    assert_type(key_group("a", "str", 128), int)


def errors() -> None:
    try:
        run(Dataflow("typed"), "state/")
    except UserFunctionError as error:
        assert_type(error.step_id, str)
        assert_type(error.position, str | None)
    except StoreLockedError as error:
        assert_type(error.kind, str)
        assert_type(error.pid, int | None)
    except OffsetOutOfRangeError as error:
        assert_type((error.offset, error.low, error.high), tuple[int | None, int | None, int | None])
    except FencedError as error:
        assert_type((error.epoch, error.newer_epoch), tuple[int | None, int | None])
    except InvalidTransactionStateError as error:
        assert_type(error.state, ProducerState | None)
    except OnceflowError:
        raise


class Numbers(Source):
    """A source of one's own."""

    def partitions(self) -> list[str]:
        return ["0"]

    def open(self, partition: str, position: Plain) -> SourceReader:
        return NumbersReader(position if isinstance(position, int) else 0)


class NumbersReader(SourceReader):
    def __init__(self, start: int) -> None:
        self._next = start

    def read(self, max_records: int) -> SourceBatch | None:
        return SourceBatch(list(range(self._next, self._next + max_records)))

    def position(self) -> Plain:
        return self._next


class Printer(SinkWriter):
    """A sink's writer of one's own."""

    def write(self, records: list[Any] | Columns) -> None:
        assert_type(len(records), int)

    def flush(self) -> None:
        pass


def codecs() -> None:
    codec: Codec = MsgpackCodec()
    assert_type(codec.encode({"a": 1}), bytes)


def embedded_log() -> None:
    with Log.open("events/", commit_timeout_s=1.0) as log:
        log.create_topic("t", partitions=2, retention_ms=None, cleanup_policy="compact")
        log.alter_topic("t", partitions=3)
        producer = Producer(log, transactional_id="p")
        with producer.transaction() as same:
            assert_type(same, Producer)
            producer.produce("t", "value", b"key", on_delivery=lambda error, message: message.offset())
            producer.produce("t", key="key", headers={"a": b"1"})
            assert_type(producer.produce_many("t", np.zeros((2, 3), np.uint8)), list[Produced])
        consumer = Consumer(log, "g", auto_offset_reset="latest")
        consumer.subscribe(["t"], on_assign=lambda consumer, partitions: consumer.seek(partitions[0]))
        assert_type(consumer.poll(1.0), Message | None)
        assert_type(consumer.consume(10, timeout=1.0), list[Message])
        records = consumer.consume_batch()
        assert_type(records, Records | None)
        if records is not None:
            assert_type(records.offsets, npt.NDArray[np.int64])
        assert_type(consumer.positions(), Positions)
        assert_type(consumer.state, ConsumerState)
        assert_type(consumer.list_topics("t").topics["t"].partitions[0].id, int)
        assert_type(consumer.memberid(), str | None)
        assert_type(consumer.consume(5, 1.0, min_messages=5), list[Message])
        assert_type(producer.state, ProducerState)
        producer.send_offsets_to_transaction(consumer.positions(), group_id="g")
        assert_type(consumer.commit(offsets=[TopicPartition("t", 0, 1)]), list[TopicPartition])


def refused() -> None:
    """What a type checker must find; an ignore that is not needed is an error too."""
    flow = Dataflow("typed")
    flow.source("rows", [1, 2])  # type: ignore[arg-type]
    flow.source("more", TestingSource([1])).key_by("k").aggregate("t", n="count")  # type: ignore[arg-type]
    run(flow, "state/", guarantee=1)  # type: ignore[arg-type]
    Log.open("events/").create_topic("t", cleanup_policy="keep")  # type: ignore[arg-type]
    Log.open("events/").create_topic("t", partition=1)  # type: ignore[call-arg]
    Consumer(Log.open("events/"), isolation_level="serializable")  # type: ignore[arg-type]
    StateBackend.open(b"state/")  # type: ignore[arg-type]
    StateBackend.open("state/").table("t", key=5, columns={})  # type: ignore[arg-type]
    StateBackend.open("state/").checkpoint({"input": 1.5})  # type: ignore[dict-item]
    # Words that choose.
    rows = flow.source("words", JsonLinesSource("in.jsonl", on_malformed="drop"))  # type: ignore[arg-type]
    flow.source("csv", CsvSource("in.csv", types={"n": "integer"}))  # type: ignore[dict-item]
    keyed = rows.key_by("k", key_type="int")  # type: ignore[arg-type]
    keyed.aggregate("changes", emit="change", n=count())  # type: ignore[arg-type]
    keyed.aggregate("nan", n=sum("v", nan="drop"))  # type: ignore[arg-type]
    keyed.aggregate("type", n=sum("v", type="bytes"))  # type: ignore[arg-type]
    rows.sink("out", ParquetSink("out/", on_new_types="widened"))  # type: ignore[arg-type]
    flow.explain("exactly-once")  # type: ignore[arg-type]
    flow.explain(format="yaml")  # type: ignore[arg-type]
    run(flow, "state/", guarantee="exactly once")  # type: ignore[arg-type]
    run(flow, "state/", codec="json")  # type: ignore[arg-type]
    log = Log.open("events/")
    Consumer(log, auto_offset_reset="smallest")  # type: ignore[arg-type]
    Consumer(log, partition_assignment_strategy="range,roundrobin")  # type: ignore[arg-type]
    Deduplicator(mode="loose")  # type: ignore[arg-type]
    Deduplicator(order="any")  # type: ignore[arg-type]
