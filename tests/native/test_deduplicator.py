"""The deduplicator through Python: its arguments, threads, and exactness across crashes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceflow.embed import Deduplicator, Verdicts
from onceflow.exceptions import ConfigurationError, LengthMismatchError, TypeMismatchError


@pytest.mark.parametrize("integer", [np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64])
def test_integers_of_any_width_are_taken(integer: type[np.integer[Any]]) -> None:
    column = np.zeros(3, integer)
    verdicts = Deduplicator().check_many(np.arange(3, dtype=integer), column, column, column)
    assert verdicts.accepted.all()


def test_lists_scalars_strided_and_reversed_arrays_are_taken() -> None:
    expected = [Verdicts.ACCEPT, Verdicts.ACCEPT, Verdicts.DUPLICATE]
    ids = np.array([7, 0, 8, 0, 7], np.int64)[::2]
    for producer_ids in ([7, 8, 7], (7, 8, 7), ids, np.array([7, 8, 7])[::-1]):
        verdicts = Deduplicator().check_many(producer_ids, 3, 0, [9, 9, 9], positions=ids)
        assert verdicts.codes.tolist() == expected
        assert verdicts.details.tolist() == [-1, -1, 7]
    one = Deduplicator().check_many(1, 0, 0, 0)
    assert len(one) == 1
    assert one.accepted.tolist() == [True]


def test_arrow_arrays_are_taken() -> None:
    pa = pytest.importorskip("pyarrow")
    verdicts = Deduplicator().check_many(pa.array([1, 2]), 0, pa.array([0, 0], pa.int32()), 0)
    assert verdicts.accepted.all()


def test_an_empty_call_has_no_verdicts() -> None:
    verdicts = Deduplicator().check_many([], [], [], [])
    assert len(verdicts) == 0
    assert verdicts.codes.dtype == np.uint8
    assert verdicts.details.dtype == np.int64
    assert verdicts.accepted.dtype == np.bool_


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([1, 2], [0], [0, 0], [0, 0]), LengthMismatchError),
        (([1.0], [0], [0], [0]), TypeMismatchError),
        (([True], [0], [0], [0]), TypeMismatchError),
        ((["a"], [0], [0], [0]), TypeMismatchError),
        (([[1]], [0], [0], [0]), TypeMismatchError),
        (([None], [0], [0], [0]), TypeMismatchError),
        ((np.array([2**63], np.uint64), [0], [0], [0]), ConfigurationError),
        (([1], [0], [2**31], [2**31]), ConfigurationError),
        (([1], [0], [0], [-1]), ConfigurationError),
        (([-1], [0], [0], [0]), ConfigurationError),
    ],
)
def test_columns_that_cannot_be_are_refused(arguments: tuple[Any, Any, Any, Any], error: type[Exception]) -> None:
    dedupe = Deduplicator()
    with pytest.raises(error):
        dedupe.check_many(*arguments)
    assert len(dedupe) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "lenient"},
        {"order": "random"},
        {"window": 0},
        {"max_producers": 0},
        {"expiry_s": 0.0},
        {"expiry_s": float("nan")},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Deduplicator(**settings)


def test_threads_share_one_deduplicator() -> None:
    """Eight threads send the same batches: each batch is accepted by exactly one of them."""
    dedupe = Deduplicator(max_producers=2_000)
    ids = np.arange(2_000)
    accepted = np.zeros((8, 20, len(ids)), np.bool_)
    turn = threading.Barrier(8)

    def send(worker: int) -> None:
        for sequence in range(20):
            turn.wait()
            accepted[worker, sequence] = dedupe.check_many(ids, 0, sequence, sequence).accepted

    threads = [threading.Thread(target=send, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (accepted.sum(axis=0) == 1).all()


# What a writer does next: (producer, what). It sends batch by batch, and resends after doubt.
ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["send"] * 3 + ["resend", "restart", "skip", "checkpoint", "crash"]),
        st.integers(1, 4),
    ),
    max_size=80,
)


@given(actions=ACTIONS, order=st.sampled_from(["ordered", "unordered"]), calls=st.integers(1, 5))
def test_no_batch_counts_twice_when_state_and_position_are_rewound_together(
    actions: list[tuple[int, str, int]], order: str, calls: int
) -> None:
    """An input log holds retries; the job crashes anywhere, and goes on from its checkpoint.

    What the job applied after the checkpoint is lost with the crash, like the verdicts; after the
    replay every batch that was ever accepted is applied once, and retries never are.
    """
    log: list[tuple[int, int, int, int]] = []
    sequences = [0, 0, 0]
    epochs = [0, 0, 0]
    newest: dict[int, tuple[int, int, int, int]] = {}

    def fresh() -> Deduplicator:
        return Deduplicator(order=order, window=5 if order == "ordered" else 1024)

    dedupe = fresh()
    applied: list[tuple[int, int, int, int]] = []
    position = 0
    kept: tuple[bytes, int, int] = (dedupe.snapshot(), 0, 0)

    def run() -> None:
        nonlocal position
        while position < len(log):
            batches = log[position : position + calls]
            columns = np.array(batches).T
            verdicts = dedupe.check_many(*columns, positions=np.arange(len(batches)) + position)
            for batch, code, detail in zip(batches, verdicts.codes, verdicts.details, strict=True):
                if code == Verdicts.ACCEPT:
                    applied.append(batch)
                elif code == Verdicts.DUPLICATE:
                    assert batch in applied, "called a duplicate, but never applied"
                    assert order == "unordered" or log[detail] == batch
            position += len(batches)

    for producer, what, count in actions:
        match what:
            case "send" | "skip":
                first = sequences[producer] + (count if what == "skip" else 0)
                batch = (producer, epochs[producer], first, first + count - 1)
                log.append(batch)
                # A writer that skipped is refused in an ordered window, and goes on as before.
                if what == "send" or order == "unordered":
                    sequences[producer] = first + count
                    newest[producer] = batch
            case "resend" if producer in newest:
                log.append(newest[producer])
            case "restart":
                epochs[producer] += 1
                sequences[producer] = 0
            case "checkpoint":
                run()
                kept = (dedupe.snapshot(), position, len(applied))
            case "crash":
                run()
                dedupe = fresh()
                snapshot, position, length = kept
                dedupe.restore(snapshot)
                del applied[length:]
            case _:
                pass
    run()
    assert len(applied) == len(set(applied)), "a batch was applied twice"

    without_crashes = fresh()
    verdicts = [without_crashes.check_many(*batch).accepted[0] for batch in log]
    assert applied == [batch for batch, accepted in zip(log, verdicts, strict=True) if accepted]
    # In an ordered window nothing that was sent is lost either.
    seen = {(producer, epoch, first) for producer, epoch, first, _ in applied}
    assert all(batch[:3] in seen for batch in newest.values())
