"""Several runs that divide a topic of the embedded log among them: one result, through kills, copies and mistakes."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import sqlite3
import time
from datetime import timedelta
from functools import partial

import msgspec
import psycopg
import pytest
from lives import Life, no_survivors
from numbered import check_totals, key_of, value_of

import onceflow as of
from onceflow import Log, Producer
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.log import LogSink, LogSource
from onceflow.connectors.postgres import PostgresSink
from onceflow.connectors.sql import SqlSink
from onceflow.connectors.topics.share import Share
from onceflow.exceptions import (
    ConfigurationError,
    SinkError,
    SourceChangedError,
    SourceError,
    StoreLockedError,
    UserFunctionError,
)
from onceflow.runtime import growth
from onceflow.windows import Tumbling

COUNT, PARTITIONS, KEYS = 3, 5, 20


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    """Lives are forked, so they have it too."""
    monkeypatch.setattr(growth, "_EVERY_S", 0.02)
    with no_survivors():
        yield


@pytest.fixture
def log(tmp_path):
    with Log.open(tmp_path / "log") as log:
        log.create_topic("numbers", partitions=PARTITIONS)
        log.create_topic("totals", partitions=1)
    return tmp_path / "log"


def write(log, first, last, **where):
    with Log.open(log) as opened, Producer(opened) as producer:
        for n in range(first, last):
            producer.produce("numbers", value_of(n, KEYS), key=key_of(n, KEYS).encode(), **where)


def records(log, topic="totals"):
    with Log.open(log, read_only=True) as opened:
        found = []
        for partition in range(opened.native.topic(topic).partitions):
            place, end = 0, opened.native.partition(topic, partition).end
            while place < end:
                batch = opened.native.fetch(topic, partition, place, max_records=10_000)
                found += map(msgspec.json.decode, batch.values)
                place = batch.next_offset
    return found


def flow_of(log, *, follow=False, keyed=True, files=None, out="totals", **arguments):
    flow = of.Dataflow("numbers")
    source = LogSource(log, "numbers", decode="json", stop_at_end=not follow, partitioned_by="key", **arguments)
    numbers = flow.source("in", source)
    if files is not None:
        numbers.sink("files", JsonLinesSink(files))
    if keyed:
        numbers = numbers.key_by("key").aggregate("totals", total=of.sum("n"), count=of.count())
    numbers.sink("out", LogSink(log, out, partitions=1))
    return flow


def run(root, index, count=COUNT, *, state=None, until="end", take_over=False, **arguments):
    flow = flow_of(root / "log", **arguments)
    state = root / (state or f"state-{index}")
    of.run(
        flow,
        state=state,
        instance=(index, count),
        checkpoint_interval_s=0.02,
        batch_size=50,
        until=until,
        take_over=take_over,
    )


def check(log, last):
    check_totals(records(log), last, KEYS)


def test_together_they_have_all_of_it(log, tmp_path):
    """Kind: a partition that two runs read, or none; in the same topic nobody's output is taken for another's."""
    write(log, 0, 1000)
    for index in range(COUNT):
        run(tmp_path, index, files=tmp_path / "files")
    check(log, 1000)
    lines = [read_parts(tmp_path / "files" / f"instance-{index}of{COUNT}") for index in range(COUNT)]
    seen = [{msgspec.json.decode(line)["n"] for line in one.splitlines()} for one in lines]
    assert sorted(n for one in seen for n in one) == list(range(1000))


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_beside_each_other(log, tmp_path, seed):
    """Kind: what one of them leaves, another one takes for its own, or aborts."""
    moments = random.Random(seed)
    write(log, 0, 2000)
    lives = {index: Life(partial(run, tmp_path, index, files=tmp_path / "files")) for index in range(COUNT)}
    for _ in range(12):
        index = moments.randrange(COUNT)
        life = lives[index]
        life.step(moments.uniform(0, 0.15))
        if life.kill() == "killed":
            lives[index] = Life(partial(run, tmp_path, index, files=tmp_path / "files"))
    for life in lives.values():
        assert life.wait() == "done", life.error
    check(log, 2000)


def lower(record):
    record["key"] = record["key"].lower()
    return True


def drop(record):
    del record["key"]
    return True


CHANGING = {
    "filter": lambda s: s.filter(lower),
    "filter_batch": lambda s: s.filter_batch(lambda batch: [lower(record) for record in batch]),
    "inspect": lambda s: s.inspect(lower),
    "event times": lambda s: s.assign_timestamps("times", lambda record: float(lower(record))),
    "far before": lambda s: s.filter(lower).filter(bool).drop_duplicates("once", ["key", "n"], horizon=timedelta(1)),
    "a union": lambda s: s.union(s.filter(lower)),
}


def counted(log, steps, out):
    flow = of.Dataflow("changed")
    numbers = steps(flow.source("in", LogSource(log, "numbers", decode="json", partitioned_by="key")))
    numbers.key_by("key").aggregate("totals", count=of.count(), emit="final").sink(
        "out", LogSink(log, out, partitions=1)
    )
    return flow


def write_names(log):
    """Keys whose lower case lies in another partition of another instance, and one that stays with its own."""
    with Log.open(log) as opened, Producer(opened) as producer:
        for n, key in enumerate(["a", "b", "A", "B", "C", "D", "E", "F"] * 4):
            producer.produce("numbers", msgspec.json.encode({"n": n, "key": key}), key=key)


@pytest.mark.parametrize("how", CHANGING)
def test_a_function_that_changes_the_key(log, tmp_path, how):
    """Kind: a filter "normalises" the key of what it is given, and a key has a part of its count in each of two runs,
    without a word. A run that is all of the job is not concerned."""
    write_names(log)
    refused = 0
    for index in range(2):
        try:
            of.run(counted(log, CHANGING[how], "parts"), state=tmp_path / f"{index}", instance=(index, 2))
        except UserFunctionError as error:
            refused += 1
            assert error.step_id in ("totals", "once")
            assert re.search(
                rf"has the key b'[a-f]' here, and had another one .* is that of instance {1 - index}/2, "
                rf"and this run is {index}/2. A function of step '.*decode=",
                str(error),
            )
    assert refused
    of.run(counted(log, CHANGING[how], "whole"), state=tmp_path / "whole")
    assert {total["key"] for total in records(log, "whole")} <= set("abcdefABCDEF")


def test_a_function_that_takes_the_key_away(log, tmp_path):
    """Kind: a check that falls over what it checks."""
    write_names(log)
    with pytest.raises(UserFunctionError, match=r"step 'totals': .*has no such field.*step 'filter-1'"):
        of.run(counted(log, lambda s: s.filter(drop), "parts"), state=tmp_path / "0", instance=(0, 2))


def test_a_key_that_stays_with_its_instance_may_be_changed(log, tmp_path):
    """Kind: a refusal of what is right. All of the partitions are one instance's."""
    write_names(log)
    of.run(counted(log, lambda s: s.filter(lower), "parts"), state=tmp_path / "0", instance=(0, 1))
    of.run(counted(log, lambda s: s.filter(lower), "whole"), state=tmp_path / "whole")
    assert sorted(map(str, records(log, "parts"))) == sorted(map(str, records(log, "whole")))


