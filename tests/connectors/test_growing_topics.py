"""A topic of the embedded log gets partitions while a job follows it: their records come once, without a restart."""

from __future__ import annotations

import os
import random
import signal
import time

import msgspec
import pytest
from lives import Life, no_survivors
from numbered import GrowingNumbers

import onceflow as of
from onceflow import Log, Producer
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.log import LogSource
from onceflow.embed import StateBackend
from onceflow.events import CheckpointCompleted
from onceflow.exceptions import LateRecordsWarning
from onceflow.runtime import growth
from onceflow.runtime.job_record import JOB_BLOB, JobRecord
from onceflow.windows import Tumbling


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    """Lives are forked, so they have it too."""
    monkeypatch.setattr(growth, "_EVERY_S", 0.02)
    with no_survivors():
        yield


@pytest.fixture
def topic(tmp_path):
    """Writes numbers from the next one on, to each of the topic's partitions in turn."""
    with Log.open(tmp_path / "log") as log:
        log.create_topic("numbers", partitions=1)
    return Numbers(tmp_path)


class Numbers(GrowingNumbers):
    def put(self, partition, values):
        with Log.open(self.root / "log") as log, Producer(log) as producer:
            for value in values:
                producer.produce("numbers", value, partition=partition)

    def make_partitions(self):
        with Log.open(self.root / "log") as log:
            log.alter_topic("numbers", partitions=self.partitions)

    def await_all(self, life):
        def check_alive():
            assert life.step(0) is None, life.error

        super().await_all(check_alive)


def job(root, **arguments):
    flow = of.Dataflow("growing")
    numbers = flow.source("numbers", LogSource(root / "log", "numbers", decode="json", stop_at_end=False))
    numbers.sink("each", JsonLinesSink(root / "each"))
    numbers.key_by("key").aggregate("by-key", total=of.sum("n")).sink("totals", JsonLinesSink(root / "totals"))
    of.run(flow, state=root / "state", checkpoint_interval_s=0.02, **arguments)


def test_partitions_that_come_are_read_without_a_restart(topic, tmp_path):
    """Kind: what nobody looks for is lost to a job that runs for months: records of a new partition waited for the
    next run."""
    topic.write(20)
    life = Life(lambda: job(tmp_path))
    topic.await_all(life)
    for _ in range(3):
        topic.grow()
        topic.write(20)
        topic.await_all(life)
    life.kill()
    topic.check()


@pytest.mark.usefixtures("crash_points")
@pytest.mark.parametrize(
    "point",
    ["task.joined:1", "barrier.mid_inject:1", "task.post_snapshot:1", "decide.post_wait:1", "sink.pre_commit:1"],
)
def test_killed_around_a_partition_that_comes(topic, tmp_path, point):
    """Kind: a partition that is half in a checkpoint: with its records and without its position, or the other way."""
    topic.write(20)
    life = Life(lambda: job(tmp_path))
    topic.await_all(life)
    life.kill()
    # The next life knows one partition, and finds the other one, which has come with records in it.
    topic.grow()
    topic.write(20)
    assert (
        Life(lambda: job(tmp_path), CRASH_AT=point.replace("task.joined:1", "task.pre_snapshot:1")).wait() == "killed"
    )
    life = Life(lambda: job(tmp_path), CRASH_AT=point)
    # And one comes while it runs.
    if point.startswith("task.joined"):
        topic.await_all(life)
    topic.grow()
    topic.write(20)
    assert life.wait(120) == "killed"
    life = Life(lambda: job(tmp_path))
    topic.await_all(life)
    life.kill()
    topic.check()


def test_killed_at_random_while_partitions_come(topic, tmp_path):
    """Kind: the moment that nobody thought of."""
    moments = random.Random(5)
    for _ in range(8):
        life = Life(lambda: job(tmp_path))
        topic.write(10)
        topic.grow()
        topic.write(10)
        life.step(moments.uniform(0.0, 0.4))
        assert life.kill() == "killed"
    life = Life(lambda: job(tmp_path))
    topic.await_all(life)
    life.kill()
    topic.check()


