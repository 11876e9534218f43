"""An argument that cannot be is refused by a typed error that names it: no OverflowError, no wrapping, no panic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onceflow._native import (
    BarrierAligner,
    CheckpointCoordinator,
    Deduplicator,
    crash_point,
    key_group,
    recovery_plan,
    verify,
)
from onceflow.embed import StateBackend
from onceflow.exceptions import ConfigurationError, OnceflowError, TypeMismatchError

INTEGERS = [-1, 2**64, 2**200, 10 ** (10**4), 1.5, "1", b"1", True, None, object(), math.nan, np.float64(1), "\ud800"]
FLOATS = ["1", b"1", True, object(), 10**400, None, [1.0]]
TEXTS = [1, b"x", True, object(), "\ud800", ["x"]]
BYTES = [1, "x", bytearray(b"x"), memoryview(b"x"), None, [1]]


class Unspeakable:
    """What cannot even be shown."""

    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __repr__


def coordinator():
    return CheckpointCoordinator(["task"], ["sink"])


#: name of the argument, what cannot be it, and a call with it.
CALLS = [
    ("channels", INTEGERS, lambda backend, x: BarrierAligner(x)),
    ("max_buffered_bytes", INTEGERS, lambda backend, x: BarrierAligner(1, max_buffered_bytes=x)),
    ("mode", TEXTS, lambda backend, x: BarrierAligner(1, mode=x)),
    ("finished_channels", TEXTS, lambda backend, x: BarrierAligner(1, finished_channels=x)),
    ("channel", INTEGERS, lambda backend, x: BarrierAligner(1).receive(x, "item")),
    ("size_bytes", INTEGERS, lambda backend, x: BarrierAligner(1).receive(0, "item", x)),
    ("channel", INTEGERS, lambda backend, x: BarrierAligner(1).barrier(x, 1)),
    ("checkpoint_id", INTEGERS, lambda backend, x: BarrierAligner(1).barrier(0, x)),
    ("created_s", FLOATS, lambda backend, x: BarrierAligner(1).barrier(0, 1, created_s=x)),
    ("now_s", FLOATS, lambda backend, x: BarrierAligner(1).barrier(0, 1, now_s=x)),
    ("channel", INTEGERS, lambda backend, x: BarrierAligner(1).cancel(x, 1)),
    ("checkpoint_id", INTEGERS, lambda backend, x: BarrierAligner(1).cancel(0, x)),
    ("channel", INTEGERS, lambda backend, x: BarrierAligner(1).end(x)),
    ("channel", INTEGERS, lambda backend, x: BarrierAligner(1).is_blocked(x)),
    ("tasks", [1, "ab", None, [1], ["\ud800"]], lambda backend, x: CheckpointCoordinator(x, [])),
    ("sinks", [1, "ab", None, [1], ["\ud800"]], lambda backend, x: CheckpointCoordinator(["t"], x)),
    ("timeout_s", FLOATS, lambda backend, x: CheckpointCoordinator(["t"], [], timeout_s=x)),
    ("checkpoint_id", INTEGERS, lambda backend, x: coordinator().trigger(x, now_s=0)),
    ("now_s", FLOATS, lambda backend, x: coordinator().trigger(1, now_s=x)),
    ("task", TEXTS, lambda backend, x: coordinator().acknowledge(x, 1, now_s=0)),
    ("checkpoint_id", INTEGERS, lambda backend, x: coordinator().decided(x)),
    ("reason", TEXTS, lambda backend, x: coordinator().decline("task", 1, x)),
    ("indefinite", ["yes", 1, None], lambda backend, x: coordinator().decision_failed(1, "reason", indefinite=x)),
    ("now_s", FLOATS, lambda backend, x: coordinator().tick(x)),
    ("restored", [v for v in INTEGERS if v is not None], lambda backend, x: plan(restored=x)),
    ("decided_after", [1, "12", [-1], [2**64], [None]], lambda backend, x: plan(decided_after=x)),
    ("applied", [1, "x", {1: 2}, {"sink": -1}, {"\ud800": 1}], lambda backend, x: plan(applied=x)),
    ("unreadable", [1, "12", [-1], [1.5]], lambda backend, x: plan(unreadable=x)),
    ("window", INTEGERS, lambda backend, x: Deduplicator(window=x)),
    ("max_producers", INTEGERS, lambda backend, x: Deduplicator(max_producers=x)),
    ("expiry_s", [v for v in FLOATS if v is not None], lambda backend, x: Deduplicator(expiry_s=x)),
    ("order", TEXTS, lambda backend, x: Deduplicator(order=x)),
    ("now_s", FLOATS, lambda backend, x: Deduplicator().check_many(1, 0, 0, 0, now_s=x)),
    ("now_s", FLOATS, lambda backend, x: Deduplicator().expire(x)),
    ("snapshot", BYTES, lambda backend, x: Deduplicator().restore(x)),
    ("key_groups", INTEGERS, lambda backend, x: key_group(1, "i64", x)),
    ("path", [1, None, b"x", object()], lambda backend, x: verify(x)),
    ("name", TEXTS, lambda backend, x: crash_point(x)),
    ("path", [1, None, object()], lambda backend, x: StateBackend.open(x)),
    ("job", TEXTS, lambda backend, x: StateBackend.open(backend.path + "-2", job=x)),
    ("key_groups", [v for v in INTEGERS if v is not None], lambda backend, x: opened(backend, key_groups=x)),
    ("retain", INTEGERS, lambda backend, x: opened(backend, retain=x)),
    ("create", ["no", 1, None], lambda backend, x: opened(backend, create=x)),
    (
        "resume_from",
        [-1, 2**64, 1.5, True, object(), "\ud800", "old"],
        lambda backend, x: opened(backend, resume_from=x),
    ),
    ("restore_key_groups", [1, (1,), (-1, 2), (0, 2**16)], lambda backend, x: opened(backend, restore_key_groups=x)),
    ("max_state_bytes", INTEGERS, lambda backend, x: opened(backend, max_state_bytes=x)),
    ("map_size_bytes", INTEGERS, lambda backend, x: opened(backend, map_size_bytes=x)),
    ("chunk_bytes", INTEGERS, lambda backend, x: opened(backend, chunk_bytes=x)),
    ("name", TEXTS, lambda backend, x: backend.table(x, key="i64", columns={})),
    ("name", TEXTS, lambda backend, x: backend.drop_table(x)),
    ("name", TEXTS, lambda backend, x: backend.deduplicator(x)),
    ("savepoint", TEXTS, lambda backend, x: backend.begin_checkpoint(savepoint=x)),
    ("savepoint", TEXTS, lambda backend, x: backend.checkpoint(savepoint=x)),
    ("position", [{1: 2}, {"\ud800": 1}, [1], "ab"], lambda backend, x: backend.checkpoint(x)),
    ("checkpoint_id", INTEGERS, lambda backend, x: backend.delete_checkpoint(x)),
    ("target", [1, None, object()], lambda backend, x: backend.backup(x)),
    ("column", TEXTS, lambda backend, x: table(backend).count([1], x)),
    ("column", TEXTS, lambda backend, x: table(backend).get_bytes([1], x)),
    ("column", TEXTS, lambda backend, x: table(backend).get([1]).validity(x)),
    ("column", [{"\ud800": 1}], lambda backend, x: table(backend).put([1], **x)),
    ("column", [{1: ("add", 1)}], lambda backend, x: table(backend).update([1], x)),
    ("updates", [1, "ab", [1]], lambda backend, x: table(backend).update([1], x)),
    ("first_group", INTEGERS, lambda backend, x: table(backend).scan(x)),
    ("end_group", [v for v in INTEGERS if v is not None], lambda backend, x: table(backend).scan(0, x)),
    ("key groups 5 to 3", [3], lambda backend, x: table(backend).scan(5, x)),
    ("key groups 0 to 129", [129], lambda backend, x: table(backend).scan(0, x)),
    ("bound", [v for v in INTEGERS if v != -1], lambda backend, x: table(backend).drain_below(x)),
    ("tables", [1, "ab", [1]], lambda backend, x: pending(backend, lambda p: p.freeze(x))),
    ("name", TEXTS, lambda backend, x: pending(backend, lambda p: p.put_blob(x, b""))),
    ("value", BYTES, lambda backend, x: pending(backend, lambda p: p.put_blob("b", x))),
    ("sink", TEXTS, lambda backend, x: pending(backend, lambda p: p.stage(x, b""))),
    ("value", [*BYTES, [b"x", "x"]], lambda backend, x: pending(backend, lambda p: p.stage("s", x))),
    ("timeout_s", [-1, "1", True, math.nan, object()], lambda backend, x: pending(backend, lambda p: p.wait(x))),
]


def plan(**facts):
    usual = {"restored": 1, "decided_after": [], "applied": {}, "replayable_to_position": True}
    return recovery_plan(**usual | facts)


def opened(backend, **settings):
    StateBackend.open(backend.path + "-2", **settings).close()


def table(backend):
    return backend.table("t", key="i64", columns={"n": "i64", "y": "bytes"})


def pending(backend, use):
    checkpoint = backend.begin_checkpoint()
    try:
        use(checkpoint)
    finally:
        checkpoint.abort()


@pytest.mark.parametrize(
    ("name", "values", "call"), CALLS, ids=[f"{number}-{name}" for number, (name, _, _) in enumerate(CALLS)]
)
def test_an_argument_that_cannot_be_is_named(backend, name, values, call):
    for value in [*values, *([Unspeakable()] if name not in ("key groups 5 to 3", "key groups 0 to 129") else [])]:
        if name in ("position", "column", "applied") and isinstance(value, Unspeakable):
            continue
        with pytest.raises(ConfigurationError, match=name):
            call(backend, value)


@pytest.mark.parametrize("channels", [2**20 + 1, 2**31, 2**63, 2**64 - 1])
def test_more_channels_than_there_is_memory_for(channels):
    """One allocation for a number that anybody may give: the process was aborted."""
    with pytest.raises(ConfigurationError, match="1 to 1048576 channels"):
        BarrierAligner(channels)
    assert BarrierAligner(2**20).is_blocked(2**20 - 1) is False


def test_integers_of_numpy_are_integers(backend):
    aligner = BarrierAligner(np.int64(2))
    aligner.receive(np.uint8(1), "item", np.int32(5))
    assert len(table(backend).scan(np.uint16(0), np.int64(128))) == 0


@pytest.mark.parametrize("position", [True, 2**63, 1.5, None, "\ud800", [1], np.float64(1)])
def test_positions_that_would_come_back_as_something_else(backend, position):
    with pytest.raises((TypeMismatchError, ConfigurationError), match="position"):
        backend.checkpoint({"in": position})
    backend.checkpoint({"in": -(2**63), "b": b"", "s": ""}).wait()


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([-1, 0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 2**200]),
        st.floats(),
        st.text(max_size=3),
        st.binary(max_size=3),
        st.sampled_from(["i64", "str", "n", "y", "add", "t", "\ud800"]),
        st.builds(Unspeakable),
        st.sampled_from(
            [np.arange(3), np.array([1.5, np.nan]), np.array(["a"]), np.array([[1]]), np.int8(1), np.array(7)]
        ),
        st.sampled_from([np.array([1, "a"], dtype=object), np.array([2**63], "u8"), np.float16(1), np.longdouble(0.1)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["n", "y", "f"]), inner, max_size=2),
    ),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_argument_gives_anything_but_a_typed_error(backend, data):
    objects = [
        backend,
        table(backend),
        backend.table("u", key=("i64", "str"), columns={"f": "f32", "b": "bool", "u": "u64", "y": "bytes"}),
        backend.table("b", key="bytes", columns={"w": "u32", "f": "f64"}),
        backend.deduplicator("d"),
        Deduplicator(order="unordered"),
        BarrierAligner(2),
        BarrierAligner(2, mode="at_least_once"),
        coordinator(),
    ]
    target = data.draw(st.sampled_from(objects))
    left_alone = {"close", "backup", "path", "checkpoint", "begin_checkpoint"}
    names = [name for name in dir(type(target)) if not name.startswith("_") and name not in left_alone]
    method = getattr(target, data.draw(st.sampled_from(names)))
    if not callable(method):
        return
    arguments = data.draw(st.lists(JUNK, max_size=4))
    named = data.draw(
        st.dictionaries(st.sampled_from(["n", "y", "f", "now_s", "positions", "key", "columns"]), JUNK, max_size=2)
    )
    try:
        method(*arguments, **named)
    except OnceflowError as error:
        assert str(error)
    except TypeError as error:
        # How many arguments there are is Python's own matter.
        assert "argument" in str(error), error