@pytest.mark.parametrize("how", ["no function", "not divided"])
def test_nothing_is_checked_twice_without_a_reason(log, tmp_path, monkeypatch, how):
    """Kind: each record is hashed once more where nothing can have changed it."""
    monkeypatch.setattr(Share, "check_unchanged", lambda *_: pytest.fail("checked"))
    write_names(log)
    steps, instance = (lambda s: s, (0, 2)) if how == "no function" else (lambda s: s.filter(bool), None)
    of.run(counted(log, steps, "parts"), state=tmp_path / "0", instance=instance)


def test_until_caught_up(log, tmp_path):
    """Kind: an end that is another one's. Each run ends at the ends of its own partitions, and goes on there."""
    for day in range(3):
        write(log, day * 300, day * 300 + 300)
        for index in range(COUNT):
            run(tmp_path, index, until="caught_up")
        check(log, day * 300 + 300)


@pytest.mark.usefixtures("crash_points")
@pytest.mark.parametrize(
    "point", ["log.pre_append:3", "sink.post_prepare:2", "recover.pre_commit:1", "log.pre_fence:1"]
)
def test_one_that_was_replaced_and_wakes(log, tmp_path, point):
    """Kind: a paused instance writes beside its successor; and what shuts it out shuts out the others as well."""
    write(log, 0, 500)
    others = [Life(partial(run, tmp_path, index, follow=True)) for index in (0, 2)]
    paused = Life(partial(run, tmp_path, 1, follow=True), STOP_AT=point)
    # A bit at a time, so that there are several checkpoints.
    last, until = 500, time.monotonic() + 120
    while paused.step(0.1) != "stopped":
        assert paused.end is None, paused.error
        assert time.monotonic() < until
        write(log, last, last + 50)
        last += 50
    write(log, last, last + 100)
    last += 100
    successor = Life(partial(run, tmp_path, 1, follow=True, take_over=True))
    assert successor.step(0.5) is None, successor.error
    paused.wake()
    assert paused.wait(120) == "FencedError"
    until = time.monotonic() + 120
    while sum({total["key"]: total["count"] for total in records(log)}.values()) < last:
        for life in (*others, successor):
            assert life.step(0.01) is None, life.error
        assert time.monotonic() < until
    check(log, last)


