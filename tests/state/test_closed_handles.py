"""What is done through a handle of something closed, dropped or left behind by a fork is refused: it would be lost."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest

from onceflow.embed import StateBackend
from onceflow.exceptions import BackendClosedError, CheckpointStateError, StoreForkedError


def parts(backend):
    """A backend's table, deduplicator and open checkpoint."""
    table = backend.table("t", key="i64", columns={"n": "i64", "y": "bytes"})
    table.put([1], n=1, y=b"")
    return table, backend.deduplicator("d"), backend.begin_checkpoint()


def uses(backend, table, deduplicator, checkpoint):
    """Each call of each handle that reads or changes anything, by name."""
    return {
        "table.put": lambda: table.put([1], n=2),
        "table.add": lambda: table.add([1], n=2),
        "table.min": lambda: table.min([1], n=2),
        "table.max": lambda: table.max([1], n=2),
        "table.first": lambda: table.first([1], n=2),
        "table.last": lambda: table.last([1], n=2),
        "table.count": lambda: table.count([1], "n"),
        "table.update": lambda: table.update([1], {"n": ("add", 1)}),
        "table.get": lambda: table.get([1]),
        "table.get_distinct": lambda: table.get_distinct([1]),
        "table.get_bytes": lambda: table.get_bytes([1], "y"),
        "table.contains": lambda: table.contains([1]),
        "table.delete": lambda: table.delete([1]),
        "table.scan": table.scan,
        "table.drain_below": lambda: table.drain_below(0),
        "table.memory_bytes": table.memory_bytes,
        "len(table)": lambda: len(table),
        "deduplicator.check_many": lambda: deduplicator.check_many(1, 0, 0, 0),
        "deduplicator.snapshot": deduplicator.snapshot,
        "deduplicator.restore": lambda: deduplicator.restore(b""),
        "deduplicator.expire": lambda: deduplicator.expire(0),
        "len(deduplicator)": lambda: len(deduplicator),
        "checkpoint.freeze": checkpoint.freeze,
        "checkpoint.put_blob": lambda: checkpoint.put_blob("b", b""),
        "checkpoint.stage": lambda: checkpoint.stage("s", b""),
        "checkpoint.commit": checkpoint.commit,
        "backend.table": lambda: backend.table("t", key="i64", columns={"n": "i64", "y": "bytes"}),
        "backend.tables": backend.tables,
        "backend.drop_table": lambda: backend.drop_table("t"),
        "backend.deduplicator": lambda: backend.deduplicator("d"),
        "backend.begin_checkpoint": backend.begin_checkpoint,
        "backend.checkpoint": backend.checkpoint,
        "backend.checkpoints": backend.checkpoints,
        "backend.delete_checkpoint": lambda: backend.delete_checkpoint(1),
        "backend.check_epoch": backend.check_epoch,
        "backend.poll": backend.poll,
        "backend.size": backend.size,
        "backend.backup": lambda: backend.backup(backend.path + "-copy"),
        "backend.__enter__": backend.__enter__,
    }


def descriptors():
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def outcomes(calls):
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "no error"
        except BaseException as error:
            found[name] = type(error).__name__
    return found


def test_a_handle_of_a_closed_backend(state):
    """``table.put`` after ``backend.close()`` was accepted, and in no checkpoint."""
    backend = StateBackend.open(state)
    handles = parts(backend)
    backend.close()
    calls = uses(backend, *handles)
    assert outcomes(calls) == dict.fromkeys(calls, "BackendClosedError")
    with pytest.raises(BackendClosedError, match="open it again"):
        handles[0].put([1], n=2)
    # What only tells of the past, or gives something up, may go on.
    handles[2].abort()
    assert handles[2].done
    with pytest.raises(CheckpointStateError, match="aborted"):
        handles[2].wait()
    backend.close()
    assert (backend.positions, backend.job, backend.key_groups) == ({}, "default", 128)
    with StateBackend.open(state) as again:
        assert again.tables() == {}


def test_a_handle_of_a_dropped_table(state):
    """What is put into a table that was dropped is in no checkpoint, whoever still has it."""
    with StateBackend.open(state) as backend:
        table = backend.table("t", key="i64", columns={"n": "i64"})
        backend.drop_table("t")
        with pytest.raises(BackendClosedError, match=r'"t" was dropped; ask the backend for a new one'):
            table.put([1], n=1)
        again = backend.table("t", key="i64", columns={"n": "i64"})
        again.put([1], n=1)
        assert (len(again), again.get([1]).columns["n"].tolist()) == (1, [1])
        with pytest.raises(BackendClosedError):
            len(table)


def test_a_forked_child_is_refused_by_every_handle_and_undoes_nothing(state):
    """A child that waits for its parent's writer waits for ever; one that closes or aborts undoes its parent's work."""
    backend = StateBackend.open(state)
    handles = parts(backend)
    handles[2].freeze()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            calls = uses(backend, *handles) | {"checkpoint.wait": handles[2].wait}
            found = outcomes(calls)
            # The cleanup of a child that unwinds.
            handles[2].abort()
            backend.close()
            backend.__exit__(None, None, None)
            found["done"] = handles[2].done
            os.write(write, json.dumps(found).encode())
        finally:
            del handles, backend
            gc.collect()
            os._exit(0)
    os.close(write)
    data = b""
    while block := os.read(read, 65536):
        data += block
    os.close(read)
    assert os.waitpid(child, 0)[1] == 0
    found = json.loads(data)
    assert found.pop("done") is True
    assert found == dict.fromkeys(found, StoreForkedError.__name__)
    handles[0].put([2], n=2)
    handles[2].put_blob("position/p", b"i7")
    handles[2].commit()
    handles[2].wait()
    backend.close()
    with StateBackend.open(state) as backend:
        assert backend.positions == {"p": 7}
        assert backend.table("t", key="i64", columns={"n": "i64", "y": "bytes"}).get([1]).found.tolist() == [True]


def test_a_closed_backend_holds_no_descriptors(state):
    """Handles that somebody still has keep nothing open."""
    before = descriptors()
    backend = StateBackend.open(state)
    handles = parts(backend)
    backend.close()
    assert str(state) not in Path("/proc/self/maps").read_text()
    assert descriptors() == before
    assert handles
    del handles, backend
    gc.collect()