@pytest.mark.usefixtures("crash_points")
def test_replaced_where_a_partition_has_just_come_and_woken(topic, tmp_path):
    """Kind: a run that was paused with a partition which its successor reads as well writes it a second time."""
    topic.write(20)
    paused = Life(lambda: job(tmp_path), STOP_AT="task.joined:1")
    topic.await_all(paused)
    topic.grow()
    topic.write(20)
    assert paused.step(120) == "stopped"
    successor = Life(lambda: job(tmp_path, take_over=True))
    topic.await_all(successor)
    paused.wake()
    assert paused.wait(120) == "FencedError"
    topic.grow()
    topic.write(20)
    topic.await_all(successor)
    successor.kill()
    topic.check()


@pytest.mark.parametrize("begins", ["at the source", "at a step"])
def test_windows_wait_for_a_partition_that_has_come(topic, tmp_path, begins):
    """Kind: event time goes on by the old partitions alone, and what the new one holds is late."""

    def time_of(record):
        return record["n"] * 3600

    def windows():
        flow = of.Dataflow("windows")
        times = {"event_time": time_of} if begins == "at the source" else {}
        source = LogSource(tmp_path / "log", "numbers", decode="json", stop_at_end=False, **times)
        numbers = flow.source("numbers", source)
        if begins == "at a step":
            numbers = numbers.assign_timestamps("times", time_of)
        daily = numbers.key_by("key").window("daily", Tumbling(days=1)).aggregate(total=of.sum("n"))
        daily.sink("out", JsonLinesSink(tmp_path / "each"))
        flow.late("daily").sink("late", JsonLinesSink(tmp_path / "late"))
        of.run(flow, state=tmp_path / "state", checkpoint_interval_s=0.02)

    life = Life(windows)
    topic.write(10)
    time.sleep(0.3)
    topic.grow()
    time.sleep(0.3)
    # Partition 0 goes on by days before anything is in partition 1; then that has the same days, hour by hour.
    for partition in (0, 1):
        with Log.open(tmp_path / "log") as log, Producer(log) as producer:
            for n in range(10 + partition, 240, 2):
                producer.produce("numbers", msgspec.json.encode({"n": n, "key": "k"}), partition=partition)
        time.sleep(0.5)
    until = time.monotonic() + 120
    # Of the first day one by key, of each of the eight others that are over one.
    while not (tmp_path / "each").exists() or read_parts(tmp_path / "each").count(b"\n") < topic.keys + 1 + 8:
        assert life.step(0.02) is None, life.error
        assert time.monotonic() < until, read_parts(tmp_path / "each")
    life.kill()
    assert read_parts(tmp_path / "late") == b""


def test_what_a_partition_holds_for_windows_that_are_closed_is_late_and_told(topic, tmp_path):
    """Kind: records of a partition that was found behind the end of their windows, dropped without a word, or taken
    into windows that are written a second time."""

    def windows():
        flow = of.Dataflow("windows")
        source = LogSource(
            tmp_path / "log", "numbers", decode="json", stop_at_end=False, event_time=lambda record: record["n"] * 3600
        )
        numbers = flow.source("numbers", source)
        daily = numbers.key_by("key").window("daily", Tumbling(days=1)).aggregate(count=of.count())
        daily.sink("out", JsonLinesSink(tmp_path / "each"))
        with pytest.warns(LateRecordsWarning, match="step 'daily': records come too late for their windows"):
            of.run(flow, state=tmp_path / "state", checkpoint_interval_s=0.02, on_event=stop)

    def stop(event):
        if isinstance(event, CheckpointCompleted) and event.records_in == 240 + 30 + 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def put(partition, *hours):
        topic.put(partition, [msgspec.json.encode({"n": n, "key": "k"}) for n in hours])

    put(0, *range(240))
    life = Life(windows)
    until = time.monotonic() + 60
    while not (tmp_path / "each").exists() or read_parts(tmp_path / "each").count(b"\n") < 9:
        assert life.step(0.02) is None, life.error
        assert time.monotonic() < until
    before = read_parts(tmp_path / "each")
    topic.grow()
    # Of the first days, which are closed, and one of a day that is open.
    put(1, *range(30), 239)
    assert life.wait(60) == "done", life.error
    assert read_parts(tmp_path / "each") == before
    assert late_in(tmp_path / "state") == {"daily": 30}


def late_in(state):
    with StateBackend.open(state, read_only=True, create=False, resume_from="none") as backend:
        return JobRecord.decode(backend.checkpoints()[-1].blobs[JOB_BLOB]).late
