"""Records on their way to Kafka as the decision record keeps them: bytes, made once, when they are written.

A handle is a list: first all that is to be known of the frames, then their bytes, which so need no copy.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from onceflow.connectors.kafka.bounds import Bounds
from onceflow.connectors.outbox.staged import Staged
from onceflow.connectors.topics.staged import Part
from onceflow.types import Plain

__all__ = ["Frame", "handle_of", "read_staged"]

_Parts = TypeVar("_Parts")

#: What a frame takes in memory beside its bytes, about.
_FRAME_BYTES = 250


class _Head(msgspec.Struct, array_like=True, frozen=True):
    """A frame without its bytes."""

    written_ms: int
    bounds: Bounds


class Frame(msgspec.Struct, frozen=True):
    """Records that were written together.

    Attributes:
        data: A ``Part``, as msgpack.
        written_ms: The timestamp of those that have none of their own.
        bounds: What a topic may refuse of them.
    """

    data: bytes
    written_ms: int
    bounds: Bounds

    @classmethod
    def of(cls, part: Part, written_ms: int) -> Frame:
        """The frame of records whose partitions are chosen."""
        return cls(_encode(part), written_ms, Bounds.of(part))

    @property
    def nbytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.data) + _FRAME_BYTES

    def part(self) -> Part:
        """The records."""
        return _read_part(self.data)


_encode = msgspec.msgpack.Encoder().encode
_read_part = msgspec.msgpack.Decoder(Part).decode
_read_heads = msgspec.msgpack.Decoder(Staged[list[_Head]]).decode
_read_parts = msgspec.msgpack.Decoder(Staged[list[Part]]).decode


def handle_of(staged: Staged[list[Frame]]) -> Plain:
    """What the decision record keeps."""
    heads = _with(staged, [_Head(frame.written_ms, frame.bounds) for frame in staged.parts])
    return [_encode(heads), *(frame.data for frame in staged.parts)]


def read_staged(handle: Any) -> Staged[list[Frame]]:
    """What was staged, also by a version that had no frames. Raises what msgspec does, or TypeError."""
    if isinstance(handle, list) and handle:
        heads = _read_heads(handle[0])
        frames = [
            Frame(data, head.written_ms, head.bounds) for head, data in zip(heads.parts, handle[1:], strict=False)
        ]
        if len(frames) + 1 != len(handle):
            raise TypeError(f"it has {len(handle)} pieces, and {len(heads.parts)} frames")
        return _with(heads, frames)
    parts = _read_parts(handle)
    return _with(parts, [Frame.of(part, parts.staged_ms) for part in parts.parts])


def _with(staged: Staged[Any], parts: _Parts) -> Staged[_Parts]:
    kept = {name: getattr(staged, name) for name in Staged.__struct_fields__}
    return Staged(**{**kept, "parts": parts})
