"""How a sink is written under a guarantee: what is visible when, and what the decision record keeps.

=====================  =======================================================================================
delivery               output of checkpoint N becomes visible
=====================  =======================================================================================
TransactionalDelivery  prepared before the decision, committed after it; again by every recovery
RecordedDelivery       its records are part of the decision; written after it, and again by a recovery
DirectDelivery         at once; flushed before the decision. A crash in between repeats it
BufferedDelivery       written after the decision, once. A crash in between loses it
=====================  =======================================================================================

``prepare`` and ``commit`` run on the checkpoint thread, everything else on the job's thread: ``open_delivery``,
``applied`` and ``recover`` before the first record, ``committed`` when all sinks have, ``abort`` and ``close`` when the
checkpoint thread has ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import msgspec

from onceflow.codec import Codec
from onceflow.columns import rows_of
from onceflow.crash import crash_point
from onceflow.exceptions import ConfigurationError, FencedError, SinkError, StoreForkedError, described
from onceflow.process import HomeProcess
from onceflow.runtime.sizes import estimated_bytes
from onceflow.sinks import (
    Committable,
    IdempotentSink,
    OutputId,
    PlainSink,
    Sink,
    SinkContext,
    SinkWriter,
    TransactionalSink,
    TransactionalSinkWriter,
)
from onceflow.types import Batch, Guarantee, Plain

__all__ = ["Delivery", "Sealed", "Staged", "open_delivery", "seal", "sink_errors"]


#: What the decision record keeps of a sink, in pieces: they may be many megabytes, which are joined there.
Staged: TypeAlias = list[bytes]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What belongs to a checkpoint of the output to one sink.

    Attributes:
        output: For ``prepare``, ``commit`` and ``abort``; None if there is none.
        learnt: See ``Delivery.snapshot``.
    """

    output: Any | None
    learnt: bytes | None


class Delivery(ABC):
    """One sink under one guarantee."""

    #: Records, and bytes of them, held in memory since the last ``seal``: exact where they are held encoded, else as
    #: the sink says, or estimated.
    held = 0
    held_bytes = 0
    #: The same of what was sealed and is not committed yet.
    sealed = 0
    sealed_bytes = 0
    #: See ``SinkWriter.max_waiting``.
    max_waiting: int | None = None
    #: See ``TransactionalSinkWriter.max_held_bytes``.
    max_held_bytes: int | None = None
    #: What it makes visible is staged in the decision record before.
    stages = False
    #: What was sealed last is written again by the next run, unless a later decision tells that it was written.
    repeats = False

    @property
    def holds_much(self) -> bool:
        """Whether it holds more than its sink has room for."""
        waits = self.max_waiting is not None and self.held + self.sealed > self.max_waiting
        return waits or (self.max_held_bytes is not None and self.held_bytes > self.max_held_bytes)

    def applied(self, checkpoint_id: int) -> bool | None:
        """Whether the sink has made a checkpoint's output visible; None if it cannot tell."""
        return None

    @abstractmethod
    def recover(self, decided: Sequence[tuple[int, bytes]]) -> None:
        """Before the first record: decided checkpoints, oldest first, with what was staged for them."""

    @abstractmethod
    def write(self, records: Batch) -> None:
        """Output of the checkpoint that comes next."""

    @abstractmethod
    def seal(self, checkpoint_id: int) -> Any | None:
        """Cuts; None if there is nothing."""

    def refused(self) -> int:
        """See ``SinkWriter.refused``."""
        return 0

    def snapshot(self) -> bytes | None:
        """After ``seal``: what the sink has learnt and a later run must know."""
        return None

    def prepare(self, checkpoint_id: int, sealed: Any) -> Staged | None:
        """Before the decision: what the decision record keeps."""
        return None

    def commit(self, checkpoint_id: int, sealed: Any, staged: Staged | None) -> None:  # noqa: B027
        """After the decision."""

    def abort(self, checkpoint_id: int, sealed: Any) -> None:  # noqa: B027
        """There was no decision."""

    def committed(self) -> None:
        """Nothing is held any more for the checkpoint that was sealed last."""
        self.sealed = self.sealed_bytes = 0

    @abstractmethod
    def close(self) -> None:
        """Releases the sink."""


