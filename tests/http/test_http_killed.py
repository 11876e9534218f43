"""A job that sends requests: job and server killed, paused, replaced; each row has one effect."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import tomllib
from functools import partial
from pathlib import Path

import pytest
from http_job import ROWS, run, write_input
from lives import Life, killed_until_done, no_survivors

from onceflow.connectors.dead_letters import read_dead_letters
from onceflow.exceptions import SinkError

POINTS = tomllib.loads((Path(__file__).parents[1] / "runner" / "crash_points.toml").read_text())["http"]
SENDING = [(name, nth) for name, times in POINTS.items() for nth in times if "dead_letters" not in name]
SENDING += [(name, 2) for name in ("sink.post_prepare", "decide.pre", "decide.post_wait", "sink.pre_commit")]
SENDING += [("sink.mid_write", 2), ("sink.post_commit", 2), ("recover.pre_commit", 1), ("recover.post_commit", 1)]
LETTERS = [(name, nth) for name, times in POINTS.items() for nth in times if "dead_letters" in name]

pytestmark = pytest.mark.usefixtures("crash_points")


def each_once(server, rows=ROWS):
    assert sorted(effect["id"] for effect in server.effects()) == list(range(rows))


def came_through(top, server, **settings):
    life = Life(lambda: run(top, server.url, **settings))
    assert life.wait() == "done", life.error


@pytest.mark.parametrize(("point", "nth"), SENDING)
def test_killed_at_a_crash_point(tmp_path, server, point, nth):
    """Kind: a request that was decided and is lost, or has two effects."""
    write_input(tmp_path)
    crash_at = f"{point}:{nth}"
    assert Life(lambda: run(tmp_path, server.url, pace_s=0.01), CRASH_AT=crash_at).wait() == "killed"
    assert Life(lambda: run(tmp_path, server.url, pace_s=0.01), CRASH_AT=crash_at).wait() in ("done", "killed")
    came_through(tmp_path, server)
    each_once(server)


@pytest.mark.parametrize(("point", "nth"), LETTERS)
def test_killed_beside_dead_letters(tmp_path, server, point, nth):
    """Kind: a refused record that is lost, is kept twice, or is kept and has an effect after all."""
    write_input(tmp_path)
    path = tmp_path / "refused.sqlite"
    settings = {
        "body": lambda record: f"{record['id']}",
        "on_refused": "dead_letter",
        "dead_letters": path,
        "concurrency": 1,
    }
    accepted = [f"{number}" for number in range(ROWS) if number % 3]
    server.script(always={"status": 400, "but": accepted})
    crash_at = f"{point}:{nth}"
    assert Life(lambda: run(tmp_path, server.url, pace_s=0.01, **settings), CRASH_AT=crash_at).wait() == "killed"
    if "post" in point:
        # What the server would say today is of no account for what was put aside.
        kept = {letter.record["id"] for letter in read_dead_letters(path)}
        server.script(always={"status": 400, "but": [*accepted, *map(str, kept)]})
    came_through(tmp_path, server, **settings)
    refused = [letter.record["id"] for letter in read_dead_letters(path)]
    assert sorted([*refused, *server.effects()]) == list(range(ROWS))
    assert sorted(refused) == list(range(0, ROWS, 3))


def test_killed_at_random_moments(tmp_path, server):
    """Kind: a moment that no crash point names."""
    moments = random.Random(20_261_127)
    write_input(tmp_path)
    kills = killed_until_done(partial(run, tmp_path, server.url), longest_s=0.4, at_most=12, moments=moments)
    came_through(tmp_path, server)
    assert kills
    each_once(server)


def test_the_server_is_killed_again_and_again(tmp_path, server):
    """Kind: a request that the server had done when it died, or had not."""
    write_input(tmp_path)
    life = Life(lambda: run(tmp_path, server.url, concurrency=3, pace_s=0.03))
    moments = random.Random(5)
    kills = 0
    while life.step(moments.uniform(0.1, 0.4)) is None and kills < 6:
        server.kill()
        time.sleep(moments.uniform(0, 0.1))
        server.start()
        kills += 1
    assert life.wait() == "done", life.error
    assert kills
    each_once(server)


@no_survivors()
@pytest.mark.parametrize("stop_at", ["http.pre_send:2", "http.post_answers:2", "sink.pre_commit:2", "decide.pre:2"])
def test_a_paused_run_that_was_replaced_adds_nothing(tmp_path, server, stop_at):
    """Kind: a run that is woken with requests in its hand that its successor has sent."""
    write_input(tmp_path)
    zombie = Life(lambda: run(tmp_path, server.url, pace_s=0.01), STOP_AT=stop_at)
    assert zombie.step(60) == "stopped"
    newer = Life(lambda: run(tmp_path, server.url, take_over=True))
    assert newer.wait() == "done", newer.error
    each_once(server)
    zombie.wake()
    assert zombie.wait() == "FencedError", zombie.error
    each_once(server)


@no_survivors()
def test_a_run_that_is_paused_while_a_request_is_under_way(tmp_path, server):
    """Kind: a request that comes from the past, after its successor's."""
    write_input(tmp_path)
    server.script(always={"delay_s": 0.2})
    zombie = Life(lambda: run(tmp_path, server.url, concurrency=4))
    while not server.requests():
        assert zombie.step(0.01) is None
    os.kill(zombie.pid, signal.SIGSTOP)
    server.script()
    newer = Life(lambda: run(tmp_path, server.url, take_over=True))
    assert newer.wait() == "done", newer.error
    zombie.wake()
    assert zombie.wait() == "FencedError", zombie.error
    each_once(server)


