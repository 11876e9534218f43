"""What sinks stage in a checkpoint: in one piece, or in several."""

from __future__ import annotations

from onceflow.embed import StateBackend


def test_pieces_are_joined_whatever_was_staged_before(state):
    """Kind: memory that is used again, with bytes of an earlier output in it."""
    staged = [
        {"a": [b"one", b"", b"two"], "b": b"three"},
        {"a": [b"x" * 3_000_000, b"y" * 3_000_000]},
        {"a": b"z", "b": []},
        {"b": [b"last"]},
    ]
    with StateBackend.open(state, retain=len(staged)) as backend:
        for outputs in staged:
            pending = backend.begin_checkpoint()
            for sink, value in outputs.items():
                pending.stage(sink, value)
            pending.write()
    with StateBackend.open(state) as backend:
        found = [checkpoint.staged for checkpoint in backend.checkpoints()]
    joined = [{s: v if isinstance(v, bytes) else b"".join(v) for s, v in outputs.items()} for outputs in staged]
    assert found == joined
