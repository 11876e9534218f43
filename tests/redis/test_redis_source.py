"""Streams as a source: a place to come back to, and streams that are not what they were."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial

import pytest
from lives import Life, killed_until_done
from redis_job import connected
from services.redis import RedisServer
from waits import check_tells

from onceflow import Dataflow
from onceflow.connectors.redis import RedisStreamSink, RedisStreamSource
from onceflow.exceptions import (
    ConfigurationError,
    MalformedRecordError,
    SourceChangedError,
    SourceError,
    SourceWaitingWarning,
)
from onceflow.runtime.run import run
from onceflow.sources import SourceContext
from onceflow.testing import TransactionalTestingSink


def add(client, stream, numbers):
    step = client.pipeline(transaction=False)
    for number in numbers:
        step.xadd(stream, {"value": json.dumps(number)})
    step.execute()


@pytest.fixture
def client(redis_url):
    with connected(redis_url) as client:
        yield client


def read_all(reader, at_once=7):
    records = []
    while (batch := reader.read(at_once)) is not None:
        if not len(batch.records):
            return records
        records += batch.records
    return records


def test_a_position_is_where_it_was(redis_url, client):
    """Kind: an entry that is read twice, or never."""
    add(client, "s", range(50))
    source = RedisStreamSource(redis_url, "s", decode="json")
    reader = source.open("s", None)
    batches = []
    while (batch := reader.read(7)) is not None:
        batches.append((batch.records, reader.position()))
    assert [one for records, _ in batches for one in records] == list(range(50))
    # What comes later is beyond the end that was fixed when it began.
    add(client, "s", range(50, 60))
    for nth, (_, position) in enumerate(batches):
        again = source.open("s", json.loads(json.dumps(position)))
        assert read_all(again) == list(range(50))[min(7 * nth + 7, 50) :]
        again.close()
    follows = RedisStreamSource(redis_url, "s", decode="json", stop_at_end=False).open("s", batches[-1][1])
    assert read_all(follows) == list(range(50, 60))
    add(client, "s", [60])
    assert follows.read(9).records == [60]
    assert not follows.read(9).records
    reader.close()
    follows.close()


def test_entries_as_they_are(redis_url, client):
    """Kind: fields that are changed on the way."""
    client.xadd("s", {b"\xff": b"\x00", "name": "é"}, id="1700000000123-5")
    source = RedisStreamSource(redis_url, "s", event_time="id")
    reader = source.open("s", None)
    batch = reader.read(9)
    assert batch.records == [{"id": "1700000000123-5", "fields": {b"\xff": b"\x00", b"name": "é".encode()}}]
    assert batch.event_times.tolist() == [1_700_000_000_123_000]
    reader.close()


def test_an_entry_that_cannot_be_read(redis_url, client):
    """Kind: an entry that is dropped without a word."""
    add(client, "s", [1])
    client.xadd("s", {"other": "x"})
    client.xadd("s", {"value": "{"})
    add(client, "s", [2])
    for policy, counts in (("skip", (0, 2)), ("dead_letter", (2, 0))):
        reader = RedisStreamSource(redis_url, "s", decode="json", on_malformed=policy).open("s", None)
        batch = reader.read(9)
        assert batch.records == [1, 2]
        assert (len(batch.rejected), batch.skipped) == counts
        reader.close()
    reader = RedisStreamSource(redis_url, "s", decode="json").open("s", None)
    with pytest.raises(MalformedRecordError, match="no field 'value'"):
        reader.read(9)
    reader.close()


def test_a_stream_that_was_cut(redis_url, client):
    """Kind: entries that are gone and that nobody misses."""
    add(client, "s", range(100))
    source = RedisStreamSource(redis_url, "s", decode="json", stop_at_end=False)
    reader = source.open("s", None)
    reader.read(40)
    position = reader.position()
    # What was read may go.
    client.xtrim("s", maxlen=60, approximate=False)
    source.open("s", position).close()
    assert reader.read(5).records == list(range(40, 45))
    client.xtrim("s", maxlen=50, approximate=False)
    with pytest.raises(SourceChangedError, match="was cut: 50 entries of 100 are gone, and only 45 were read"):
        reader.read(5)
    with pytest.raises(SourceChangedError, match=r"only 40 were read.*resume_from='none'"):
        source.open("s", position)
    reader.close()
    # A job that begins, begins with what is there.
    reader = source.open("s", None)
    assert read_all(reader) == list(range(50, 100))
    reader.close()


def test_entries_that_were_removed_by_themselves(redis_url, client):
    """Kind: a refusal of what somebody has done on purpose."""
    add(client, "s", range(20))
    names = [name for name, _ in client.xrange("s")]
    source = RedisStreamSource(redis_url, "s", decode="json", stop_at_end=False)
    reader = source.open("s", None)
    reader.read(10)
    # Read and unread ones, the last one that was read among them.
    client.xdel("s", names[3], names[9], names[12])
    assert reader.read(4).records == [10, 11, 13, 14]
    assert read_all(source.open("s", reader.position())) == [15, 16, 17, 18, 19]
    assert read_all(reader) == [15, 16, 17, 18, 19]
    # When all was read, all may go.
    client.xtrim("s", maxlen=0, approximate=False)
    assert not reader.read(4).records
    add(client, "s", [20])
    assert reader.read(4).records == [20]
    reader.close()


def test_the_last_entry_of_a_bounded_run_is_removed(redis_url, client):
    """Kind: a run that waits for ever for an entry that is gone."""
    add(client, "s", range(3))
    reader = RedisStreamSource(redis_url, "s", decode="json").open("s", None)
    assert reader.read(2).records == [0, 1]
    client.xdel("s", client.xrevrange("s", count=1)[0][0])
    assert reader.read(2) is None
    add(client, "s", [3])
    assert reader.read(2) is None
    reader.close()


@pytest.mark.parametrize(
    ("entries", "reason"), [(9, "was deleted and made anew"), (12, "was deleted"), (20, "was cut")]
)
def test_a_stream_that_was_made_anew_and_is_cut(redis_url, client, entries, reason):
    """Kind: entries of another stream that were cut before anybody read them, as if they had been read."""
    add(client, "s", range(8))
    source = RedisStreamSource(redis_url, "s", decode="json", stop_at_end=False)
    reader = source.open("s", None)
    assert len(read_all(reader)) == 8
    position = reader.position()
    reader.close()
    client.delete("s")
    for number in range(entries):
        client.xadd("s", {"value": f"{number}"}, maxlen=8, approximate=False)
    with pytest.raises(SourceChangedError, match=reason):
        source.open("s", position)


@pytest.mark.parametrize("entries", [5, 10, 30])
def test_a_stream_that_was_made_anew(redis_url, client, entries):
    """Kind: a place in another stream."""
    add(client, "s", range(10))
    source = RedisStreamSource(redis_url, "s", decode="json", stop_at_end=False)
    reader = source.open("s", None)
    reader.read(8)
    position = reader.position()
    client.delete("s")
    with pytest.raises(SourceError, match="no stream 's'"):
        source.open("s", position)
    add(client, "s", range(entries))
    for _ in range(2):
        with pytest.raises(SourceChangedError, match="made anew"):
            source.open("s", position)
    with pytest.raises(SourceChangedError):
        reader.read(3)
    reader.close()


def test_a_server_that_was_put_back(tmp_path):
    """Kind: other entries with the ids and counts of those that were read."""
    with RedisServer() as server:
        source = RedisStreamSource(server.url, "s", decode="json", stop_at_end=False)
        with connected(server.url) as client:
            add(client, "s", range(5))
        server.kill()
        shutil.copytree(server.data, tmp_path / "older")
        server.start()
        with connected(server.url) as client:
            client.xadd("s", {"value": "5"}, id="9000000000000-0")
        reader = source.open("s", None)
        assert read_all(reader) == list(range(6))
        position = reader.position()
        reader.close()
        server.kill()
        shutil.rmtree(server.data)
        shutil.copytree(tmp_path / "older", server.data)
        server.start()
        with pytest.raises(SourceChangedError, match="put back from an older copy"):
            source.open("s", position)
        with connected(server.url) as client:
            client.xadd("s", {"value": "6"}, id="9000000000000-0")
        with pytest.raises(SourceChangedError, match="has another entry 9000000000000-0"):
            source.open("s", position)


def test_settings_that_cannot_be(redis_url):
    """Kind: a setting that is passed over."""
    for settings in (
        {"streams": []},
        {"streams": ["a", "a"]},
        {"streams": [3]},
        {"streams": "s", "decode": "xml"},
        {"streams": "s", "event_time": "timestamp"},
        {"streams": "s", "on_malformed": "ignore"},
    ):
        with pytest.raises(ConfigurationError):
            RedisStreamSource(redis_url, **settings)


def copy_job(top, url, **settings):
    flow = Dataflow("copy")
    source = RedisStreamSource(url, ["in-0", "in-1"], decode="json", event_time="id")
    flow.source("in", source).map(lambda one: [one, random.random()]).sink("out", RedisStreamSink(url, "out"))
    run(flow, top / "state", checkpoint_interval_s=1e-6, batch_size=10, **settings)


@pytest.mark.usefixtures("crash_points")
def test_from_stream_to_stream_under_kills(redis, tmp_path):
    """Kind: an entry that is lost or copied twice, whatever dies when."""
    moments = random.Random(3)
    kills = 0
    for number in range(4):
        url, top = redis.database(), tmp_path / str(number)
        top.mkdir()
        with connected(url) as client:
            add(client, "in-0", range(0, 200, 2))
            add(client, "in-1", range(1, 200, 2))
            kills += killed_until_done(partial(copy_job, top, url), longest_s=0.4, at_most=6, moments=moments)
            life = Life(partial(copy_job, top, url))
            assert life.wait() == "done", life.error
            copied = [json.loads(fields[b"value"])[0] for _, fields in client.xrange("out")]
        assert sorted(copied) == list(range(200))
        assert [one for one in copied if one % 2] == list(range(1, 200, 2))
    assert kills


def test_until_caught_up(redis_url, client, state):
    """Kind: a run that ends before what was there, or goes on with what comes."""
    sink = TransactionalTestingSink()
    flow = Dataflow("follow")
    flow.source("in", RedisStreamSource(redis_url, "s", decode="json", stop_at_end=False)).sink("out", sink)
    for number in range(3):
        add(client, "s", [number])
        assert run(flow, state, until="caught_up").caught_up
        assert sink.records == list(range(number + 1))


def test_a_server_that_is_away_is_told(monkeypatch, redis, redis_url):
    """Kind: a job that stands still without a word."""
    with connected(redis_url) as client:
        add(client, "s", range(2))
    reader = RedisStreamSource(redis_url, "s", decode="json").open_with_context("s", None, SourceContext("job", "in"))
    work = partial(read_all, reader)
    check_tells(monkeypatch, redis, "source 'job/in'", work, SourceWaitingWarning)
    reader.close()