class _TransactionalDelivery(Delivery):
    stages = True

    def __init__(self, writer: TransactionalSinkWriter) -> None:
        self._writer = writer
        self.max_held_bytes = writer.max_held_bytes
        #: What was prepared last, as it is staged and as the writer gave it, if that is bytes and nothing else.
        self._prepared: tuple[Staged, Plain] | None = None

    def applied(self, checkpoint_id: int) -> bool | None:
        return self._writer.applied(checkpoint_id)

    def recover(self, decided: Sequence[tuple[int, bytes]]) -> None:
        self._writer.recover([_committable(checkpoint_id, staged) for checkpoint_id, staged in decided])

    def write(self, records: Batch) -> None:
        self._writer.write(records)
        held, held_bytes = self._writer.held, self._writer.held_bytes
        self.held = self.held + len(records) if held is None else held
        self.held_bytes = self.held_bytes + estimated_bytes(records) if held_bytes is None else held_bytes

    def seal(self, checkpoint_id: int) -> Any | None:
        self.held = self.held_bytes = 0
        return self._writer.seal(checkpoint_id)

    def snapshot(self) -> bytes | None:
        learnt = self._writer.snapshot()
        return None if learnt is None else msgspec.msgpack.encode(learnt)

    def prepare(self, checkpoint_id: int, sealed: Any) -> Staged | None:
        handle = self._writer.prepare(checkpoint_id, sealed)
        pieces = _pieces(handle)
        if pieces is None:
            return [msgspec.msgpack.encode(handle)]
        self._prepared = pieces, handle
        return pieces

    def commit(self, checkpoint_id: int, sealed: Any, staged: Staged | None) -> None:
        if staged is None:
            return
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] is staged:
            self._writer.commit(Committable(checkpoint_id, prepared[1]))
        else:
            self._writer.commit(_committable(checkpoint_id, b"".join(staged)))

    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        self._writer.abort(checkpoint_id, sealed)

    def close(self) -> None:
        self._writer.close()


def _pieces(handle: Plain) -> Staged | None:
    """A handle of bytes, or of a list of bytes, as msgpack, without a copy of them; None: it is no such thing."""
    if isinstance(handle, bytes):
        return [_head_of_bytes(handle), handle]
    if not isinstance(handle, list) or set(map(type, handle)) != {bytes}:
        return None
    pieces = [b"\xdd" + len(handle).to_bytes(4, "big")]
    for item in handle:
        pieces += (_head_of_bytes(cast("bytes", item)), cast("bytes", item))
    return pieces


def _head_of_bytes(data: bytes) -> bytes:
    return b"\xc6" + len(data).to_bytes(4, "big")


def _committable(checkpoint_id: int, staged: bytes) -> Committable:
    return Committable(checkpoint_id, msgspec.msgpack.decode(staged))


class _Recorded(msgspec.Struct):
    """Output of a checkpoint in its decision record. Earlier versions kept the batches alone.

    Attributes:
        run: Identity of the run that staged it.
        worker: Its number.
        batches: The records, as the codec writes them.
    """

    run: str
    worker: int
    batches: list[bytes]


def _checks(writer: SinkWriter) -> bool:
    """Whether it looks at records before the decision."""
    return type(writer).check_output is not SinkWriter.check_output


class _RecordedDelivery(Delivery):
    stages = True

    def __init__(self, writer: SinkWriter, codec: Codec, check_epoch: Callable[[], None], context: SinkContext) -> None:
        self._writer = writer
        self.max_waiting = writer.max_waiting
        self._codec = codec
        self._check_epoch = check_epoch
        self._context = context
        self._checks = _checks(writer)
        self._batches: list[bytes] = []

    def recover(self, decided: Sequence[tuple[int, bytes]]) -> None:
        # A decision waits for the writes of the one before, so only the newest can be unwritten.
        for checkpoint_id, staged in decided:
            if checkpoint_id == decided[-1][0]:
                self.commit(checkpoint_id, None, [staged])

    def write(self, records: Batch) -> None:
        # Bytes at once: user code may change a record later, such as a state that it also returned as a result.
        batch = self._codec.encode(rows_of(records))
        if self._checks:
            # As they come back from the decision record.
            self._writer.check_output(self._codec.decode(batch))
        self._batches.append(batch)
        self.held += len(records)
        self.held_bytes += len(batch)

    def seal(self, checkpoint_id: int) -> Any | None:
        batches, self._batches = self._batches, []
        self.held = self.held_bytes = 0
        self.repeats = bool(batches)
        return batches or None

    def prepare(self, checkpoint_id: int, sealed: Any) -> Staged | None:
        return [msgspec.msgpack.encode(_Recorded(self._context.run, self._context.worker, sealed))]

    def commit(self, checkpoint_id: int, sealed: Any, staged: Staged | None) -> None:
        if staged is None:
            return
        output = msgspec.msgpack.decode(b"".join(staged), type=_Recorded | list[bytes])
        if isinstance(output, list):
            output = _Recorded("", 0, output)
        number = 0
        for batch in output.batches:
            self._check_epoch()
            records = self._codec.decode(batch)
            self._writer.write_output(records, OutputId(output.run, checkpoint_id, output.worker, number))
            number += len(records)
            crash_point("sink.mid_write")
        self._check_epoch()
        self._writer.flush()

    def refused(self) -> int:
        return self._writer.refused

    def close(self) -> None:
        self._writer.close()


