"""Faults of records that a function of batches puts in each other's places: they get each other's event times."""

import pytest

from onceflow import Dataflow, run
from onceflow.exceptions import UserFunctionError
from onceflow.testing import TestingSource, TransactionalTestingSink


def rows():
    return [{"k": 1, "v": [n], "t": n} for n in range(4)]


def sort_in_place(batch):
    batch.sort(key=lambda row: -row["t"])
    return batch


MOVES = {
    "sorted": lambda batch: sorted(batch, key=lambda row: -row["t"]),
    "sorted in place": sort_in_place,
    "one behind": lambda batch: [{}, *batch[:-1]],
}


@pytest.mark.parametrize("move", MOVES)
def test_records_in_each_others_places_are_refused(tmp_path, move):
    """Records in the windows of others, since event times stay at their places."""
    flow = Dataflow("flow")
    stream = flow.source("in", TestingSource(rows(), event_time=lambda row: row["t"], batch_size=3))
    stream.map_batch(MOVES[move]).sink("out", TransactionalTestingSink())
    with pytest.raises(UserFunctionError, match=r"has put record \d of its batch in the place of record \d"):
        run(flow, tmp_path)


def test_what_is_no_move_is_taken(tmp_path):
    """Batches that are refused though each result belongs to its record; and where there are no event times."""
    same = rows()[0]
    gaps = lambda batch: [row if row["t"] % 2 == 0 else batch[0] for row in batch]  # noqa: E731
    flow = Dataflow("flow")
    out = {name: TransactionalTestingSink() for name in ("filled", "same", "numbers", "untimed")}
    flow.source("in", TestingSource(rows(), event_time=lambda row: row["t"])).map_batch(gaps).sink("a", out["filled"])
    repeated = flow.source("same", TestingSource([same] * 3, event_time=lambda row: row["t"]))
    repeated.map_batch(lambda batch: batch[::-1]).sink("b", out["same"])
    numbers = flow.source("numbers", TestingSource([5, 5, 6], event_time=lambda n: n))
    numbers.map_batch(lambda batch: [6, 5, 5]).sink("c", out["numbers"])
    flow.source("untimed", TestingSource(rows())).map_batch(MOVES["sorted"]).sink("d", out["untimed"])
    run(flow, tmp_path)
    assert [row["t"] for row in out["filled"].records] == [0, 0, 2, 0]
    assert out["same"].records == [same] * 3
    assert out["numbers"].records == [6, 5, 5]
    assert [row["t"] for row in out["untimed"].records] == [3, 2, 1, 0]
