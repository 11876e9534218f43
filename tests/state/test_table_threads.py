"""Several threads on one table: the GIL is released, calls exclude one another, nothing is lost."""

from __future__ import annotations

import threading

import numpy as np

from onceflow.embed import StateBackend

ROUNDS, BATCH, KEYS = 60, 20_000, 5_000


def run_together(*works):
    errors = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_updates_reads_and_checkpoints_at_the_same_time(state):
    with StateBackend.open(state) as backend:
        table = backend.table("t", key="i64", columns={"n": "i64", "twice": "i64"})
        table.put(np.arange(KEYS), n=0, twice=0)
        stop = threading.Event()

        def update(seed):
            def work():
                random = np.random.default_rng(seed)
                for _ in range(ROUNDS):
                    table.update(random.integers(0, KEYS, BATCH), {"n": ("add", 1), "twice": ("add", 2)})

            return work

        def read():
            while not stop.is_set():
                rows = table.get(np.arange(KEYS)).columns
                # A batch is applied as a whole, so no reader sees half of one.
                assert (rows["twice"] == 2 * rows["n"]).all()
                assert rows["n"].sum() % BATCH == 0

        def checkpoint():
            while not stop.is_set():
                backend.checkpoint().wait()

        def update_all():
            try:
                run_together(update(1), update(2), update(3))
            finally:
                stop.set()

        run_together(update_all, read, checkpoint)
        assert table.scan().columns["n"].sum() == 3 * ROUNDS * BATCH
        backend.checkpoint().wait()
    with StateBackend.open(state) as backend:
        table = backend.table("t", key="i64", columns={"n": "i64", "twice": "i64"})
        assert table.scan().columns["twice"].sum() == 6 * ROUNDS * BATCH


def test_inserts_and_deletes_of_different_keys(backend):
    table = backend.table("t", key="str", columns={"n": "i64"})

    def work(name):
        def insert_and_delete():
            keys = [f"{name}-{number}" for number in range(5_000)]
            for _ in range(10):
                table.count(keys, "n")
                assert table.delete(keys[:2_500]).all()

        return insert_and_delete

    run_together(*(work(name) for name in "abcd"))
    assert len(table) == 4 * 2_500
    assert set(table.scan().columns["n"].tolist()) == {10}


def test_the_gil_is_free_while_a_large_batch_is_applied(backend):
    """Another thread runs Python code in the meantime."""
    table = backend.table("t", key="i64", columns={"n": "i64"})
    keys = np.random.default_rng(1).permutation(3_000_000)
    ticks = 0
    done = threading.Event()

    def tick():
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    def apply():
        table.count(keys, "n")
        done.set()

    run_together(tick, apply)
    assert ticks > 5
    assert len(table) == len(keys)