def test_effectively_once_by_a_key_of_the_record(tmp_path, server):
    """Kind: a request that is sent before the decision and, after a crash, once more."""
    write_input(tmp_path)
    settings = {"guarantee": "effectively_once", "idempotency_key": lambda row: f"order-{row['id']}"}
    settings["body"] = lambda row: {"id": row["id"]}
    life = Life(lambda: run(tmp_path, server.url, **settings), CRASH_AT="decide.pre:3")
    assert life.wait() == "killed"
    sent = len(server.requests())
    came_through(tmp_path, server, **settings)
    each_once(server)
    assert len(server.requests()) > ROWS
    assert sent > 0


def test_at_least_once_without_a_key_may_repeat(tmp_path, server):
    """Kind: a promise that is kept by luck."""
    write_input(tmp_path)
    settings = {"guarantee": "at_least_once"}
    assert Life(lambda: run(tmp_path, server.url, **settings), CRASH_AT="decide.pre:2").wait() == "killed"
    came_through(tmp_path, server, **settings)
    found = [effect["id"] for effect in server.effects()]
    assert set(found) == set(range(ROWS))
    assert len(found) > ROWS


def test_a_slow_server_holds_back_the_source(tmp_path, server):
    """Kind: memory that grows while the other side is a hundred times slower."""
    write_input(tmp_path, 20_000)
    server.script(always={"delay_s": 0.05})
    read, ended = [], []
    settings = {"guarantee": "effectively_once", "idempotency_key": lambda row: f"{row['id']}", "concurrency": 4}

    def live():
        with pytest.raises(SinkError) as stopped:
            run(tmp_path, server.url, batch_size=50, pace_s=0, sent=read.append, interval_s=60, **settings)
        ended.append(str(stopped.value))

    job = threading.Thread(target=live, daemon=True)
    job.start()
    while len(server.requests()) < 200:
        time.sleep(0.1)
        assert not ended
    # What was read is what was sent, and the batch under way.
    batches = len(read)
    assert 50 * batches <= len(server.requests()) + 3 * 50
    server.script(always={"status": 403})
    job.join(60)
    assert "403" in ended[0]


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_most_once"])
def test_what_waits_for_a_slow_server_is_bounded(tmp_path, server, guarantee):
    """Kind: a stop that waits for an hour, since a million requests were decided; memory that grows meanwhile."""
    write_input(tmp_path, 20_000)
    server.script(always={"delay_s": 0.02})
    read, ended = [], []

    def live():
        with pytest.raises(SinkError) as stopped:
            run(
                tmp_path,
                server.url,
                guarantee=guarantee,
                batch_size=50,
                pace_s=0,
                sent=read.append,
                interval_s=0.01,
                concurrency=2,
                max_waiting=200,
            )
        ended.append(str(stopped.value))

    job = threading.Thread(target=live, daemon=True)
    job.start()
    while len(server.requests()) < 300:
        time.sleep(0.05)
        assert not ended
    batches = len(read)
    assert 50 * batches <= len(server.requests()) + 200 + 3 * 50
    server.script(always={"status": 403})
    job.join(60)
    assert "403" in ended[0]