class _DirectDelivery(Delivery):
    def __init__(self, writer: SinkWriter, check_epoch: Callable[[], None]) -> None:
        self._writer = writer
        self._check_epoch = check_epoch

    def recover(self, decided: Sequence[tuple[int, bytes]]) -> None:
        pass

    def write(self, records: Batch) -> None:
        self._check_epoch()
        self._writer.write(records)

    def seal(self, checkpoint_id: int) -> Any | None:
        self._writer.flush()
        return None

    def refused(self) -> int:
        return self._writer.refused

    def close(self) -> None:
        self._writer.close()


class _BufferedDelivery(Delivery):
    def __init__(self, writer: SinkWriter, context: SinkContext) -> None:
        self._writer = writer
        self.max_waiting = writer.max_waiting
        self._context = context
        self._home = HomeProcess()
        self._batches: list[Batch] = []

    def recover(self, decided: Sequence[tuple[int, bytes]]) -> None:
        pass

    def write(self, records: Batch) -> None:
        self._writer.check_output(records)
        self._batches.append(records)
        self.held += len(records)
        self.held_bytes += estimated_bytes(records)

    def seal(self, checkpoint_id: int) -> Any | None:
        batches, self._batches = self._batches, []
        self.held = self.held_bytes = 0
        return batches or None

    def commit(self, checkpoint_id: int, sealed: Any, staged: Staged | None) -> None:
        number = 0
        for batch in sealed or ():
            self._writer.write_output(batch, OutputId(self._context.run, checkpoint_id, self._context.worker, number))
            number += len(batch)
            crash_point("sink.mid_write")
            self._home.check()
        self._writer.flush()

    def refused(self) -> int:
        return self._writer.refused

    def close(self) -> None:
        self._writer.close()


def open_delivery(
    sink: Sink, context: SinkContext, guarantee: Guarantee, codec: Codec, check_epoch: Callable[[], None]
) -> Delivery:
    """How to write a sink whose fitness the planner has checked.

    ``check_epoch`` raises ``FencedError`` once a newer run has taken over. It is asked right before each write that a
    sink cannot refuse by itself, so that a process that wakes up does not write over what its successor wrote.
    """
    if isinstance(sink, TransactionalSink):
        return _TransactionalDelivery(sink.open(context))
    if not isinstance(sink, (PlainSink, IdempotentSink)):
        raise SinkError(f"sink {context.sink!r} is a {type(sink).__name__}: derive from one of the three kinds of sink")
    if guarantee is Guarantee.EXACTLY_ONCE:
        return _RecordedDelivery(sink.open(context), codec, check_epoch, context)
    if guarantee is Guarantee.AT_MOST_ONCE:
        return _BufferedDelivery(sink.open(context), context)
    return _DirectDelivery(sink.open(context), check_epoch)


def seal(deliveries: Mapping[str, Delivery], checkpoint_id: int, sealed: dict[str, Sealed]) -> None:
    """The cut: what was written to the sinks so far belongs to this checkpoint.

    ``sealed`` takes it by step id, also where the next sink fails.
    """
    for step_id, delivery in deliveries.items():
        with sink_errors(step_id, "seal"):
            delivery.sealed, delivery.sealed_bytes = delivery.held, delivery.held_bytes
            sealed[step_id] = Sealed(delivery.seal(checkpoint_id), None)
            learnt = delivery.snapshot()
        if learnt is not None:
            sealed[step_id] = replace(sealed[step_id], learnt=learnt)


@contextmanager
def sink_errors(step_id: str, step: str) -> Iterator[None]:
    """Whatever a sink raises, with its name: users' sinks raise what their clients do."""
    try:
        yield
    except (FencedError, ConfigurationError, StoreForkedError):
        raise
    except SinkError as error:
        raise SinkError(f"sink {step_id!r} could not {step}: {error}", step_id=step_id) from error
    except Exception as error:
        raise SinkError(f"sink {step_id!r} could not {step}: {described(error)}", step_id=step_id) from error