# -- mistakes --------------------------------------------------------------------------------------


def test_one_index_twice(log, tmp_path):
    """Kind: two runs of one share. With one state the second stays outside; with another state it is refused by what
    the first has written, before it writes."""
    write(log, 0, 100)
    first = Life(partial(run, tmp_path, 0, follow=True))
    until = time.monotonic() + 120
    while not records(log):
        assert first.step(0.02) is None, first.error
        assert time.monotonic() < until
    with pytest.raises(StoreLockedError):
        run(tmp_path, 0, follow=True)
    with pytest.raises(SinkError, match="'numbers@0of3' with another state directory"):
        run(tmp_path, 0, state="another", follow=True)
    assert first.step(0.2) is None, first.error
    # And files, and with the first one gone.
    first.kill()
    run(tmp_path, 1, files=tmp_path / "files", keyed=False)
    with pytest.raises(SinkError, match="with another state directory"):
        run(tmp_path, 1, state="another-1", files=tmp_path / "files", keyed=False)


def test_an_older_copy_of_one_state(log, tmp_path):
    """Kind: one instance's state is put back from a copy, beside others that go on."""
    write(log, 0, 500)
    for index in range(COUNT):
        run(tmp_path, index, until="caught_up")
    shutil.copytree(tmp_path / "state-1", tmp_path / "copy")
    write(log, 500, 1000)
    for index in range(COUNT):
        run(tmp_path, index, until="caught_up")
    shutil.rmtree(tmp_path / "state-1")
    (tmp_path / "copy").rename(tmp_path / "state-1")
    for _ in range(2):
        with pytest.raises(SinkError, match="the state is older than its output"):
            run(tmp_path, 1, until="caught_up")
    write(log, 1000, 1100)
    run(tmp_path, 0, until="caught_up")
    run(tmp_path, 2, until="caught_up")


def test_another_index_or_count_on_a_state(log, tmp_path):
    """Kind: state of keys that another share has now."""
    write(log, 0, 100)
    run(tmp_path, 0, until="caught_up")
    with pytest.raises(
        ConfigurationError, match=r"state of instance 0/3 of job 'numbers', and this run is instance 1/3"
    ):
        run(tmp_path, 1, state="state-0")
    for index, count in ((0, 4), (0, 1)):
        with pytest.raises(ConfigurationError, match=r"the number of instances cannot be changed"):
            run(tmp_path, index, count, state="state-0")
    with pytest.raises(ConfigurationError, match=r"instance 0/3 of job 'numbers', and this run is all of the job"):
        of.run(flow_of(log), state=tmp_path / "state-0")
    of.run(flow_of(log, out="whole"), state=tmp_path / "whole", until="caught_up", resume_from="none")
    with pytest.raises(ConfigurationError, match="state of a run that is all of the job"):
        run(tmp_path, 0, state="whole")


