"""A log that was written by format version 1 opens for ever, with just this content, and is gone on with.

The files under ``data/format_v1`` are kept as they were written, by the code before times of batches and the log's own
clock: two partitions with references to a transaction's staged batches, another transaction open, a compacted topic
with a null value, offsets of a group, and a group with a member that was not heard of again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from onceflow.clock import ManualClock
from onceflow.log import Consumer, Log, Producer, TopicPartition

FIXTURE = Path(__file__).parent / "data" / "format_v1"
WRITTEN_S = 1_750_000_000.0


@pytest.fixture
def clock():
    return ManualClock(WRITTEN_S + 5)


@pytest.fixture
def log(tmp_path, clock):
    shutil.copytree(FIXTURE, tmp_path / "log")
    with Log.open(tmp_path / "log", clock=clock, upkeep_interval_s=None, map_size_bytes=16 << 20) as opened:
        yield opened


def test_it_has_what_was_written(log):
    """State directories and logs of the code before open, with the same content."""
    assert [topic.name for topic in log.topics()] == ["plain", "table"]
    found = log.native.fetch("plain", 0, 0)
    assert found.values == [*(b"v%d" % (2 * i) for i in range(5)), *(b"staged %d" % i * 10 for i in range(60))]
    assert found.keys[:3] == [b"k0", b"k2", b"k1"]
    assert found.headers[0] == [("h", b"1"), ("h", None)]
    assert found.timestamps[:2].tolist() == [1_749_999_000_000, 1_749_999_000_002]
    assert log.native.fetch("plain", 1, 0).values == [b"v%d" % (2 * i + 1) for i in range(5)]
    assert {group.group: {*group.offsets.values()} for group in log.groups()}["readers"] == {
        (3, "", 1_750_000_000_000),
        (5, "", 1_750_000_000_000),
    }
    (open_one,) = log.transactions()
    assert (open_one.staged_bytes, open_one.started_ms) == (6120, 1_750_000_000_000)


def test_it_is_gone_on_with(log, clock):
    """What is new in the format comes with what is written."""
    with Producer(log) as producer:
        producer.produce_many("plain", [b"new"], partition=0)
        assert log.native.fetch("plain", 0, 60).values[-1] == b"new"
        # The member, and the open transaction, run out by the log's clock.
        clock.advance(61)
        assert log.maintain().timed_out == 1
        assert [group.members for group in log.groups()] == [[], []]
        # The delete was seen first by this compaction, whatever its timestamp.
        producer.produce_many("table", [b"9"] * 4, [b"a"] * 4)
        while log.maintain().more:
            pass
        kept = log.native.fetch("table", 0, log.partition("table", 0).start)
        assert list(zip(kept.keys, kept.values, strict=True)) == [(b"b", None), (b"c", b"1"), (b"a", b"9")]
        clock.advance(3601)
        while log.maintain().more:
            pass
        kept = log.native.fetch("table", 0, log.partition("table", 0).start)
        assert list(zip(kept.keys, kept.values, strict=True)) == [(b"c", b"1"), (b"a", b"9")]
        # Retention by time goes by timestamps where the append is not known.
        clock.advance(7 * 24 * 3600)
        while log.maintain().more:
            pass
        assert [log.partition("plain", each).records for each in (0, 1)] == [0, 0]
        assert log.partition("plain", 0).end == 66


def test_a_consumer_goes_on_where_it_was(log):
    """Committed offsets are still where the group begins."""
    with Consumer(log, "readers") as consumer:
        consumer.assign([TopicPartition("plain", 0)])
        assert consumer.poll(0).offset() == 3
