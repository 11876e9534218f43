"""A table that is dropped after a cut is still part of that checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from onceflow.embed import StateBackend
from onceflow.exceptions import CheckpointStateError, UnknownNameError


def test_dropped_while_the_checkpoint_is_written(state):
    with StateBackend.open(state) as backend:
        table = backend.table("t", key="i64", columns={"n": "i64"})
        table.put(np.arange(200_000), n=1)
        pending = backend.checkpoint()
        backend.drop_table("t")
        assert pending.wait().id == pending.id
        [info] = backend.checkpoints()
        assert info.tables == {"t": 200_000}
        backend.checkpoint().wait()
    with StateBackend.open(state, resume_from=pending.id) as backend:
        assert len(backend.table("t", key="i64", columns={"n": "i64"})) == 200_000
    with StateBackend.open(state) as backend:
        assert backend.tables() == {}


def test_refused_while_a_checkpoint_is_open(backend):
    backend.table("t", key="i64", columns={})
    pending = backend.begin_checkpoint()
    with pytest.raises(CheckpointStateError, match="commit or abort"):
        backend.drop_table("t")
    pending.abort()
    backend.drop_table("t")
    with pytest.raises(UnknownNameError, match="no table"):
        backend.drop_table("t")
