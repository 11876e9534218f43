"""What sinks to Redis write, what they refuse, and which servers they do not trust."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import closing
from functools import partial

import pytest
from redis_job import connected, is_exact, run, shown, write_input
from services.process import free_ports
from services.redis import RedisServer
from waits import CONTEXT, check_sink_tells, check_tells

from onceflow import Dataflow
from onceflow import run as run_flow
from onceflow.checks import CheckContext
from onceflow.connectors.redis import RedisSink, RedisStreamSink, RedisUpsertSink
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.leftovers import LeftoverContext
from onceflow.testing import TestingSource

SECRET = "s3cr3t-p4ss"


def write(state, sink, records, name="job"):
    flow = Dataflow(name)
    flow.source("in", TestingSource(records)).sink("out", sink)
    return run_flow(flow, state)


def test_values(redis_url, state):
    """Kind: a value that comes back as another one."""
    records = [
        {"k": "a", "v": "é"},
        {"k": b"\xff", "v": b"\x00\xff"},
        {"k": 7, "v": {"n": 1.5, "none": None}},
        {"k": "a", "v": 3},
        {"k": "gone", "v": 1},
        {"k": "gone", "v": None},
    ]
    write(state, RedisSink(redis_url, key="k", value="v", delete=lambda record: record["v"] is None), records)
    with connected(redis_url) as client:
        found = {key: client.get(key) for key in client.scan_iter() if not key.startswith(b"onceflow:")}
    assert found == {b"a": b"3", b"\xff": b"\x00\xff", b"7": b'{"n":1.5,"none":null}'}


def test_hashes_are_the_record_and_nothing_else(redis_url, state):
    """Kind: fields of an earlier record that stay; many of them; another type that lies there."""
    wide = {f"f{number}": number for number in range(9000)}
    with connected(redis_url) as client:
        client.lpush("p:a", "a list")
    sink = RedisSink(redis_url, key="k", mode="hash", prefix="p:", expire_s=1000, value=lambda record: record["v"])
    write(state, sink, [{"k": "a", "v": {"x": 1, "y": 2}}, {"k": "a", "v": {"x": "3"}}, {"k": "b", "v": wide}])
    with connected(redis_url) as client:
        assert client.hgetall("p:a") == {b"x": b"3"}
        assert client.hlen("p:b") == 9000
        assert 0 < client.ttl("p:a") <= 1000


def test_many_records_at_once(redis_url, state):
    """Kind: a script that is too long for the server, or for what runs it."""
    write(state, RedisSink(redis_url, key=lambda number: number), [*range(30_000)])
    with connected(redis_url) as client:
        assert client.dbsize() == 30_001
        assert client.get("29999") == b"29999"


def test_entries_of_streams(redis_url, state):
    """Kind: entries that lack something, or lie in another stream."""
    sink = RedisStreamSink(
        redis_url, lambda record: f"s{record % 2}", fields=lambda record: {"n": record, "raw": b"\xff"}
    )
    write(state, sink, [1, 2, 3])
    with connected(redis_url) as client:
        assert [fields for _, fields in client.xrange("s1")] == [
            {b"n": b"1", b"raw": b"\xff"},
            {b"n": b"3", b"raw": b"\xff"},
        ]
        assert [fields for _, fields in client.xrange("s0")] == [{b"n": b"2", b"raw": b"\xff"}]


def test_a_stream_that_is_cut(redis_url, state):
    """Kind: a bound that is passed over."""
    write(state, RedisStreamSink(redis_url, "s", maxlen=100), [*range(5000)])
    with connected(redis_url) as client:
        assert 100 <= client.xlen("s") <= 300
        assert json.loads(client.xrevrange("s", count=1)[0][1][b"value"]) == 4999


def test_a_key_of_another_type(redis_url, state):
    """Kind: a command that fails within a script, whose other commands stay, and so does the marker."""
    with connected(redis_url) as client:
        client.set("s1", "no stream")
        sink = RedisStreamSink(redis_url, lambda record: f"s{record % 2}")
        with pytest.raises(
            SinkError, match=r"key 's1' holds a string, and what is to be written is of a stream: delete"
        ):
            write(state, sink, [0, 1, 2])
        assert client.xlen("s0") == 0
        # As the message advises.
        client.delete("s1")
        write(state, sink, [0, 1, 2])
        assert (client.xlen("s0"), client.xlen("s1")) == (2, 1)


@pytest.mark.parametrize(
    ("settings", "record", "told"),
    [
        ({"key": "none"}, {"k": 1}, "key of a record: KeyError"),
        ({"key": "k"}, {"k": None}, "key of a record is None"),
        ({"key": "k"}, {"k": ""}, "key of a record is ''"),
        ({"key": "k"}, {"k": "onceflow:markers:job/out"}, "give prefix="),
        ({"key": "k"}, {"k": 1, "v": float("nan")}, "JSON cannot hold a value"),
        ({"key": "k", "value": "v", "mode": "hash"}, {"k": 1, "v": 3}, "give a mapping"),
        ({"key": "k", "value": "v", "mode": "hash"}, {"k": 1, "v": {}}, "at least one"),
        ({"key": "k", "value": "v", "mode": "hash"}, {"k": 1, "v": {1: 2}}, "names are texts"),
    ],
    ids=["no field", "none", "empty", "marker", "nan", "no mapping", "no fields", "no name"],
)
def test_records_that_cannot_be_written(redis_url, state, settings, record, told):
    """Kind: a record that is found out after the decision, or is written as something else."""
    with pytest.raises(SinkError, match=f"could not prepare.*{told}"):
        write(state, RedisSink(redis_url, **settings), [record])
    with connected(redis_url) as client:
        assert not [key for key in client.scan_iter() if not key.startswith(b"onceflow:")]


def test_two_jobs_share_a_database(redis_url, tmp_path):
    """Kind: a marker that another job takes for its own."""
    for name in ("one", "two"):
        write(tmp_path / name, RedisStreamSink(redis_url, "s"), [name], name)
    with connected(redis_url) as client:
        assert client.xlen("s") == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"appendonly": "no"}, "appendonly no: a crash loses.*set appendonly yes"),
        ({"appendfsync": "everysec"}, "appendfsync everysec.*set appendfsync always"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "allkeys-lru: it may drop output"),
        ({"cluster-enabled": "yes", "databases": "1"}, "is a node of a cluster"),
        ({"rename-command": 'CONFIG ""'}, "does not let its settings be read.*durability='assumed'"),
    ],
    ids=["no file", "everysec", "evicts", "cluster", "closed"],
)
def test_servers_that_cannot_keep_it(tmp_path, settings, told):
    """Kind: a guarantee that stands on a server that loses what it has answered to."""
    if "cluster-enabled" in settings:
        # By default it is one that the server's port makes too high.
        settings |= {"cluster-port": str(free_ports(1)[0])}
    with RedisServer(settings=settings) as server:
        with pytest.raises(SinkError, match=told):
            write(tmp_path / "state", RedisStreamSink(server.url, "s"), [1])
        with pytest.raises(SinkError, match=told):
            write(tmp_path / "state", RedisUpsertSink(server.url, key=str), [1])
        levels = [each.level for each in RedisStreamSink(server.url, "s").check(CheckContext("job", "out"))]
        assert "error" in levels
        if "cluster-enabled" not in settings:
            with connected(server.url) as client:
                assert client.dbsize() == 0
            sink = RedisStreamSink(server.url, "s", durability="assumed")
            write(tmp_path / "assumed", sink, [1])
            assert [each.level for each in sink.check(CheckContext("job", "out"))] == ["warning", "ok"]


def test_a_replica(tmp_path, redis):
    """Kind: a server that takes no writes, which is found out after the decision."""
    port = redis.url.rpartition(":")[2].partition("/")[0]
    with (
        RedisServer(settings={"replicaof": f"127.0.0.1 {port}"}) as server,
        pytest.raises(SinkError, match="is a slave"),
    ):
        write(tmp_path / "state", RedisStreamSink(server.url, "s"), [1])


def test_a_server_that_has_no_room(tmp_path):
    """Kind: half of a checkpoint that was written when room ran out; a marker of what is not there."""
    records = ["x" * 1000] * 3000
    with RedisServer(settings={"maxmemory": "3mb", "maxmemory-policy": "noeviction"}) as server:
        for job in range(9):
            try:
                write(tmp_path / f"{job}", RedisStreamSink(server.url, "s"), records, f"job-{job}")
            except SinkError as error:
                assert "OutOfMemoryError" in str(error)
                break
        with connected(server.url) as client:
            assert client.xlen("s") == 3000 * job
            client.config_set("maxmemory", "0")
            write(tmp_path / f"{job}", RedisStreamSink(server.url, "s"), records, f"job-{job}")
            assert client.xlen("s") == 3000 * (job + 1)


def test_a_record_that_is_no_upsert_is_found_before_the_decision(redis_url, state):
    """Kind: what cannot be written is decided, and each further run stops there."""
    with pytest.raises(SinkError, match="sink 'out' could not"):
        write(state, RedisUpsertSink(redis_url, key="k"), [{"k": 1.5}])
    write(state, RedisUpsertSink(redis_url, key="k"), [{"k": 1}])
    with connected(redis_url) as client:
        assert client.get("1") == b'{"k":1}'


def test_a_server_that_was_put_back(tmp_path):
    """Kind: a target that lacks what was written, and gets what comes after as if nothing were missing."""
    write_input(tmp_path)
    with RedisServer() as server:
        write(tmp_path / "first", RedisStreamSink(server.url, "s"), [1])
        server.kill()
        shutil.copytree(server.data, tmp_path / "older")
        server.start()
        checkpoints = run(tmp_path, server.url, "stream", pace_s=0.05).checkpoints
        assert is_exact(server.url, "stream")
        server.kill()
        shutil.rmtree(server.data)
        shutil.copytree(tmp_path / "older", server.data)
        server.start()
        for _ in range(3):
            try:
                run(tmp_path, server.url, "stream")
            except SinkError as error:
                assert "is older than the job's state" in str(error)
            else:
                # On a busy machine two decision records, which are kept, may have all of the output.
                assert checkpoints <= 3
                assert is_exact(server.url, "stream")


def test_markers_that_nobody_needs(redis_url, tmp_path):
    """Kind: markers that stay for ever; markers of somebody else that are removed."""
    for name in ("one", "two"):
        write(tmp_path / name, RedisStreamSink(redis_url, "s"), [1], name)
    sink = RedisStreamSink(redis_url, "s")
    with connected(redis_url) as client:
        state = json.loads(client.hget("onceflow:markers:one/out", "fence"))["state"]
    known = LeftoverContext("one", "other", state, 2, known_sinks=frozenset({"other"}))
    (left,) = sink.leftovers(known)
    assert (left.fate, left.subject) == ("removable", "2 markers of 'one/out' in the target of sink 'other'")
    left.resolve()
    assert list(sink.leftovers(known)) == []
    with connected(redis_url) as client:
        assert list(client.scan_iter(match="onceflow:*")) == [b"onceflow:markers:two/out"]


def test_another_state_directory(redis_url, tmp_path):
    """Kind: two states that write to one place."""
    write_input(tmp_path)
    run(tmp_path, redis_url, "stream")
    with pytest.raises(SinkError, match="holds the output of job 'counting' with another state directory"):
        run(tmp_path, redis_url, "stream", state="other")
    assert len(shown(redis_url, "stream")) == 160


def test_a_server_that_stays_away():
    """Kind: a job that tries for ever, or gives up without a reason; a password in a message."""
    url = f"redis://user:{SECRET}@127.0.0.1:9/3"
    sink = RedisStreamSink(url, "s", attempts=2)
    with pytest.raises(SinkError, match=r"Redis at 127.0.0.1:9, database 3: ConnectionError") as raised:
        write("/tmp/never", sink, [1])
    assert SECRET not in str(raised.value) + repr(sink)
    assert SECRET not in repr(vars(sink))


def test_a_password(tmp_path):
    """Kind: a password that is wrong, or that is shown."""
    with RedisServer(settings={"requirepass": SECRET}) as server:
        good, bad = (server.url.replace("//", f"//:{password}@") for password in (SECRET, "wr0ng"))
        write(tmp_path / "state", RedisStreamSink(good, "s"), [1])
        began = time.monotonic()
        with pytest.raises(SinkError, match="AuthenticationError") as raised:
            write(tmp_path / "other", RedisStreamSink(bad, "s"), [1], "other")
        # It is not waited for as for a server that is away.
        assert time.monotonic() - began < 15
        assert "wr0ng" not in str(raised.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "settings",
    [
        {"key": None},
        {"key": 3},
        {"key": "k", "value": 3},
        {"key": "k", "mode": "list"},
        {"key": "k", "expire_s": 0},
        {"key": "k", "prefix": b"x"},
        {"key": "k", "durability": "perhaps"},
        {"key": "k", "timeout_s": 0},
        {"key": "k", "attempts": 0},
    ],
    ids=str,
)
def test_settings_that_cannot_be(settings):
    """Kind: a setting that is passed over."""
    with pytest.raises(ConfigurationError):
        RedisUpsertSink("redis://127.0.0.1/0", **settings)
    with pytest.raises(ConfigurationError):
        RedisSink("redis://127.0.0.1/0", **settings)


@pytest.mark.parametrize("url", ["http://{0}", "{0}", "redis://u:{0}@127.0.0.1:{0}/0", 7], ids=str)
def test_urls_that_are_none(url):
    """Kind: a password in the message that says that the URL is wrong."""
    with pytest.raises(ConfigurationError) as raised:
        RedisStreamSink(url if url == 7 else url.format(SECRET), "s")
    assert SECRET not in str(raised.value)
    for settings in ({"stream": ""}, {"stream": 3}, {"stream": "s", "maxlen": 0}, {"stream": "s", "fields": 3}):
        with pytest.raises(ConfigurationError):
            RedisStreamSink("redis://127.0.0.1/0", **settings)


@pytest.mark.parametrize("sink", ["stream", "upserts"])
def test_a_server_that_is_away_is_told(monkeypatch, redis, redis_url, sink):
    """Kind: a job that stands still without a word."""
    if sink == "stream":
        check_sink_tells(monkeypatch, redis, RedisStreamSink(redis_url, "s"), [1])
        return
    with closing(RedisUpsertSink(redis_url, key="k").open(CONTEXT)) as writer:
        check_tells(monkeypatch, redis, "sink 'job/out'", partial(writer.write, [{"k": 1}]))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1", "ValueError: .*redis://, rediss://, unix://"),
        ("redis://127.0.0.1/0?socket_timeout=x", "ValueError: .*'socket_timeout'"),
        ("redis://user:pass#word@127.0.0.1", "ValueError, whose text may have a part of the password"),
    ],
    ids=["scheme", "option", "secret"],
)
def test_what_is_wrong_with_a_url_is_said(url, says):
    """Kind: an error that says only that something is wrong, or a secret with it."""
    with pytest.raises(ConfigurationError, match=says) as raised:
        RedisSink(url, key="k")
    assert "word" not in str(raised.value).replace("password", "")
