"""A reader needs nothing but the directory."""

from __future__ import annotations

import pytest

from onceflow.embed import StateBackend
from onceflow.exceptions import StoreMismatchError, StoreMissingError


def test_a_reader_need_not_know_job_and_key_groups(state):
    with StateBackend.open(state, job="totals", key_groups=16) as owner:
        owner.table("sums", key="i64", columns={"sum": "i64"}).add([1, 2], sum=[10, 20])
        number = owner.checkpoint({"in": 7, "file": "a.csv", "raw": b"\x00"}).wait().id
        with StateBackend.open(state, read_only=True) as reader:
            assert (reader.job, reader.key_groups) == ("totals", 16)
            assert len(reader.table("sums", key="i64", columns={"sum": "i64"})) == 2
            (info,) = reader.checkpoints()
            assert info.id == number
            assert info.positions == {"in": 7, "file": "a.csv", "raw": b"\x00"} == reader.positions
        with pytest.raises(StoreMismatchError, match='"totals"'):
            StateBackend.open(state, job="others", read_only=True)
        with pytest.raises(StoreMismatchError, match="16 key groups"):
            StateBackend.open(state, key_groups=32, read_only=True)


def test_an_owner_without_a_name_is_the_default_job(state):
    with StateBackend.open(state) as owner:
        assert (owner.job, owner.key_groups) == ("default", 128)


def test_a_reader_of_nothing(state):
    with pytest.raises(StoreMissingError):
        StateBackend.open(state, read_only=True)
    assert not state.exists()