@pytest.fixture(params=["log", "sqlite", "postgres"])
def sink(request, log, tmp_path):
    """Of targets that keep markers; and whether all of a job looks for instances there."""
    match request.param:
        case "log":
            return LogSink(log, "totals"), True
        case "sqlite":
            path = tmp_path / "totals.db"
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("create table numbers (n integer, key text)")
            return SqlSink(f"sqlite:///{path}", "numbers"), False
    dsn = request.getfixturevalue("postgres_dsn")
    with psycopg.connect(dsn) as session:
        session.execute("create table numbers (n bigint, key text)")
    return PostgresSink(dsn, "numbers"), True


def test_other_counts_with_new_states(log, tmp_path, sink):
    """Kind: the number of instances is changed with new states, and each record is in the target twice."""
    sink, all_looks = sink
    write(log, 0, 100)

    def begin(name, instance):
        flow = of.Dataflow("numbers")
        flow.source("in", LogSource(log, "numbers", decode="json")).sink("out", sink)
        of.run(flow, state=tmp_path / name, instance=instance, until="caught_up")

    begin("a", (0, 3))
    begin("b", (1, 3))
    for _ in range(2):
        with pytest.raises(
            SinkError, match=r"is written by instance ./3 of job 'numbers', and this run is instance 1/4"
        ):
            begin("c", (1, 4))
    if all_looks:
        with pytest.raises(SinkError, match="and this run is all of the job"):
            begin("d", None)
    # Those that were there go on.
    begin("a", (0, 3))
    begin("e", (2, 3))


def test_files_of_other_counts(log, tmp_path):
    """Kind: the number of instances is changed with new states, and what is there is written again."""
    write(log, 0, 100)
    files = tmp_path / "files"
    run(tmp_path, 0, files=files, keyed=False)
    with pytest.raises(SinkError, match="in another way"):
        run(tmp_path, 0, 4, state="other", files=files, keyed=False)
    with pytest.raises(SinkError, match="in another way"):
        of.run(flow_of(log, files=files, out="whole"), state=tmp_path / "whole")
    of.run(flow_of(log, files=tmp_path / "all", out="all"), state=tmp_path / "all-state")
    with pytest.raises(SinkError, match="in another way"):
        run(tmp_path, 0, state="fresh", files=tmp_path / "all", keyed=False)


@pytest.mark.parametrize("value", [{"n": 1}, {"n": 1, "key": None}, {"n": 1, "key": 1.5}], ids=["no", "null", "float"])
def test_a_record_without_a_key(log, tmp_path, value):
    """Kind: what lies by no key is counted by whoever reads it."""
    with Log.open(log) as opened, Producer(opened) as producer:
        producer.produce("numbers", msgspec.json.encode(value), partition=0)
    with pytest.raises(SourceError, match="is said to be partitioned by 'key', and a record has"):
        run(tmp_path, 0)


def test_a_topic_that_is_not_partitioned_by_it(log, tmp_path):
    """Kind: a statement of the user's that is not true: each record is looked at, and none is in any state."""
    write(log, 0, 100)
    run(tmp_path, 0, until="caught_up")
    before = records(log)
    write(log, 100, 200, partition=0)
    with pytest.raises(
        SourceError, match=r"(?s)partition 0 of topic 'numbers' has a record whose key is b'k.*repartition"
    ):
        run(tmp_path, 0, until="caught_up")
    assert records(log) == before


# -- topics that grow, shares of nothing -------------------------------------------------------------


def test_a_topic_that_has_grown_and_is_read_by_key(log, tmp_path):
    """Kind: keys move to other partitions, and so to runs that do not have their state."""
    write(log, 0, 100)
    for index in range(COUNT):
        run(tmp_path, index, until="caught_up")
    following = Life(partial(run, tmp_path, 2, follow=True))
    following.step(0.3)
    with Log.open(log) as opened:
        opened.alter_topic("numbers", partitions=PARTITIONS + 1)
    assert following.wait() == "SourceChangedError"
    assert "had 5 before" in following.error
    # Also who gets none of the new ones.
    for index in range(COUNT):
        for _ in range(2):
            with pytest.raises(SourceChangedError, match=r"has 6 partitions, and had .*repartition through a topic"):
                run(tmp_path, index, until="caught_up")


