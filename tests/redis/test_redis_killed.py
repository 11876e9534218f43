"""A job that writes to Redis: job and server killed, paused, replaced; a checkpoint is there once, as a whole."""

from __future__ import annotations

import random
import time
import tomllib
from functools import partial
from pathlib import Path

import pytest
from lives import Life, killed_until_done, no_survivors
from redis_job import connected, is_exact, run, shown, write_input
from services.redis import RedisServer

POINTS = tomllib.loads((Path(__file__).parents[1] / "runner" / "crash_points.toml").read_text())
CELLS = [(name, nth) for section in ("redis", "outbox") for name, times in POINTS[section].items() for nth in times]
CELLS += [(name, 2) for name in ("sink.post_prepare", "decide.pre", "decide.post_wait", "sink.pre_commit")]
CELLS += [("sink.post_commit", 2), ("recover.pre_commit", 1), ("recover.post_commit", 1)]

pytestmark = pytest.mark.usefixtures("crash_points")


@pytest.fixture
def own_server():
    """A server that a test may kill."""
    with RedisServer() as server:
        yield server


def came_through(top, url, kind="stream"):
    life = Life(lambda: run(top, url, kind))
    assert life.wait() == "done", life.error
    assert is_exact(url, kind), shown(url, kind)


@pytest.mark.parametrize("kind", ["stream", "hash", "set"])
def test_nobody_disturbs(tmp_path, redis_url, kind):
    """Kind: output that is not what was computed."""
    write_input(tmp_path)
    run(tmp_path, redis_url, kind)
    assert is_exact(redis_url, kind)


@pytest.mark.parametrize(("point", "nth"), CELLS)
def test_killed_at_a_crash_point(tmp_path, redis_url, point, nth):
    """Kind: output that was decided and is lost, or is applied twice."""
    write_input(tmp_path)
    crash_at = f"{point}:{nth}"
    assert Life(lambda: run(tmp_path, redis_url, "stream", pace_s=0.01), CRASH_AT=crash_at).wait() == "killed"
    again = Life(lambda: run(tmp_path, redis_url, "stream", pace_s=0.01), CRASH_AT=crash_at)
    assert again.wait() in ("done", "killed"), again.error
    came_through(tmp_path, redis_url)


@pytest.mark.parametrize("kind", ["stream", "hash"])
def test_killed_at_random_moments(tmp_path, redis, kind):
    """Kind: a moment that no crash point names."""
    moments = random.Random(20_261_127)
    write_input(tmp_path)
    kills = 0
    while kills < 8:
        url = redis.database()
        top = tmp_path / f"{kills}-{moments.randrange(1000)}"
        top.mkdir()
        write_input(top)
        kills += killed_until_done(partial(run, top, url, kind), longest_s=0.4, at_most=8, moments=moments)
        came_through(top, url, kind)


@pytest.mark.parametrize("guarantee", ["effectively_once", "exactly_once"])
@pytest.mark.parametrize("point", ["decide.pre:2", "decide.post_wait:2", "sink.post_commit:2"])
def test_upserts_at_once(tmp_path, redis_url, guarantee, point):
    """Kind: a value that is older than what was read, after a crash."""
    write_input(tmp_path)
    live = partial(run, tmp_path, redis_url, "at once", guarantee=guarantee)
    assert Life(partial(live, pace_s=0.01), CRASH_AT=point).wait() == "killed"
    life = Life(live)
    assert life.wait() == "done", life.error
    assert is_exact(redis_url, "at once")


def test_the_server_is_killed_again_and_again(tmp_path, own_server):
    """Kind: a script that the server had carried out when it died, or had not; an answer that never came."""
    write_input(tmp_path)
    life = Life(lambda: run(tmp_path, own_server.url, "stream", pace_s=0.05))
    moments = random.Random(5)
    kills = 0
    while life.step(moments.uniform(0.05, 0.3)) is None and kills < 8:
        own_server.kill()
        time.sleep(moments.uniform(0, 0.1))
        own_server.start()
        kills += 1
    assert life.wait() == "done", life.error
    assert kills
    assert is_exact(own_server.url, "stream")


@pytest.mark.parametrize("torn", [1, 40, 200])
def test_a_file_of_the_server_that_was_cut_off(tmp_path, own_server, torn):
    """Kind: a script of which a part is in the server's file; and what it lost, which must not be passed over."""
    write_input(tmp_path)
    life = Life(lambda: run(tmp_path, own_server.url, "stream", pace_s=0.01), CRASH_AT="redis.post_script:3")
    assert life.wait() == "killed"
    own_server.kill()
    (file,) = own_server.data.glob("appendonlydir/*.incr.aof")
    file.write_bytes(file.read_bytes()[:-torn])
    own_server.start()
    # Its last script is gone as a whole, and is decided, so it is carried out again.
    came_through(tmp_path, own_server.url)


@no_survivors()
@pytest.mark.parametrize("kind", ["stream", "hash"])
@pytest.mark.parametrize("stop_at", ["outbox.pre_fence:1", "redis.pre_script:1", "redis.pre_script:3"])
def test_a_paused_run_that_was_replaced_changes_nothing(tmp_path, redis_url, kind, stop_at):
    """Kind: a run that is woken between its look at the markers and its script."""
    write_input(tmp_path)
    zombie = Life(lambda: run(tmp_path, redis_url, kind, pace_s=0.01), STOP_AT=stop_at)
    assert zombie.step(60) == "stopped"
    newer = Life(lambda: run(tmp_path, redis_url, kind, take_over=True))
    assert newer.wait() == "done", newer.error
    before = shown(redis_url, kind)
    zombie.wake()
    assert zombie.wait() == "FencedError", zombie.error
    assert shown(redis_url, kind) == before
    assert is_exact(redis_url, kind)


def test_readers_see_checkpoints_as_a_whole(tmp_path, redis_url):
    """Kind: a reader that finds half of a checkpoint."""
    write_input(tmp_path)
    life = Life(lambda: run(tmp_path, redis_url, "hash", pace_s=0.005))
    seen = set()
    with connected(redis_url) as client:
        while life.step(0) is None:
            step = client.pipeline(transaction=True)
            for user in range(7):
                step.hget(f"of:u{user}", "nth")
            seen.add(sum(int(nth or 0) for nth in step.execute()))
    assert life.wait() == "done", life.error
    # Batches are whole, and so are checkpoints of them.
    assert seen
    assert not [total for total in seen if total % 20]
