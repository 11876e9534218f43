"""Bad surroundings of a log: files put back from older copies, links and pipes in the place of files, arguments that
cannot be."""

from __future__ import annotations

import os
import shutil

import pytest
from processes import Program

from onceflow.clock import SystemClock
from onceflow.exceptions import ConfigurationError, OnceflowError, StoreCorruptError
from onceflow.log import Consumer, Log, Producer, TopicPartition
from onceflow.log.log_time import LogTime

# -- older copies of the data file (c) -------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["closed", "killed"])
def test_a_data_file_that_was_put_back_is_refused(directory, tmp_path, start, ending):
    """A log whose file is an older copy opened with 100 of 200 acknowledged records: bounds keep up with commits."""
    with Log.open(directory, upkeep_interval_s=None) as log:
        log.create_topic("t")
        with Producer(log) as producer:
            for number in range(100):
                producer.produce_many("t", [b"%d" % number])
        log.backup(tmp_path / "backup")
    shutil.copy(directory / "data" / "data.mdb", tmp_path / "older.mdb")
    if ending == "closed":
        with Log.open(directory, upkeep_interval_s=None) as log, Producer(log) as producer:
            for number in range(100, 200):
                producer.produce_many("t", [b"%d" % number])
    else:
        program: Program = start("appender.py", directory, 100, 200)
        assert program.line() == "200"
        program.kill()
    whole = (directory / "data" / "data.mdb").read_bytes()
    shutil.copy(tmp_path / "older.mdb", directory / "data" / "data.mdb")
    for read_only in (False, True, False):
        with pytest.raises(StoreCorruptError, match="older"):
            Log.open(directory, upkeep_interval_s=None, read_only=read_only)
    (directory / "data" / "data.mdb").write_bytes(whole)
    with Log.open(directory, upkeep_interval_s=None) as log:
        assert log.partition("t", 0).end == 200
    # The limit: a whole directory that is put back is as it was, and says nothing.
    with Log.open(tmp_path / "backup", upkeep_interval_s=None) as log:
        assert log.partition("t", 0).end == 100


# -- links, pipes and directories (k) --------------------------------------------------------------------

FILES = ["commit.lock", "wake", "clock", "owner.lock", "manifest.json", "bounds", "inbox", "members"]


def _fifo(path, tmp_path):
    os.mkfifo(path)


def _link(path, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    path.symlink_to(target)


def _dangling(path, tmp_path):
    path.symlink_to(tmp_path / "nowhere")


def _directory(path, tmp_path):
    path.mkdir()


@pytest.mark.parametrize("what", [_fifo, _link, _dangling, _directory])
@pytest.mark.parametrize("name", FILES)
def test_what_is_not_a_file_is_refused_and_left_alone(directory, tmp_path, name, what):
    """A pipe as manifest.json hung everything; links as lock files were followed, and their target overwritten."""
    with Log.open(directory, upkeep_interval_s=None) as log:
        log.create_topic("t")
        log.now_ms()
    path = directory / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    what(path, tmp_path)
    try:
        with Log.open(directory, upkeep_interval_s=None) as log, Producer(log) as producer:
            producer.produce_many("t", [b"1"])
            log.now_ms()
    except OnceflowError as error:
        assert name in str(error)
    else:
        # The owner's lock is held only while the log is made; the others are directories.
        assert name == "owner.lock" or (what is _directory and name in ("inbox", "members"))
    target = tmp_path / "target"
    assert not target.exists() or target.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_pipes_among_inboxes_and_heartbeats(directory, log):
    """Files that any process reads of any other: a pipe there hung whoever committed, or looked at a group."""
    os.mkfifo(directory / "inbox" / ("5" * 32))
    with Consumer(log, "readers") as consumer, Producer(log) as producer:
        consumer.subscribe(["one"])
        producer.produce_many("one", [b"1"])
        assert consumer.poll(10).value() == b"1"
        (beat,) = (directory / "members").iterdir()
        consumer._membership.stop()
        beat.unlink()
        os.mkfifo(beat)
        assert len(log.groups()[0].members) == 1
        with pytest.raises(OnceflowError):
            log.native.heartbeat("readers", log.groups()[0].members[0].member, now_ms=log.now_ms())
        beat.unlink()


# -- arguments that cannot be (4, m) -----------------------------------------------------------------------

NUMBERS = [-1, 2**64, 2**200, 1.5, "1", True, None, b"1"]


@pytest.mark.parametrize("given", [*NUMBERS, float("nan")])
@pytest.mark.parametrize(
    "call",
    [
        *(
            lambda log, given, name=name: Log.open(log.path, upkeep_interval_s=None, **{name: given})
            for name in ("map_size_bytes", "max_producers", "max_transaction_bytes", "max_transaction_timeout_ms")
        ),
        *(
            lambda log, given, name=name: log.create_topic("new", **{name: given})
            for name in ("partitions", "delete_retention_ms", "max_record_bytes")
        ),
        lambda log, given: log.partition("one", given),
        lambda log, given: log.native.fetch("one", given, 0),
        lambda log, given: log.native.fetch("one", 0, given),
        lambda log, given: log.native.fetch("one", 0, 0, max_records=given),
        lambda log, given: log.native.maintain(now_ms=0, batches=given),
        lambda log, given: log.native.wait([("one", given, 0)], 0.0),
        lambda log, given: log.native.wait([("one", 0, given)], 0.0),
        lambda log, given: log.native.commit_offsets("g", [("one", 0, given, "")], now_ms=0),
        lambda log, given: log.native.commit_offsets("g", [("one", given, 0, "")], now_ms=0),
        lambda log, given: log.native.append([("one", given, 0, [b"x"])], now_ms=0),
    ],
)
def test_numbers_that_cannot_be(log, call, given):
    """Negative, too large or other arguments gave untyped errors, or wrapped: refused by name, everywhere the same."""
    with pytest.raises(ConfigurationError, match="is "):
        call(log, given)
    assert [topic.name for topic in log.topics()] == ["four", "one"]
    assert log.groups() == []


@pytest.mark.parametrize("given", ["\ud800", b"one", 5, None])
def test_names_that_cannot_be(log, given):
    """A name with a lone surrogate was a bare UnicodeEncodeError."""
    for call in (log.native.topic, log.native.create_topic, log.native.delete_topic, log.delete_group):
        with pytest.raises(ConfigurationError, match=r"name|group"):
            call(given)
    with pytest.raises(ConfigurationError, match="policy"):
        log.create_topic("new", cleanup_policy=given)


def test_infinite_and_unknown(log):
    """What Kafka calls -1 is None here, and an unknown setting is a TypeError, as of any call."""
    with pytest.raises(ConfigurationError, match="retention_ms is -1"):
        log.create_topic("new", retention_ms=-1)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        log.create_topic("new", retention=1)
    log.create_topic("new", retention_ms=None)
    assert log.topic("new").retention_ms is None


def test_offsets_that_cannot_be(log):
    """Consumers are given offsets by users."""
    with Consumer(log, "readers") as consumer:
        for offset in (2**64, 2**200):
            with pytest.raises(ConfigurationError, match="offset is"):
                consumer.commit(offsets=[TopicPartition("one", 0, offset)])
        for partition in (-1, 2**32):
            with pytest.raises(OnceflowError, match="partition"):
                consumer.assign([TopicPartition("one", partition, 0)])
                consumer.poll(0)
    assert LogTime(log.native, SystemClock()).now_ms() > 0
