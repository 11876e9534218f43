"""How far event time has come within a step, as a checkpoint keeps it; and what earlier versions kept in its place."""

from __future__ import annotations

from typing import Any

import msgspec

from onceflow.graph.graph import OperatorStep
from onceflow.graph.steps import ProcessSpec, WindowSpec
from onceflow.types import Micros, Plain

__all__ = ["read_marks"]

#: What a window step kept before it kept what is closed: its watermark, as so many bytes.
_WATERMARK_BYTES = 8


def read_marks(step: OperatorStep, data: bytes | None) -> tuple[dict[str, Micros], dict[str, Plain]]:
    """The marks of a step, and what an earlier version had kept with them of what the step had agreed on.

    Args:
        step: Whose they are.
        data: Marks by name, in msgpack; None: nothing was kept. Earlier versions kept of a window step its watermark,
            and of a ``process`` step the kinds of its states by name.
    """
    if data is None:
        return {}, {}
    if isinstance(step.spec, WindowSpec) and len(data) == _WATERMARK_BYTES:
        return {"watermark": int.from_bytes(data, "little", signed=True)}, {}
    kept: dict[str, Any] = msgspec.msgpack.decode(data)
    return ({}, {"states": kept}) if isinstance(step.spec, ProcessSpec) else (kept, {})
