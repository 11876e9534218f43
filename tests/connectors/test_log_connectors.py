"""What sets the log's source and sink apart: ends that are kept, input that is gone, topics that others write to."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
import warnings
from datetime import UTC, datetime

import msgspec
import pyarrow as pa
import pytest

import onceflow as of
import onceflow.runtime.held
from onceflow._native import Log, LogProducer, WakeHandle
from onceflow.clock import ManualClock
from onceflow.connectors.log import LogSink, LogSource, destination
from onceflow.connectors.outbox.writer import OutboxWriter
from onceflow.connectors.topics.staged import arrow_column
from onceflow.embed import StateBackend
from onceflow.exceptions import (
    ConfigurationError,
    FencedError,
    MalformedRecordError,
    ProducerFencedError,
    RepeatedOutputWarning,
    SinkError,
    SourceChangedError,
    SourceError,
)
from onceflow.log.log_time import LogTime
from onceflow.sinks import SinkContext
from onceflow.sources import SourceContext
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink

NOW_MS = 1_700_000_000_000


@pytest.fixture
def log(tmp_path):
    with Log.open(tmp_path / "log") as log:
        yield log


def produce(log, topic, values, **more):
    LogProducer(log, now_ms=NOW_MS).produce(topic, values, now_ms=NOW_MS, **more)


def values(log, topic, partition=0):
    return log.fetch(topic, partition, log.partition(topic, partition).start).values


def rest(source, partition="0", position=None):
    reader = source.open(partition, position)
    found = []
    while (batch := reader.read(2)) is not None:
        found += batch.records
    reader.close()
    return found


def context(job="job", sink="out", epoch=1, restored=None):
    return SinkContext(job, sink, job_epoch=epoch, lineage=1, restored_checkpoint=restored)


# -- the source ----------------------------------------------------------------------------------


def test_a_run_that_resumes_ends_where_the_first_one_would_have(log):
    log.create_topic("t")
    produce(log, "t", ["1", "2", "3"])
    source = LogSource(log, "t", decode="value")
    reader = source.open("0", None)
    assert reader.read(1).records == [b"1"]
    position = reader.position()
    produce(log, "t", ["4"])
    assert rest(source, position=position) == [b"2", b"3"]
    assert rest(source) == [b"1", b"2", b"3", b"4"]
    # The end of a position does not bind a source that follows, and one that follows gets its end when it shall stop.
    following = LogSource(log, "t", decode="value", stop_at_end=False).open("0", position)
    assert [following.read(10).records, following.read(10).records] == [[b"2", b"3", b"4"], []]
    produce(log, "t", ["5"])
    assert following.read(10).records == [b"5"]
    assert rest(source, position=following.position()) == []
    reader.close()
    following.close()


def test_records_with_all_their_fields(log):
    log.create_topic("t", partitions=2)
    produce(log, "t", ["v", None], keys=["k", None], headers=[{"h": b"1"}, None], partition=1, timestamps=[5, 6])
    assert rest(LogSource(log, "t"), "1") == [
        {"partition": 1, "offset": 0, "timestamp_ms": 5, "key": b"k", "value": b"v", "headers": [("h", b"1")]},
        {"partition": 1, "offset": 1, "timestamp_ms": 6, "key": None, "value": None, "headers": None},
    ]
    assert rest(LogSource(log, "t"), "0") == []
    batch = LogSource(log, "t", as_columns=True, event_time="timestamp").open("1", None).read(10)
    assert batch.event_times.tolist() == [5000, 6000]
    rows = batch.records.to_rows()
    assert rows[0] == {"partition": 1, "offset": 0, "timestamp_ms": 5, "key": b"k", "value": b"v"}


@pytest.mark.parametrize("when", ["open", "read"])
def test_records_that_retention_removed_are_missed(log, when):
    log.create_topic("t", retention_ms=1000)
    produce(log, "t", ["1"])
    produce(log, "t", ["2"])
    source = LogSource(log, "t")
    reader = source.open("0", None)
    reader.read(1)
    position = reader.position()
    produce(log, "t", ["3"], timestamps=NOW_MS + 10_000)
    while log.maintain(now_ms=NOW_MS + 10_000).more:
        pass
    with pytest.raises(SourceChangedError, match=r"retention has removed what is between.*start over"):
        reader.read(1) if when == "read" else source.open("0", position)
    reader.close()


def test_a_topic_that_was_made_anew_is_another_one(log):
    log.create_topic("t")
    produce(log, "t", ["1", "2"])
    source = LogSource(log, "t")
    reader = source.open("0", None)
    reader.read(1)
    log.delete_topic("t")
    log.create_topic("t")
    produce(log, "t", ["3", "4"])
    with pytest.raises(SourceChangedError, match="deleted and made again since"):
        source.open("0", reader.position())
    reader.close()


def test_what_cannot_be_read_is_said(tmp_path, log):
    with pytest.raises(SourceError, match="no log to read from"):
        LogSource(tmp_path / "none", "t").partitions()
    with pytest.raises(SourceError, match="t"):
        LogSource(log, "t").partitions()
    with pytest.raises(ConfigurationError, match="decode"):
        LogSource(log, "t", decode="yaml")
    with pytest.raises(ConfigurationError, match="as_columns"):
        LogSource(log, "t", decode="json", as_columns=True)
    with pytest.raises(ConfigurationError, match="event_time"):
        LogSource(log, "t", event_time="at")
    log.create_topic("t")
    with pytest.raises(SourceError, match="not a position"):
        LogSource(log, "t").open("0", 5)


def test_malformed_records(log):
    log.create_topic("t")
    produce(log, "t", ['{"at": 1}', "no json", '{"at": "never"}', '{"at": 2}'])

    def source(policy):
        return LogSource(log, "t", decode="json", event_time=lambda record: record["at"], on_malformed=policy)

    with pytest.raises(MalformedRecordError, match=r"0:1: .*no json"):
        source("fail").open("0", None).read(10)
    batch = source("skip").open("0", None).read(10)
    assert (batch.records, batch.skipped) == ([{"at": 1}, {"at": 2}], 2)
    assert batch.event_times.tolist() == [1_000_000, 2_000_000]
    batch = source("dead_letter").open("0", None).read(10)
    assert [(one.position, one.text) for one in batch.rejected] == [("0:1", "no json"), ("0:2", '{"at": "never"}')]


class CountingSource(LogSource):
    reads = 0

    def open_with_context(self, partition, position, context):
        reader = super().open_with_context(partition, position, context)
        read = reader.read

        def counted(max_records):
            self.reads += 1
            return read(max_records)

        reader.read = counted
        return reader


@pytest.mark.parametrize("others", [0, 1])
def test_a_job_that_follows_gets_what_comes_and_idles_cheaply(log, tmp_path, others):
    log.create_topic("t")
    log.create_topic("silent")
    sink = TransactionalTestingSink()
    flow = of.Dataflow("follow")
    source = CountingSource(log, "t", decode="value", stop_at_end=False)
    flow.source("in", source).sink("out", sink)
    for number in range(others):
        other = LogSource(log, "silent", stop_at_end=False)
        flow.source(f"other-{number}", other).sink(f"nothing-{number}", TransactionalTestingSink())
    state = {}

    def feed():
        time.sleep(0.2)
        before, reads = time.process_time(), source.reads
        time.sleep(0.5)
        state["busy"] = (time.process_time() - before) / 0.5
        state["reads"] = source.reads - reads
        for number in range(5):
            produce(log, "t", [str(number)])
        deadline = time.monotonic() + 10
        while len(sink.records) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    feeder = threading.Thread(target=feed)
    feeder.start()
    result = of.run(flow, tmp_path / "state", checkpoint_interval_s=0.02)
    feeder.join()
    assert not result.finished
    assert sink.records == [b"0", b"1", b"2", b"3", b"4"]
    assert state["busy"] < 0.5
    # Woken by nothing, it looks once a second.
    assert state["reads"] <= 2


def test_a_commit_wakes_who_reads_several_partitions(log):
    log.create_topic("t", partitions=2)
    source, handle = LogSource(log, "t", stop_at_end=False), WakeHandle()
    context = SourceContext(wake=handle)
    readers = {partition: source.open_with_context(partition, None, context) for partition in source.partitions()}
    while handle.wait(0.1):
        pass  # The topic was made.
    feeder = threading.Timer(0.1, produce, (log, "t", ["1"]), {"partition": 1})
    feeder.start()
    assert handle.wait(30.0)
    feeder.join()
    assert len(readers["1"].read(10).records) == 1
    assert len(readers["0"].read(10).records) == 0
    for reader in readers.values():
        reader.close()


# -- the sink --------------------------------------------------------------------------------------


def test_what_becomes_of_a_record(log, tmp_path):
    writer = LogSink(
        log,
        "t",
        partitions=1,
        key="id",
        value=lambda record: record["text"],
        timestamp="at",
        headers=lambda record: {"n": str(record["id"]).encode()},
    ).open(context())
    writer.recover([])
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    writer.write([{"id": 1, "text": "one", "at": moment}, {"id": 2, "text": None, "at": 7}])
    writer.commit(committed(writer, 1))
    found = log.fetch("t", 0, 0)
    assert (found.keys, found.values) == ([b"1", b"2"], [b"one", None])
    assert found.timestamps.tolist() == [1_704_067_200_000, 7]
    assert found.headers == [[("n", b"1")], [("n", b"2")]]


def committed(writer, checkpoint_id):
    return of.sinks.Committable(checkpoint_id, writer.prepare(checkpoint_id, writer.seal(checkpoint_id)))


def test_columns_stay_columns(log):
    log.create_topic("t")
    writer = LogSink(log, "t", key="k", value="v", timestamp="at").open(context())
    writer.recover([])
    texts = pa.array(["no", "a", None, "c"])[1:]
    writer.write(of.Columns({"k": pa.array([1, 2, 3]), "v": texts, "at": pa.array([5, 6, 7])}))
    assert writer.held == 3
    assert writer.held_bytes > 0
    writer.commit(committed(writer, 1))
    found = log.fetch("t", 0, 0)
    assert (found.keys, found.values, found.timestamps.tolist()) == ([b"1", b"2", b"3"], [b"a", None, b"c"], [5, 6, 7])
    assert writer.held == writer.held_bytes == 0


@pytest.mark.parametrize(
    ("options", "record", "error"),
    [
        ({"value": "text"}, {"id": 1}, "no field 'text' for its value"),
        ({"timestamp": "at"}, {"at": "noon"}, "no valid timestamp"),
        ({"partition": "at"}, {"at": -1}, "no valid partition"),
        ({"headers": "at"}, {"at": {"a": "text"}}, "no valid headers"),
        ({}, {"a": object()}, "cannot be a value"),
    ],
)
def test_records_that_the_log_cannot_hold(log, options, record, error):
    log.create_topic("t")
    writer = LogSink(log, "t", **options).open(context())
    with pytest.raises(SinkError, match=error):
        writer.write([record])


@pytest.mark.parametrize(
    ("options", "record", "error"),
    [({}, b"x" * 2000, "2000 bytes"), ({"partition": 5}, b"x", "partitions 0 to 0")],
)
def test_what_the_log_would_refuse_is_refused_before_the_decision(log, tmp_path, options, record, error):
    log.create_topic("t", max_record_bytes=1000)
    records = [b"good", EOF, record]

    def job():
        flow = of.Dataflow("job")
        flow.source("in", TestingSource(records, batch_size=1)).sink("out", LogSink(log, "t", **options))
        return flow

    if not options:
        assert not of.run(job(), tmp_path / "state").finished
    with pytest.raises(SinkError, match=error):
        of.run(job(), tmp_path / "state")
    assert values(log, "t") == ([b"good"] if not options else [])
    # The job is not stuck: with a way out for the record it goes on where it was.
    log.alter_topic(
        "t",
        partitions=6,
        retention_ms=None,
        retention_bytes=None,
        cleanup_policy="delete",
        delete_retention_ms=1000,
        max_record_bytes=3000,
    )
    while not of.run(job(), tmp_path / "state").finished:
        pass
    assert [value for partition in range(6) for value in values(log, "t", partition)] == [b"good", record]


def test_a_topic_must_exist_or_be_asked_for(log, tmp_path):
    with pytest.raises(SinkError, match="t"):
        LogSink(log, "t").open(context())
    with pytest.raises(SinkError, match="cannot be written"):
        LogSink(tmp_path / "none", "t").open(context())
    LogSink(log, "t", partitions=3).open(context()).close()
    LogSink(log, "t", partitions=5).open(context()).close()
    assert log.topic("t").partitions == 3
    with pytest.raises(ConfigurationError, match="key=5"):
        LogSink(log, "t", key=5)


@pytest.mark.parametrize("connector", [LogSink, LogSource])
@pytest.mark.parametrize("topic", [None, "", b"t", 5])
def test_what_is_no_name_of_a_topic_is_refused_where_it_is_given(log, connector, topic):
    """Kind: what is wrong is found when the job runs, by an error of another part."""
    with pytest.raises(ConfigurationError, match=r"topic=.*: give the name of a topic"):
        connector(log, topic)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        *(
            ({"partitions": number}, r"partitions is .*; give a whole number from 1 on")
            for number in (0, -1, True, 1.5)
        ),
        *(({"clock": clock}, r"clock is .*; give a Clock") for clock in (5, NOW_MS / 1000, LogSource)),
    ],
)
def test_wrong_settings_of_a_sink_are_refused_where_they_are_given(log, settings, said):
    """Kind: the same for its other settings."""
    with pytest.raises(ConfigurationError, match=said):
        LogSink(log, "t", **settings)


def job_into(log, records, topic="out"):
    flow = of.Dataflow("job")
    flow.source("in", TestingSource(records, batch_size=2)).sink("out", LogSink(log, topic, partitions=1))
    return flow


def test_a_job_that_starts_over_does_not_write_twice_unasked(log, tmp_path):
    of.run(job_into(log, [b"a", b"b"]), tmp_path / "state")
    for state, resume_from in ((tmp_path / "state", "none"), (tmp_path / "other", "newest")):
        with pytest.raises((SinkError, FencedError), match=r"group 'onceflow/job/out'"):
            of.run(job_into(log, [b"a", b"b"]), state, resume_from=resume_from)
    assert values(log, "out") == [b"a", b"b"]
    log.delete_topic("out")
    of.run(job_into(log, [b"a", b"b"]), tmp_path / "third")
    assert values(log, "out") == [b"a", b"b"]


def test_a_copy_of_the_state_does_not_go_unnoticed(log, tmp_path):
    records = [b"a", b"b", EOF, b"c", b"d"]
    of.run(job_into(log, records), tmp_path / "state")
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    assert of.run(job_into(log, records), tmp_path / "state").finished
    with pytest.raises(SinkError, match="another copy of the job's state"):
        of.run(job_into(log, [b"x", b"y", b"z", b"w"]), tmp_path / "copy")
    assert values(log, "out") == [b"a", b"b", b"c", b"d"]


def test_output_that_was_decided_goes_to_the_topic_it_was_decided_for(log):
    first = LogSink(log, "old", partitions=1)
    writer = first.open(context())
    writer.recover([])
    writer.write([b"1"])
    decided = committed(writer, 1)
    second = LogSink(log, "new", partitions=1).open(context(epoch=2, restored=1))
    second.recover([decided])
    assert (values(log, "old"), values(log, "new")) == ([b"1"], [])
    with pytest.raises(FencedError):
        writer.commit(decided)
    second.write([b"2"])
    second.commit(committed(second, 2))
    assert (values(log, "old"), values(log, "new")) == ([b"1"], [b"2"])
    # A topic that is gone takes with it what was decided for it.
    log.delete_topic("old")
    LogSink(log, "new").open(context(epoch=3, restored=2)).recover([decided])
    assert values(log, "new") == [b"2"]


def test_a_fenced_run_that_takes_the_id_while_waking_up_stops_and_the_new_one_goes_on(log):
    new = LogSink(log, "t", partitions=1).open(context(epoch=2))
    new.recover([])
    # What an old run does that was paused between its look at the marker and taking the transactional id.
    LogProducer(log, now_ms=NOW_MS, transactional_id="onceflow/job/out").init_transactions(now_ms=NOW_MS)
    new.write([b"1"])
    new.commit(committed(new, 1))
    assert values(log, "t") == [b"1"]


def test_many_held_bytes_bring_a_checkpoint(log, tmp_path, monkeypatch):
    monkeypatch.setattr(onceflow.runtime.held, "MAX_HELD_BYTES", 1_000_000)
    log.create_topic("t")
    records = [b"x" * 100_000] * 100
    done = []
    flow = of.Dataflow("job")
    flow.source("in", TestingSource(records, batch_size=5)).sink("out", LogSink(log, "t"))
    of.run(flow, tmp_path / "state", checkpoint_interval_s=1000, on_event=done.append)
    assert sum(isinstance(event, of.events.CheckpointCompleted) for event in done) >= 2
    assert log.partition("t", 0).records == 100


def test_the_marker_is_part_of_the_transaction(log, tmp_path):
    of.run(job_into(log, [b"a", b"b"]), tmp_path / "state")
    (group,) = [group for group in log.groups() if group.group == "onceflow/job/out"]
    ((place, (offset, note, _)),) = group.offsets.items()
    assert place == ("out", 0)
    assert json.loads(note)["checkpoint"] == offset == 1


# -- older copies (c) ---------------------------------------------------------------------------------


def numbered(log, topic="out"):
    """A job of eight records, one a run."""
    records = [item for number in range(8) for item in (b"%d" % number, EOF)][:-1]
    flow = of.Dataflow("job")
    flow.source("in", TestingSource(records, batch_size=1)).sink("out", LogSink(log, topic, partitions=1))
    return flow


def run_until(log, state, runs):
    for _ in range(runs):
        of.run(numbered(log), state)


@pytest.mark.parametrize("again", [1, 5])
def test_a_state_that_was_put_back_is_refused_at_every_attempt(log, tmp_path, again):
    """State older than its topic: the first attempt was refused, the automatic second one wrote duplicates."""
    state = tmp_path / "state"
    run_until(log, state, 2)
    shutil.copytree(state, tmp_path / "backup")
    for _ in range(again):
        of.run(numbered(log), state)
    written = values(log, "out")
    assert len(written) == 2 + again
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "backup", state)
    for _ in range(10):
        with pytest.raises((SinkError, FencedError), match="the state is older than its output"):
            of.run(numbered(log), state)
        assert values(log, "out") == written


def test_the_way_on_that_a_refused_state_is_told(log, tmp_path):
    """What the message advises: a new timeline on purpose, in which output is written again, and from then on once."""
    state = tmp_path / "state"
    run_until(log, state, 2)
    shutil.copytree(state, tmp_path / "backup")
    run_until(log, state, 2)
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "backup", state)
    with pytest.raises((SinkError, FencedError)) as told:
        of.run(numbered(log), state)
    number = int(re.search(r"resume_from=(\d+)", str(told.value)).group(1))
    with pytest.warns(
        RepeatedOutputWarning, match=rf"topic 'out' of .* after {number}, up to \d+, .*'out' writes it a"
    ):
        of.run(numbered(log), state, resume_from=number)
    while not of.run(numbered(log), state).finished:
        pass
    assert values(log, "out") == [b"0", b"1", b"2", b"3", *(b"%d" % each for each in range(2, 8))]


def test_the_ways_on_where_nothing_may_be_written_twice(log, tmp_path):
    """Kind: what was told for one sink was followed, and the topic beside it got its records twice without a word. As
    an error the warning stops the run with nothing changed; then the topic is deleted, and all is written once."""
    state = tmp_path / "state"
    run_until(log, state, 2)
    shutil.copytree(state, tmp_path / "backup")
    run_until(log, state, 2)
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "backup", state)
    with StateBackend.open(state, read_only=True) as backend:
        number = backend.checkpoints()[-1].id
    before = {group.group: dict(group.offsets) for group in log.groups()}
    for _ in range(2):
        with (
            warnings.catch_warnings(action="error", category=RepeatedOutputWarning),
            pytest.raises(SinkError, match=r"delete the topic, .* run the job once with resume_from='none'"),
        ):
            of.run(numbered(log), state, resume_from=number)
    assert {group.group: dict(group.offsets) for group in log.groups()} == before
    log.delete_topic("out")
    of.run(numbered(log), state, resume_from="none")
    while not of.run(numbered(log), state).finished:
        pass
    assert values(log, "out") == [b"%d" % each for each in range(8)]


def test_going_back_to_a_checkpoint_that_an_older_log_lacks(tmp_path):
    """Kind: a log that was put back was refused, but going back to a checkpoint that it does not know either was
    accepted, and what it lacked up to there was lost without a word."""
    state, log = tmp_path / "state", tmp_path / "log"
    first = of.run(numbered(log), state, retain=8).last_checkpoint
    shutil.copytree(log, tmp_path / "copy")
    numbers = [of.run(numbered(log), state, retain=8).last_checkpoint for _ in range(3)]
    shutil.rmtree(log)
    shutil.copytree(tmp_path / "copy", log)
    for number in numbers[:2]:
        with pytest.raises(SinkError, match=rf"had the output of checkpoint {number} .* up to {first} now") as caught:
            of.run(numbered(log), state, retain=8, resume_from=number)
    assert str(caught.value).endswith(f"to go on without what is lost, from {numbers[-1]}")
    of.run(numbered(log), state, retain=8, resume_from=first)
    while not of.run(numbered(log), state, retain=8).finished:
        pass
    with Log.open(log) as opened:
        assert values(opened, "out") == [b"%d" % each for each in range(8)]


def test_another_state_directory_is_refused_before_it_touches_anything(log, tmp_path):
    """A start by mistake with another state directory of the same job: the running job goes on as if nothing was."""
    state, other = tmp_path / "state", tmp_path / "other"
    run_until(log, state, 1)
    of.run(numbered(tmp_path / "log2"), other)
    before = {group.group: dict(group.offsets) for group in log.groups()}, log.producers()[0].producer_epoch
    for _ in range(3):
        with pytest.raises(SinkError, match="another state directory"):
            of.run(numbered(log), other)
    assert ({group.group: dict(group.offsets) for group in log.groups()}, log.producers()[0].producer_epoch) == before
    while not of.run(numbered(log), state).finished:
        pass
    assert values(log, "out") == [b"%d" % each for each in range(8)]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("behind", [1, 3])
def test_a_log_that_was_put_back_is_refused_or_exact(tmp_path, behind, killed):
    """A log older than the state: what it lacks was missing for ever, and what came after it was appended."""
    directory, state = tmp_path / "log", tmp_path / "state"
    run_until(directory, state, 2)
    shutil.copytree(directory, tmp_path / "backup")
    for number in range(behind):
        if killed and number == behind - 1:
            # The decision is durable, the commit never came.
            with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
                patch.setattr(OutboxWriter, "commit", _interrupted)
                of.run(numbered(directory), state)
        else:
            of.run(numbered(directory), state)
    shutil.rmtree(directory)
    shutil.copytree(tmp_path / "backup", directory)
    if behind == 1:
        # The newest decision has all that is missing.
        while not of.run(numbered(directory), state).finished:
            pass
        with Log.open(directory) as log:
            assert values(log, "out") == [b"%d" % each for each in range(8)]
        return
    for _ in range(10):
        with pytest.raises(SinkError, match="the log is older than the job's state"):
            of.run(numbered(directory), state)
        with Log.open(directory) as log:
            assert values(log, "out") == [b"0", b"1"]


def _interrupted(writer, committable):
    raise KeyboardInterrupt


def test_a_log_that_was_put_back_is_told_also_without_output_since(tmp_path):
    """The checkpoint keeps what the topic has, also where the newest decisions have no output for it."""
    directory, state = tmp_path / "log", tmp_path / "state"

    def job():
        flow = of.Dataflow("job")
        source = TestingSource([b"1", EOF, b"2", EOF, *([b"", EOF] * 4), b"3"], batch_size=1)
        flow.source("in", source).filter(bool).sink("out", LogSink(directory, "out", partitions=1))
        return flow

    of.run(job(), state)
    shutil.copytree(directory, tmp_path / "backup")
    for _ in range(4):
        of.run(job(), state)
    shutil.rmtree(directory)
    shutil.copytree(tmp_path / "backup", directory)
    for _ in range(3):
        with pytest.raises(SinkError, match="the log is older than the job's state"):
            of.run(job(), state)


@pytest.mark.parametrize("as_columns", [False, True])
def test_a_source_does_not_take_other_records_for_those_it_has_read(tmp_path, as_columns):
    """A log that was put back, and written to since, has other records at the same offsets."""
    directory = tmp_path / "log"
    with Log.open(directory) as log:
        log.create_topic("t")
        produce(log, "t", ["1", "2"])
    shutil.copytree(directory, tmp_path / "backup")
    with Log.open(directory) as log:
        produce(log, "t", ["3", "4"])
    source = LogSource(directory, "t", as_columns=as_columns)
    reader = source.open("0", None)
    assert len(reader.read(100).records) == 4
    position = reader.position()
    reader.close()
    # As it was: nothing is wrong.
    source.open("0", position).close()
    shutil.rmtree(directory)
    shutil.copytree(tmp_path / "backup", directory)
    with pytest.raises(SourceChangedError, match="older than the checkpoint"):
        source.open("0", position)
    with Log.open(directory) as log:
        produce(log, "t", ["5", "6", "7"])
    with pytest.raises(SourceChangedError, match="has another record than the one that was read"):
        source.open("0", position)
    # Positions of older versions have no digest, and no log.
    source.open("0", {"topic": position["topic"], "offset": 4, "end": 4}).close()


def test_a_source_resumes_where_compaction_has_removed_what_it_read_last(log):
    """The record whose digest a position has may be gone; then nothing can be told, and nothing is refused."""
    log.create_topic("t", cleanup_policy="compact")
    for number in range(3):
        LogProducer(log, now_ms=NOW_MS).produce("t", [b"%d" % number], keys=[b"k"], now_ms=NOW_MS)
    source = LogSource(log, "t", stop_at_end=False)
    reader = source.open("0", None)
    reader.read(2)
    position = reader.position()
    while log.maintain(now_ms=NOW_MS).more:
        pass
    again = source.open("0", position)
    assert [record["value"] for record in again.read(10).records] == [b"2"]
    again.close()
    reader.close()


def test_markers_and_output_of_an_older_version(log, tmp_path):
    """A state directory and a topic of the version before: its marker does not say lineage and state."""
    writer = LogSink(log, "t", partitions=1).open(context())
    writer.recover([])
    writer.write([b"1"])
    decided = committed(writer, 1)
    old = msgspec.msgpack.decode(decided.handle)[:5]
    old_handle = of.sinks.Committable(1, msgspec.msgpack.encode(old))
    writer.close()
    note = json.dumps({"job_epoch": 1, "run": old[2], "checkpoint": 0})
    log.commit_offsets("onceflow/job/out", [("t", 0, 0, note)], now_ms=NOW_MS)
    for epoch in (2, 3):
        again = LogSink(log, "t").open(context(epoch=epoch, restored=1))
        again.recover([old_handle])
        assert values(log, "t") == [b"1"]
    again.write([b"2"])
    again.commit(committed(again, 2))
    assert values(log, "t") == [b"1", b"2"]
    assert [again.applied(number) for number in (1, 2, 3)] == [True, True, False]


def test_what_a_checkpoint_of_an_older_version_keeps(log):
    """Kind: an output that was decided by the version before, which named no worker, is lost or written again."""
    log.create_topic("t")
    # Rows of bytes with keys and without, and an Arrow array; then what the topic had before, lineage and log.
    rows = [["Rows", [b"2", None]], ["Rows", [b"b", b"c"]], None, None, None]
    column = [["ArrowColumn", arrow_column(pa.array(["3"])).stream], None, [7], [None], 0]
    output = ["t", log.topic("t").number, "2f3a", NOW_MS, [rows, column], 1, 1, log.id]
    handle = of.sinks.Committable(2, msgspec.msgpack.encode(output))
    learnt = {"log": log.id, "topic": "t", "number": log.topic("t").number, "lineage": 1, "newest": 2}
    marker = {"job_epoch": 1, "run": "2f3a", "checkpoint": 1, "lineage": 1, "state": ""}
    log.commit_offsets("onceflow/job/out", [("t", 0, 1, json.dumps(marker))], now_ms=NOW_MS)
    for epoch in (2, 3):
        started = SinkContext("job", "out", epoch, 1, 2, 2, restored_state=learnt)
        writer = LogSink(log, "t").open(started)
        writer.recover([handle])
        found = log.fetch("t", 0, 0)
        assert (found.keys, found.values) == ([b"b", b"c", None], [b"2", None, b"3"])
        assert found.timestamps.tolist() == [NOW_MS, NOW_MS, 7]
    # It knows from that checkpoint what the topic had: one that has lost it is refused.
    for place in ("t", "u"):
        lost = {**learnt, "newest": 3, "topic": place}
        late = LogSink(log, "t").open(SinkContext("job", "out", 4, 1, 3, 3, restored_state=lost))
        if place == "u":
            late.recover([])
            continue
        with pytest.raises(SinkError, match=r"had the output of checkpoint 3 .* has it up to 2 now"):
            late.recover([])


# -- several workers ------------------------------------------------------------------------------------


def test_each_worker_has_an_id_and_a_marker_of_its_own(log):
    """Kind: the marker of one worker says that the output of another one is there; one producer fences the other."""
    contexts = [SinkContext("job", "out", 1, 1, worker=number, run="r") for number in (0, 11)]
    one, two = (LogSink(log, "t", partitions=1).open(each) for each in contexts)
    for writer in (one, two):
        writer.recover([])
    for number, (writer, value) in enumerate([(one, b"1"), (two, b"2"), (one, b"3"), (two, b"4")]):
        writer.write([value])
        writer.commit(committed(writer, 1 + number // 2))
    assert values(log, "t") == [b"1", b"2", b"3", b"4"]
    assert sorted(producer.transactional_id for producer in log.producers()) == [
        "onceflow/job/out",
        "onceflow/job/out/11",
    ]
    assert {group.group for group in log.groups()} == {"onceflow/job/out", "onceflow/job/out/11"}


@pytest.mark.parametrize("by", [1, 2])
def test_a_worker_that_takes_its_id_back_while_it_is_replaced_writes_nothing_twice(log, by):
    """Kind: the run that replaces it holds another worker's id, so nothing refuses what the old one has under way; it
    commits its own output, or that of another worker."""
    sink = LogSink(log, "t", partitions=1)
    workers = [sink.open(SinkContext("job", "out", 1, 1, worker=number, run="r1")) for number in (0, 1, 2)]
    for each in workers:
        each.recover([])
    workers[1].write([b"1"])
    decided = committed(workers[1], 1)
    newer = LogSink(log, "t").open(SinkContext("job", "out", 2, 1, 1, 1, run="r2"))
    write_markers, old = newer._destination._write_markers, workers[by]._destination
    commits = []

    def disturb(producer, checkpoints, before):
        if not commits:
            # It looks whether it may write, begins, and is paused before the end of its transaction.
            old._take_id()
            with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(destination, "crash_point", _pause)
                workers[by].commit(decided)
            commits.append(old._producer.commit_transaction)
        write_markers(producer, checkpoints, before)

    newer._destination._write_markers = disturb
    newer.recover([decided])
    with pytest.raises(ProducerFencedError):
        commits[0](now_ms=old._now_ms())
    assert values(log, "t") == [b"1"]
    # And afterwards: it takes the id back once more, and learns that it was replaced.
    old._take_id()
    with pytest.raises(FencedError):
        workers[by].commit(decided)
    assert values(log, "t") == [b"1"]


def test_a_worker_that_was_replaced_already_does_not_commit_what_is_not_taken_over_yet(log):
    """Kind: between the takeover of two workers the first one, woken, looks at the marker of the second one only."""
    sink = LogSink(log, "t", partitions=1)
    workers = [sink.open(SinkContext("job", "out", 1, 1, worker=number, run="r1")) for number in (0, 1, 2)]
    for each in workers:
        each.recover([])
    workers[2].write([b"1"])
    decided = committed(workers[2], 1)
    newer = LogSink(log, "t").open(SinkContext("job", "out", 2, 1, 1, 1, run="r2"))
    write_markers, woken = newer._destination._write_markers, []

    def disturb(producer, checkpoints, before):
        if ("t", 2) in checkpoints:
            woken.append(workers[1])
            workers[1]._destination._take_id()
            with pytest.raises(FencedError):
                workers[1].commit(decided)
        write_markers(producer, checkpoints, before)

    newer._destination._write_markers = disturb
    newer.recover([decided])
    assert (values(log, "t"), len(woken)) == ([b"1"], 1)


def _pause(name):
    assert name == "log.pre_append"
    raise KeyboardInterrupt


def test_a_worker_of_a_sink_is_not_taken_for_one_of_another_sink(log):
    """Kind: markers are found by the beginning of a name."""
    for job, sink in (("job", "out"), ("job", "out1"), ("job", "o")):
        writer = LogSink(log, "t", partitions=1).open(SinkContext(job, sink, 1, 1, worker=1))
        writer.recover([])
        writer.write([sink.encode()])
        writer.commit(committed(writer, 1))
    assert values(log, "t") == [b"out", b"out1", b"o"]


# -- lines at which a run may be replaced (a) -----------------------------------------------------------


def test_a_recovery_that_is_disturbed_goes_on(log):
    """A run that was replaced takes the id between the fence and the marker of its successor, and stops there."""
    first = LogSink(log, "t", partitions=1).open(context(epoch=1))
    first.recover([])
    first.write([b"1"])
    decided = committed(first, 1)
    second = LogSink(log, "t").open(context(epoch=2, restored=1))
    write_markers = second._destination._write_markers
    disturbed = []

    def disturb(producer, checkpoints, before):
        if not disturbed:
            disturbed.append(first)
            # What it had decided is still its to commit: its successor finds it there.
            first._destination._take_id()
            first.commit(decided)
        write_markers(producer, checkpoints, before)

    second._destination._write_markers = disturb
    second.recover([decided])
    assert values(log, "t") == [b"1"]
    with pytest.raises(FencedError):
        first.commit(decided)
    second.write([b"2"])
    second.commit(committed(second, 2))
    assert values(log, "t") == [b"1", b"2"]


def test_a_run_that_is_refused_has_changed_nothing(log):
    """Refused at ``open``: no epoch, no marker, no topic has changed by then."""
    newer = LogSink(log, "t", partitions=1).open(context(epoch=5))
    newer.recover([])
    before = log.producers()[0].producer_epoch, log.committed("onceflow/job/out", "t", 0)
    with pytest.raises(FencedError, match=r"epoch 5 .* this process has epoch 4"):
        LogSink(log, "t", partitions=1).open(context(epoch=4))
    with pytest.raises(FencedError, match=r"epoch 5 .* this process has epoch 4"):
        LogSink(log, "u", partitions=1).open(context(epoch=4))
    assert (log.producers()[0].producer_epoch, log.committed("onceflow/job/out", "t", 0)) == before
    assert [topic.name for topic in log.topics()] == ["t"]


def test_an_older_lineage_is_refused_whatever_its_epoch(log):
    """The fence is lineage first, then job epoch, and never falls."""
    newer = LogSink(log, "t", partitions=1).open(SinkContext("job", "out", job_epoch=3, lineage=2))
    newer.recover([])
    for epoch in (4, 40):
        with pytest.raises(FencedError, match="of lineage 2"):
            LogSink(log, "t").open(SinkContext("job", "out", job_epoch=epoch, lineage=1, restored_checkpoint=9))
    newer.write([b"1"])
    newer.commit(committed(newer, 10))
    assert values(log, "t") == [b"1"]


def test_a_sink_that_had_no_output_for_long_goes_on(log):
    """The transactional id of a job that had nothing to write for a week was forgotten, and its next commit failed."""
    clock = ManualClock(NOW_MS / 1000)
    writer = LogSink(log, "t", partitions=1, clock=clock).open(context())
    writer.recover([])
    for checkpoint, value in ((1, b"1"), (2, b"2")):
        writer.write([value])
        writer.commit(committed(writer, checkpoint))
        clock.advance(30 * 24 * 3600)
        log.maintain(now_ms=LogTime(log, clock).now_ms())
        assert log.producers() == []
    assert values(log, "t") == [b"1", b"2"]
    assert log.fetch("t", 0, 0).timestamps.tolist() == [NOW_MS, NOW_MS + 30 * 24 * 3600 * 1000]


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("_destination", "_take_ids"),
        ("_destination", "_take_id"),
        ("_destination", "standings"),
        ("_checks", "check_outputs"),
        ("_destination", "_write_markers"),
    ],
)
def test_a_recovery_that_was_stopped_replaced_and_woken_learns_that_it_was_fenced(log, part, line):
    """Stopped between any two of its steps: FencedError, as everywhere, and nothing has changed for the new run."""
    old = LogSink(log, "t", partitions=1).open(context(epoch=1))
    step = getattr(getattr(old, part), line)
    runs = []

    def woken(*arguments):
        if not runs:
            runs.append(LogSink(log, "t").open(context(epoch=2)))
            runs[0].recover([])
            runs[0].write([b"1"])
            runs[0].commit(committed(runs[0], 1))
        return step(*arguments)

    setattr(getattr(old, part), line, woken)
    with pytest.raises(FencedError):
        old.recover([])
    runs[0].write([b"2"])
    runs[0].commit(committed(runs[0], 2))
    assert values(log, "t") == [b"1", b"2"]


@pytest.mark.parametrize("deleted", ["topic", "group"])
def test_the_way_on_when_the_state_was_deleted(log, tmp_path, deleted):
    """What the message advises: without the topic the output begins anew, without the group it is written again."""
    state = tmp_path / "state"
    run_until(log, state, 2)
    shutil.rmtree(state)
    for _ in range(2):
        with pytest.raises(SinkError) as told:
            of.run(numbered(log), state)
    if deleted == "topic":
        log.delete_topic("out")
    else:
        eval(re.search(r"Log\.open\(.*?\)\.delete_group\(.*?\)", str(told.value)).group())
    while not of.run(numbered(log), state).finished:
        pass
    again = [b"%d" % each for each in range(8)]
    assert values(log, "out") == (again if deleted == "topic" else [b"0", b"1", *again])


def test_the_way_on_with_fresh(log, tmp_path):
    """The same for a start from nothing with the state that there is."""
    state = tmp_path / "state"
    run_until(log, state, 2)
    for _ in range(2):
        with pytest.raises(SinkError, match="starts from nothing") as told:
            of.run(numbered(log), state, resume_from="none")
    eval(re.search(r"Log\.open\(.*?\)\.delete_group\(.*?\)", str(told.value)).group())
    of.run(numbered(log), state, resume_from="none")
    while not of.run(numbered(log), state).finished:
        pass
    assert values(log, "out") == [b"0", b"1", *(b"%d" % each for each in range(8))]
