"""The sinks that the guide writes, as they stand there: their contracts, kills, and runs that were replaced."""

from __future__ import annotations

import json
import random
import re
import sqlite3
import time
import warnings
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from lives import Life, killed_until_done, no_survivors

import onceflow as of
from onceflow.connectors.iterable import IterableSource
from onceflow.connectors.outbox import OutboxSink
from onceflow.exceptions import FinishedJobWarning
from onceflow.runtime.run import run as run_flow
from onceflow.testing import IdempotentSinkContract, TransactionalSinkContract

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
ORDERS = [{"id": number, "cents": number * 100} for number in range(200)]


def classes(name):
    """What a program of the guide defines, without the job that it runs."""
    (text,) = re.findall(rf"^```python\n# {name}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    found: dict[str, object] = {"__name__": name}
    exec(compile(re.split(r"^(?:flow =|with )", text, flags=re.MULTILINE)[0], name, "exec"), found)
    return found


TABLE = classes("orders_table.py")
JsonParts = classes("json_parts.py")["JsonParts"]
JsonFile = classes("upserts.py")["JsonFile"]


def table(directory):
    with closing(sqlite3.connect(directory / "orders.db")) as db:
        db.executescript(TABLE["TABLES"])
    return OutboxSink(partial(TABLE["OrdersTable"], directory / "orders.db"))


def rows_of_table(directory):
    with closing(sqlite3.connect(directory / "orders.db")) as db:
        return [{"id": id, "cents": cents} for id, cents in db.execute("select id, cents from orders order by rowid")]


def rows_of_parts(directory):
    return [row for path in sorted((directory / "out").glob("part-*")) for row in json.loads(path.read_text())]


def rows_of_file(directory):
    path = directory / "out.json"
    return list(json.loads(path.read_text()).values()) if path.exists() else []


SINKS = {
    "table": (table, rows_of_table),
    "parts": (lambda root: JsonParts(root / "out"), rows_of_parts),
    "file": (lambda root: JsonFile(root / "out.json", "id"), rows_of_file),
}


class TestTable(TransactionalSinkContract):
    def make_records(self, start, stop):
        return ORDERS[start:stop]

    def make_sink(self, directory):
        return SINKS["table"][0](directory)

    def visible(self, directory):
        return rows_of_table(directory) if (directory / "orders.db").exists() else []


class TestParts(TransactionalSinkContract):
    def make_sink(self, directory):
        return SINKS["parts"][0](directory)

    def visible(self, directory):
        return rows_of_parts(directory)


class TestFile(IdempotentSinkContract):
    def make_records(self, start, stop):
        return ORDERS[start:stop]

    def make_sink(self, directory):
        return SINKS["file"][0](directory)

    def visible(self, directory):
        return rows_of_file(directory)


def run(root, kind, *, take_over=False):
    def slowly(batch):
        time.sleep(0.005)
        return batch

    flow = of.Dataflow("orders")
    flow.source("orders", IterableSource(ORDERS)).map_batch(slowly).sink("out", SINKS[kind][0](root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FinishedJobWarning)
        run_flow(flow, root / "state", checkpoint_interval_s=1e-6, batch_size=20, take_over=take_over)


def came_through(root, kind):
    life = Life(partial(run, root, kind))
    assert life.wait() == "done", life.error
    return SINKS[kind][1](root)


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize(
    "point", ["sink.post_prepare:2", "decide.post_wait:2", "sink.pre_commit:2", "sink.post_commit:2"]
)
def test_killed_at_a_crash_point(tmp_path, crash_points, kind, point):
    """Kind: an example that loses or repeats output, which people copy."""
    ends = {Life(partial(run, tmp_path, kind), CRASH_AT=point).wait() for _ in range(2)}
    # A sink that is no transactional one has no prepare of its own.
    assert "killed" in ends or (kind, point) == ("file", "sink.post_prepare:2")
    assert came_through(tmp_path, kind) == ORDERS


@pytest.mark.parametrize("kind", SINKS)
def test_killed_at_random_moments(tmp_path, kind):
    """Kind: the same, at a moment that no crash point names."""
    moments, kills, number = random.Random(kind), 0, 0
    while kills < 8:
        number += 1
        root = tmp_path / str(number)
        root.mkdir()
        kills += killed_until_done(partial(run, root, kind), longest_s=0.2, at_most=6, moments=moments)
        assert came_through(root, kind) == ORDERS


@no_survivors()
@pytest.mark.parametrize("kind", ["table", "parts"])
@pytest.mark.parametrize("stop_at", ["sink.post_prepare:2", "sink.pre_commit:2", "recover.pre_commit:1"])
def test_a_paused_run_that_was_replaced_changes_nothing(tmp_path, crash_points, kind, stop_at):
    """Kind: an example that believes its lock, or its look at the target, after it was woken."""
    Life(partial(run, tmp_path, kind), CRASH_AT="sink.pre_commit:2").wait()
    zombie = Life(partial(run, tmp_path, kind), STOP_AT=stop_at)
    assert zombie.step(60) == "stopped"
    newer = Life(partial(run, tmp_path, kind, take_over=True))
    if newer.wait() == "StoreLockedError":
        # Another thread of it was within a commit, so it holds a lock that its end alone gives back: as advised.
        zombie.kill()
        newer = Life(partial(run, tmp_path, kind, take_over=True))
    assert newer.wait() == "done", newer.error
    if zombie.end is None:
        zombie.wake()
        assert zombie.wait() == "FencedError", zombie.error
    assert SINKS[kind][1](tmp_path) == ORDERS
