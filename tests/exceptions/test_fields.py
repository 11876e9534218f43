"""Errors as they come out of the library: what they are about is in their fields, not only in their text."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import onceflow as of
from onceflow._native import BarrierAligner, CheckpointCoordinator, Deduplicator, StateBackend
from onceflow.connectors.files import CsvSink, CsvSource
from onceflow.connectors.log import LogSink
from onceflow.exceptions import (
    CapacityExceededError,
    CheckpointNotFoundError,
    CheckpointStateError,
    ConfigurationError,
    DataflowChangedError,
    DeliveryGuaranteeError,
    FencedError,
    IllegalGenerationError,
    InvalidTransactionStateError,
    LogTimeoutError,
    MalformedRecordError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    ProducerFencedError,
    RecordTooLargeError,
    SinkError,
    SourceChangedError,
    SourceError,
    StoreFormatError,
    StoreLockedError,
    StoreMismatchError,
    TopicExistsError,
    UnknownMemberError,
    UnknownNameError,
    UnknownTopicOrPartitionError,
    UserFunctionError,
)
from onceflow.log import Consumer, Log, Producer, ProducerState, TopicPartition
from onceflow.sinks import Committable, PlainSink, SinkContext, SinkWriter
from onceflow.testing import TestingSource, TransactionalTestingSink


@pytest.fixture
def log(tmp_path):
    with Log.open(tmp_path / "log", upkeep_interval_s=None, commit_timeout_s=0.05) as opened:
        opened.create_topic("one")
        yield opened


def raised(kind, call):
    """The error of a call, as another process gets it."""
    with pytest.raises(kind) as info:
        call()
    return pickle.loads(pickle.dumps(info.value))


# ---- the log -------------------------------------------------------------------------------------


def test_an_offset_that_is_not_there(log):
    """A program that had to read the range from a sentence."""
    with Producer(log) as producer:
        producer.produce_many("one", [b"a", b"b"])
    with Consumer(log, auto_offset_reset="error") as consumer:
        consumer.assign([TopicPartition("one", 0, 9)])
        error = raised(OffsetOutOfRangeError, lambda: consumer.poll(0))
        assert (error.topic, error.partition, error.offset, error.low, error.high) == ("one", 0, 9, 0, 2)
        consumer.assign([TopicPartition("one", 0)])
        error = raised(OffsetOutOfRangeError, lambda: consumer.poll(0))
        assert (error.topic, error.partition, error.offset) == ("one", 0, None)


def test_topics(log):
    """A program that creates what is missing, and had to know its name already."""
    assert raised(TopicExistsError, lambda: log.create_topic("one")).topic == "one"
    error = raised(UnknownTopicOrPartitionError, lambda: log.topic("two"))
    assert (error.topic, error.partition) == ("two", None)
    for call in (lambda: log.partition("one", 7), lambda: Producer(log).produce("one", b"v", partition=7)):
        error = raised(UnknownTopicOrPartitionError, call)
        assert (error.topic, error.partition) == ("one", 7)


def test_a_record_that_is_too_large(log):
    """A program that splits records, by one and in batches."""
    limit = log.topic("one").max_record_bytes
    with Producer(log) as producer:
        for call in (
            lambda: producer.produce("one", b"x" * (limit + 5)),
            lambda: producer.produce_many("one", [b"x" * (limit + 5)]),
        ):
            error = raised(RecordTooLargeError, call)
            assert (error.size, error.limit) == (limit + 5, limit)


def test_a_producer_that_was_replaced(log):
    """Which of two producers is the newer one."""
    with Producer(log, transactional_id="tx") as older, Producer(log, transactional_id="tx") as newer:
        older.init_transactions()
        error = raised(InvalidTransactionStateError, older.commit_transaction)
        assert error.state is ProducerState.READY
        newer.init_transactions()
        older.begin_transaction()
        older.produce("one", b"v")
        error = raised(ProducerFencedError, older.commit_transaction)
        assert error.newer_epoch == error.epoch + 1


def test_a_gap_in_a_sequence(log):
    """What is missing."""
    producer = log.native.init_producer(None, now_ms=0)
    log.native.append([("one", 0, 0, [b"a"])], now_ms=0, producer=producer)
    error = raised(
        OutOfOrderSequenceError, lambda: log.native.append([("one", 0, 5, [b"b"])], now_ms=0, producer=producer)
    )
    assert (error.expected, error.got) == (1, 5)


def test_a_member_that_is_none(log):
    """Whom the group goes on without."""
    error = raised(UnknownMemberError, lambda: log.native.heartbeat("g", "m", now_ms=0))
    assert (error.group, error.member) == ("g", "m")


def test_a_log_that_is_held(log, tmp_path):
    """Which process to look at."""
    (path,) = tmp_path.rglob("commit.lock")
    log.create_topic("two")
    with path.open() as file, Producer(log) as producer:
        fcntl.flock(file, fcntl.LOCK_EX)
        error = raised(LogTimeoutError, lambda: producer.produce_many("one", [b"v"]))
        fcntl.flock(file, fcntl.LOCK_UN)
    assert error.pid == os.getpid()


# ---- the state directory -------------------------------------------------------------------------


def test_a_directory_that_is_owned(state):
    """Which process owns it."""
    with StateBackend.open(state):
        assert raised(StoreLockedError, lambda: StateBackend.open(state)).pid == os.getpid()
        command = [
            "import sys; from onceflow._native import StateBackend; from onceflow.exceptions import StoreLockedError",
            "try: StateBackend.open(sys.argv[1])",
            "except StoreLockedError as error: print(error.pid)",
        ]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(command), state], capture_output=True, text=True, check=True
        )
        assert int(done.stdout) == os.getpid()


def test_a_directory_that_was_taken_over(state):
    """Which epoch this process had, and which one has it now."""
    with StateBackend.open(state) as backend:
        epoch = backend.job_epoch
        code = "import sys; from onceflow._native import StateBackend; StateBackend.open(sys.argv[1], take_over=True)"
        subprocess.run([sys.executable, "-c", code, state], check=True)
        error = raised(FencedError, lambda: backend.checkpoint().wait())
    assert (error.epoch, error.newer_epoch) == (epoch, epoch + 1)


def test_a_checkpoint_that_is_none(state):
    """Which one was asked for: a number or a savepoint."""
    with StateBackend.open(state) as backend:
        assert raised(CheckpointNotFoundError, lambda: backend.delete_checkpoint(7)).checkpoint == 7
        backend.checkpoint().wait()
    assert raised(CheckpointNotFoundError, lambda: StateBackend.open(state, resume_from=7)).checkpoint == 7


# ---- jobs ----------------------------------------------------------------------------------------


def test_a_column_that_is_not_there():
    """Which name was asked for."""
    error = raised(UnknownNameError, lambda: of.Columns({"a": np.array([1])})["b"])
    assert error.name == "b"


def test_a_step_that_cannot_keep_the_guarantee(state):
    """Which step to change."""
    flow = of.Dataflow("plain")
    flow.source("numbers", TestingSource([1])).sink("out", Broken())
    error = raised(DeliveryGuaranteeError, lambda: of.run(flow, state))
    assert (error.guarantee, error.step_id) == ("exactly_once", "out")


def test_a_function_that_fails(state):
    """Which step's."""
    flow = of.Dataflow("fails")
    flow.source("numbers", TestingSource([0])).map(lambda number: 1 // number).sink("out", TransactionalTestingSink())
    assert raised(UserFunctionError, lambda: of.run(flow, state)).step_id


def test_a_record_that_does_not_parse(state, tmp_path):
    """Where it is, and what it says."""
    (tmp_path / "in.csv").write_text("n\n1\nx\n")
    flow = of.Dataflow("malformed")
    flow.source("rows", CsvSource(tmp_path / "in.csv", types={"n": "int"})).sink("out", TransactionalTestingSink())
    error = raised(MalformedRecordError, lambda: of.run(flow, state))
    assert (error.step_id, error.partition, error.position) == ("rows", str(tmp_path / "in.csv"), 3)
    assert "x" in error.text


def test_input_that_changed(state, tmp_path):
    """How far it had been read."""
    path = tmp_path / "in.csv"
    path.write_text("n\n" + "1\n" * 100)

    def run(fail):
        def step(row):
            if fail and row["n"] == 2:
                raise ValueError("on purpose")
            return row

        flow = of.Dataflow("changed")
        flow.source("rows", CsvSource(path)).map(step).sink("out", CsvSink(tmp_path / "out"))
        of.run(flow, state, batch_size=10, checkpoint_interval_s=0.001)

    path.write_text("n\n" + "1\n" * 5000 + "2\n")
    with pytest.raises(UserFunctionError):
        run(fail=True)
    size = path.stat().st_size
    path.write_text("n\n")
    error = raised(SourceChangedError, lambda: run(fail=False))
    assert (error.step_id, error.partition) == ("rows", str(path))
    assert 2 < error.position <= size


def test_a_source_and_a_sink_of_a_users(state):
    """Which of them failed with an error of its own."""
    flow = of.Dataflow("source")
    flow.source("numbers", TestingSource([1])).sink("out", Broken())
    assert raised(SinkError, lambda: of.run(flow, state, guarantee="at_least_once")).step_id == "out"
    flow = of.Dataflow("missing")
    flow.source("rows", CsvSource("nowhere.csv")).sink("out", TransactionalTestingSink())
    assert raised(SourceError, lambda: of.run(flow, state.with_name("other"))).step_id == "rows"


def test_a_step_that_is_gone(state):
    """Which steps' state would be lost."""

    def flow(name):
        flow = of.Dataflow("steps")
        source = flow.source("numbers", TestingSource([1, 2]))
        keyed = source.key_by(lambda n: n)
        (source if name is None else keyed.aggregate(name, n=of.count())).sink("out", TransactionalTestingSink())
        return flow

    of.run(flow("totals"), state)
    error = raised(DataflowChangedError, lambda: of.run(flow(None), state, resume_from=1))
    assert error.step_ids == ("totals",)
    assert error.on_change == {"totals": "drop"}


# ---- bounds, settings and steps that do not fit -----------------------------------------------------


def test_a_bound_that_would_be_passed(state, log):
    """Which setting to raise, and how far."""
    with StateBackend.open(state, max_state_bytes=1 << 16) as backend:
        table = backend.table("t", key="i64", columns={"n": "i64"})
        keys = np.arange(100_000)
        error = raised(CapacityExceededError, lambda: table.put(keys, n=keys))
        assert (error.setting, error.limit) == ("max_state_bytes", 1 << 16)
        assert error.needed > error.limit
    dedupe = Deduplicator(max_producers=2)
    error = raised(CapacityExceededError, lambda: dedupe.check_many([1, 2, 3], [0, 0, 0], [0, 0, 0], [0, 0, 0]))
    assert (error.setting, error.needed, error.limit) == ("max_producers", 3, 2)
    aligner = BarrierAligner(2, max_buffered_bytes=1000)
    aligner.barrier(0, 1, created_s=0.0, now_s=0.0)
    error = raised(CapacityExceededError, lambda: aligner.receive(0, "x", size_bytes=5000))
    assert (error.setting, error.limit) == ("max_buffered_bytes", 1000)
    assert error.needed > 5000


def test_a_directory_of_another_job(state, tmp_path):
    """What it holds instead: a tool that opens whatever it finds."""
    StateBackend.open(state, job="mine", key_groups=16).close()
    error = raised(StoreMismatchError, lambda: StateBackend.open(state, job="other"))
    assert (error.setting, error.stored, error.given) == ("job", "mine", "other")
    error = raised(StoreMismatchError, lambda: StateBackend.open(state, job="mine", key_groups=32))
    assert (error.setting, error.stored, error.given) == ("key_groups", "16", "32")
    error = raised(StoreMismatchError, lambda: Log.open(state))
    assert error.setting == "kind"


def test_a_directory_of_a_newer_version(state):
    """How new a version is needed."""
    StateBackend.open(state).close()
    path = state / "manifest.json"
    manifest = json.loads(path.read_text())
    newest, manifest["format"] = manifest["format"], 99
    path.write_text(json.dumps(manifest))
    error = raised(StoreFormatError, lambda: StateBackend.open(state))
    assert (error.version, error.newest) == (99, newest)


def test_a_checkpoint_that_is_in_another_state(state):
    """Which one it is about."""
    with StateBackend.open(state) as backend:
        pending = backend.begin_checkpoint()
        assert raised(CheckpointStateError, pending.wait).checkpoint == pending.id
        pending.abort()
        assert raised(CheckpointStateError, lambda: pending.put_blob("b", b"")).checkpoint == pending.id
        newest = backend.checkpoint().wait().id
        assert raised(CheckpointStateError, lambda: backend.delete_checkpoint(newest)).checkpoint == newest
    coordinator = CheckpointCoordinator(["task"], ["sink"])
    coordinator.trigger(3, now_s=0.0)
    assert raised(CheckpointStateError, lambda: coordinator.trigger(2, now_s=0.0)).checkpoint == 2
    assert raised(CheckpointStateError, lambda: coordinator.acknowledge("task", 4, now_s=0.0)).checkpoint == 4
    assert raised(CheckpointStateError, lambda: coordinator.prepared("sink", 3)).checkpoint == 3


def test_a_generation_that_is_over(log):
    """Which one the member is to take up."""
    log.native.join_group("g", "m", ["one"], now_ms=0)
    generation, _ = log.native.join_group("g", "other", ["one"], now_ms=0)
    generation, _ = log.native.sync_group("g", "m", generation - 1, now_ms=0)
    error = raised(IllegalGenerationError, lambda: log.native.sync_group("g", "m", generation - 1, now_ms=0))
    assert (error.group, error.member) == ("g", "m")
    assert (error.generation, error.current_generation) == (generation - 1, generation)
    owner, foreign = ("m", "other") if ("one", 0) in log.native.groups()[0].members[0].partitions else ("other", "m")
    error = raised(
        IllegalGenerationError,
        lambda: log.native.commit_offsets("g", [("one", 0, 0, "")], now_ms=0, member=foreign, generation=generation),
    )
    assert owner != error.member == foreign
    assert error.generation == error.current_generation == generation


def test_records_that_are_too_old(log):
    """Their sequence; nothing that would have followed is to blame."""
    producer = log.native.init_producer(None, now_ms=0)
    for sequence in range(7):
        log.native.append([("one", 0, sequence, [b"a"])], now_ms=0, producer=producer)
    error = raised(
        OutOfOrderSequenceError, lambda: log.native.append([("one", 0, 0, [b"a"])], now_ms=0, producer=producer)
    )
    assert (error.expected, error.got) == (None, 0)


def test_an_argument_that_cannot_be(state, log):
    """Which one, of a program that was given all of them by somebody else."""
    flow = of.Dataflow("settings")
    flow.source("numbers", TestingSource([1])).sink("out", TransactionalTestingSink())
    assert raised(ConfigurationError, lambda: of.run(flow, state, batch_size=0)).setting == "batch_size"
    assert raised(ConfigurationError, lambda: of.run(flow, state, guarantee="twice")).setting == "guarantee"
    assert raised(ConfigurationError, lambda: Producer(log, max_buffered_bytes=0)).setting == "max_buffered_bytes"
    assert raised(ConfigurationError, lambda: Deduplicator(window=0)).setting == "window"
    of.run(flow, state, batch_size=10)
    error = raised(ConfigurationError, lambda: of.run(flow, state, batch_size=20))
    assert (error.setting, error.stored) == ("batch_size", 10)


def test_a_job_that_was_replaced_in_its_log(log, tmp_path):
    """Which epoch writes there now: known from the marker, where only the producer was refused."""

    def opened(epoch):
        return LogSink(log, "one").open(SinkContext("job", "out", epoch, 1, run=f"run {epoch}"))

    older = opened(3)
    older.recover([])
    older.write([b"1"])
    sealed = older.seal(1)
    decided = Committable(1, older.prepare(1, sealed))
    producer = older._destination._producer
    newer = opened(4)
    newer.recover([])
    older._destination._producer = producer

    def commit():
        with older._destination._errors():
            producer.begin_transaction(now_ms=0)
            producer.produce("one", [b"v"], now_ms=0)
            producer.commit_transaction(now_ms=0)

    error = raised(FencedError, commit)
    assert (error.epoch, error.newer_epoch) == (3, 4)
    error = raised(FencedError, lambda: older.commit(decided))
    assert (error.epoch, error.newer_epoch) == (3, 4)


class Broken(PlainSink):
    """A sink whose client fails."""

    def open(self, context):
        return BrokenWriter()


class BrokenWriter(SinkWriter):
    def write(self, records):
        raise OSError("the disk is gone")

    def flush(self):
        pass
