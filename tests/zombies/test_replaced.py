"""A run that was replaced says so, whatever it falls over first."""

from __future__ import annotations

import time

import pytest
from counting_job import run, write_input
from lives import Life, no_survivors

from onceflow.exceptions import UserFunctionError


@no_survivors()
def test_the_first_thing_that_fails_is_not_taken_for_the_reason(tmp_path):
    """The kind of fault: what a run is told (an I/O error, a producer's epoch) is a consequence of its being replaced,
    and sends its operator to look for permissions and free space."""
    write_input(tmp_path)
    root = tmp_path / "job"
    root.mkdir()

    there, go = tmp_path / "there", tmp_path / "go"

    def wait_and_fail(number: int) -> None:
        if number == 2:
            there.touch()
            while not go.exists():
                time.sleep(0.001)
            raise ValueError("a consequence")

    older = Life(lambda: run(root, "csv", on_batch=wait_and_fail))
    while not there.exists():
        assert older.step(0.01) is None, older.error
    newer = Life(lambda: run(root, "csv", take_over=True))
    assert newer.wait() == "done", newer.error
    go.touch()
    assert older.wait() == "FencedError"
    assert "another process has taken over" in older.error
    # With what it fell over.
    assert "ValueError: a consequence" in older.error


def test_what_fails_in_a_run_that_nobody_replaced_is_told_as_it_is(tmp_path):
    write_input(tmp_path)
    root = tmp_path / "job"
    root.mkdir()

    def fail(number: int) -> None:
        raise ValueError("a reason")

    with pytest.raises(UserFunctionError, match="a reason"):
        run(root, "csv", on_batch=fail)


@no_survivors()
def test_a_run_that_is_stopped_while_it_makes_its_directory_is_not_advised_to_be_taken_over(tmp_path, crash_points):
    """The kind of fault: advice to do what has just been done, and was refused."""
    write_input(tmp_path)
    root = tmp_path / "job"
    root.mkdir()
    first = Life(lambda: run(root, "csv"), STOP_AT="env.create.pre_sync")
    assert first.step(60) == "stopped"
    second = Life(lambda: run(root, "csv", take_over=True))
    assert second.wait() == "StoreLockedError"
    assert f"is being created by process {first.pid}, so there is nothing to take over yet" in second.error
    assert "let it go on, or kill it, and open the store again" in second.error
    first.kill()
    third = Life(lambda: run(root, "csv"))
    assert third.wait() == "done", third.error