def test_a_topic_that_grows_and_is_not_read_by_key(log, tmp_path):
    """Kind: a new partition that two runs take, or none."""
    lives = {index: Life(partial(run, tmp_path, index, follow=True, keyed=False)) for index in range(COUNT)}
    write(log, 0, 100)
    last = 100
    for partitions in (6, 7, 9):
        with Log.open(log) as opened:
            opened.alter_topic("numbers", partitions=partitions)
        for partition in range(PARTITIONS, partitions):
            write(log, last, last + 20, partition=partition)
            last += 20
        lives[partitions % COUNT].kill()
        lives[partitions % COUNT] = Life(partial(run, tmp_path, partitions % COUNT, follow=True, keyed=False))
    until = time.monotonic() + 120
    while len(records(log)) < last:
        assert time.monotonic() < until
        for life in lives.values():
            assert life.step(0.01) is None, life.error
    for life in lives.values():
        life.kill()
    assert sorted(record["n"] for record in records(log)) == list(range(last))


def test_a_share_without_partitions(log, tmp_path):
    """Kind: nothing to read is taken for an error, or for the end."""
    write(log, 0, 100)
    for index in (0, 1, 2, 3, 4, 5, 7):
        run(tmp_path, index, 8, until="caught_up")
    check(log, 100)
    # It has a checkpoint, and comes back to it.
    run(tmp_path, 7, 8, until="caught_up")
    run(tmp_path, 7, 8)
    waiting = Life(partial(run, tmp_path, 6, 8, follow=True, keyed=False))
    assert waiting.step(0.5) is None, waiting.error
    with Log.open(log) as opened:
        opened.alter_topic("numbers", partitions=7)
    write(log, 1000, 1010, partition=6)
    until = time.monotonic() + 120
    while len([record for record in records(log) if record.get("n", 0) >= 1000]) < 10:
        assert waiting.step(0.02) is None, waiting.error
        assert time.monotonic() < until


@pytest.mark.parametrize("begins", ["at the source", "at a step"])
def test_windows_beside_a_source_without_partitions(log, tmp_path, begins):
    """Kind: a share of nothing holds the windows of another source open for ever, or closes them all at once."""

    def time_of(record):
        return record["n"] * 3600

    times = {"event_time": time_of} if begins == "at the source" else {}

    def windows():
        flow = of.Dataflow("windows")
        few, many = (
            flow.source(name, LogSource(log, name, decode="json", partitioned_by="key", stop_at_end=False, **times))
            for name in ("few", "many")
        )
        if begins == "at a step":
            few, many = few.assign_timestamps("times-few", time_of), many.assign_timestamps("times-many", time_of)
        few.sink("few-out", LogSink(log, "rest", partitions=1))
        # Not where both meet: then they have as many partitions.
        daily = many.key_by("key").window("daily", Tumbling(days=1)).aggregate(total=of.sum("n"))
        daily.sink("out", JsonLinesSink(tmp_path / "days"))
        few.union(many).filter(bool).sink("all", JsonLinesSink(tmp_path / "all"))
        of.run(flow, state=tmp_path / "state", checkpoint_interval_s=0.02, instance=(1, 2))

    with Log.open(log) as opened:
        opened.create_topic("few", partitions=1)
        opened.create_topic("many", partitions=2)
        key = next(key for key in map(str, range(100)) if of._native.partition_of(key.encode(), 2) == 1)
        with Producer(opened) as producer:
            for n in range(100):
                producer.produce("many", msgspec.json.encode({"n": n, "key": key}), key=key.encode())
    life = Life(windows)
    days = tmp_path / "days" / "instance-1of2"
    until = time.monotonic() + 120
    while not days.exists() or read_parts(days).count(b"\n") < 4:
        assert life.step(0.02) is None, life.error
        assert time.monotonic() < until
    life.kill()


def test_the_parts_of_all_instances_are_read(tmp_path):
    """Kind: whoever reads the output of a divided job finds nothing, and no word."""
    for index in range(2):
        directory = tmp_path / f"instance-{index}of2"
        directory.mkdir()
        (directory / "part-0001-000000000001.csv").write_text(f"n\n{index}\n")
    assert read_parts(tmp_path) == b"n\n0\n1\n"
