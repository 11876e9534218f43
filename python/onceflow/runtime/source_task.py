"""The task of one source partition: reads, cuts at barriers, keeps the position.

Its reader is open from the first read to the end of the partition, so that what waits for its turn holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec
import numpy as np

from onceflow.exceptions import ConfigurationError, OnceflowError, SourceChangedError, SourceError, described
from onceflow.graph.graph import SourceStep
from onceflow.operators.base import EventTimes
from onceflow.process import HomeProcess
from onceflow.runtime.channel import BarrierEvent, BatchEvent, Channel, EndEvent
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader, StopRun
from onceflow.types import END_OF_TIME, Micros, Plain
from onceflow.watermarks import CaughtUp, PartitionWatermark

__all__ = ["SourceTask", "source_errors"]


@contextmanager
def source_errors(step_id: str, partition: str | None = None) -> Iterator[None]:
    """Whatever a source raises, with its name: users' sources raise what their clients do."""
    try:
        yield
    except StopRun:
        raise
    except OnceflowError as error:
        if isinstance(error, SourceError):
            error.step_id = error.step_id or step_id
            error.partition = error.partition or partition
        note = f"in source {step_id!r}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise
    except Exception as error:
        where = "" if partition is None else f", partition {partition!r}"
        raise SourceError(
            f"source {step_id!r}{where}: {described(error)}", step_id=step_id, partition=partition
        ) from error


def _knows_context(source: Source) -> bool:
    """Whether a source is opened with its context: not where its class overrides ``open`` of another one alone."""
    for kind in type(source).__mro__:
        if "open_with_context" in vars(kind):
            return kind is not Source
        if "open" in vars(kind):
            return False
    return False


def _check_own_open(step: SourceStep) -> None:
    """Raises ``ConfigurationError`` where a class hides from the source below it how far the run goes."""
    kind = type(step.source)
    if kind.open_with_context is not Source.open_with_context:
        raise ConfigurationError(
            f"source {step.step_id!r}: {kind.__name__} overrides open() of a source that must know how far the run "
            "goes; for until='caught_up' override open_with_context(partition, position, context) instead"
        )


class SourceTask:
    """Reads one partition round by round.

    A round is one batch. Barriers come after the same round on all partitions, so that the order in which the worker
    takes batches does not depend on where checkpoints fall: an interrupted job sees what an uninterrupted one sees.

    Args:
        step: The source.
        partition: Name of the partition.
        state: What ``snapshot`` returned for the checkpoint to resume from; None for the beginning.
        batch_size: Records of a batch.
        context: Of the source.
    """

    def __init__(
        self, step: SourceStep, partition: str, state: dict[str, Any] | None, batch_size: int, context: SourceContext
    ) -> None:
        self.step = step
        self._context = context
        self._knows_context = _knows_context(step.source)
        #: Whether it wakes the worker when there is something to read again.
        self.wakes = step.source.wakes and self._knows_context
        if context.until == "caught_up" and not self._knows_context:
            _check_own_open(step)
        self.partition = partition
        self.channel = Channel()
        self.rounds = 0
        #: It reads no more in this run; if it is caught up, more may come in a later one.
        self.ended = False
        self.caught_up: CaughtUp | None = None
        self._batch_size = batch_size
        self._home = HomeProcess()
        self._event_time = PartitionWatermark(step.max_out_of_orderness_us, None if state is None else state["newest"])
        #: Whether the checkpoint that is resumed from knew the partition.
        self.resumed = state is not None
        #: How far event time has come in what the worker took: no record below it is expected any more.
        self.delivered: Micros | None = END_OF_TIME if state is not None and state["ended"] else self.watermark
        #: Where it stands while no reader is open: before it has begun, and when it has ended.
        self._at: Plain = None if state is None else state["position"]
        #: Records that were handed out, refused ones included, since the beginning of the partition; None if the
        #: checkpoint does not say.
        self._read: int | None = 0 if state is None else state.get("read")
        #: What ``snapshot`` returned for the checkpoint that a replay ends with.
        self._target: dict[str, Any] | None = None
        #: Nothing was there to read, at least once: when the worker took what is read since is a matter of time.
        self.waited = False
        #: Records after the position that an earlier run has processed already: it stopped within a batch.
        self._skip: int = 0 if state is None else state.get("skip", 0)
        #: An earlier run stopped within a round, before this task's batch or within it: it goes on with that.
        self.has_turn: bool = state is not None and state.get("has_turn", False)
        #: The last snapshot, how many records the worker has taken since, and the newest event time of all it took.
        self._base: dict[str, Any] = {}
        self._taken = 0
        self._newest_taken = self._event_time.newest
        #: The worker has not taken all of the last batch.
        self.is_behind = False
        #: Nothing has come from it for a while, so it holds no watermark back.
        self.idle = False
        self._nothing_since_s: float | None = None
        self._reader: SourceReader | None = None
        self._close_error: SourceError | None = None

    @property
    def name(self) -> str:
        """Unique among all tasks."""
        return f"{self.step.step_id}/{self.partition}"

    @property
    def watermark(self) -> Micros | None:
        """The watermark after the last batch that was read."""
        return self._event_time.value

    @property
    def place(self) -> Micros | None:
        """By which who is most behind reads first; None if it reads in each round.

        That is so before its first record, and until it is seen whether a partition that had ended has ended still.
        """
        return None if self.delivered in (None, END_OF_TIME) else self.watermark

    def rest(self, *, found: bool, now_s: float) -> None:
        """It was asked, and had something or not.

        Who is idle is so until it has caught up with what was closed without it: see ``catch_up``.
        """
        after_us = self.step.idle_after_us
        if after_us is None:
            return
        if found:
            self._nothing_since_s = None
        elif self._nothing_since_s is None:
            self._nothing_since_s = now_s
        elif now_s - self._nothing_since_s >= after_us / 1_000_000:
            self.idle = True

    def idle_in_s(self, now_s: float) -> float | None:
        """In how many seconds it is idle if nothing comes; None if it will not be."""
        after_us, since_s = self.step.idle_after_us, self._nothing_since_s
        if after_us is None or since_s is None or self.idle:
            return None
        return max(since_s + after_us / 1_000_000 - now_s, 0.0)

    def wait_turn(self) -> None:
        """It was not asked: that is not idleness."""
        self._nothing_since_s = None

    def catch_up(self, watermark: Micros | None) -> None:
        """It has handed something out, where event time had come to a watermark."""
        if self.delivered is None or watermark is None or self.delivered >= watermark:
            self.idle = False

    def open(self) -> SourceReader:
        """The reader; opened if it is not open yet."""
        if self._reader is None:
            with self._errors():
                if self._knows_context:
                    self._reader = self.step.source.open_with_context(self.partition, self._at, self._context)
                else:
                    self._reader = self.step.source.open(self.partition, self._at)
            self.snapshot()
        return self._reader

    def read(self) -> bool:
        """One round; false if there was nothing to read."""
        # A child shares the position of an open file with its parent.
        self._home.check()
        most = self._batch_size
        if self._target is not None:
            if self._target["ended"] and self._is_at(self._target):
                self._end(for_good=True)
                return True
            most = self._left(self._target)
        batch = self._next_batch(most)
        while self._skip and batch is not None and _count_of(batch):
            batch = self._without_taken(batch)
            if batch is None:
                batch = self._next_batch(most)
        self.rounds += 1
        if batch is None:
            if self._skip:
                raise self._shorter()
            self._end(for_good=self._context.until == "end")
            return True
        times = self._times(batch)
        count = _count_of(batch)
        if self._read is not None:
            self._read += count
        # Within a batch the watermark has not risen yet, where a replay ends as where a run stops.
        is_within = self._target is not None and bool(self._target.get("skip")) and self.has_arrived
        self.channel.put(BatchEvent(batch, times, None if is_within else self.watermark))
        self.is_behind = True
        if self._target is not None:
            self._check_overshoot(self._target)
        self.waited |= count == 0
        return count > 0

    def _next_batch(self, most: int) -> SourceBatch | None:
        reader = self.open()
        with self._errors():
            batch = reader.read(most)
            if batch is not None and not isinstance(batch, SourceBatch):
                raise TypeError(f"read() must return a SourceBatch or None, not a {type(batch).__name__}")
        return batch

    # -- a stop within a batch -----------------------------------------------------------------

    def took(self, piece: SourceBatch, *, is_last: bool) -> None:
        """The worker has taken a piece of the last batch."""
        self._taken += _count_of(piece)
        if is_last:
            self.is_behind, self._newest_taken = False, self._event_time.newest
            return
        times = piece.event_times
        if times is not None and len(times):
            newest = int(times.max())
            self._newest_taken = newest if self._newest_taken is None else max(self._newest_taken, newest)

    def snapshot_of_taken(self) -> dict[str, Any]:
        """What resumes the task after what the worker has taken of its last batch, which it did not take whole.

        There is no position within a batch, so it is the one of the last snapshot, and how many records to pass over.
        """
        base = self._base
        skip = base.get("skip", 0) + self._taken
        snapshot = {**base, "newest": self._newest_taken, "skip": skip, "has_turn": True}
        return {**snapshot, "read": base["read"] + self._taken} if "read" in base else snapshot

    def go_back(self) -> None:
        """What the worker has not taken of the last batch is read again, before anything else."""
        snapshot = self.snapshot_of_taken()
        self.close()
        self._at, self._skip, self._read = snapshot["position"], snapshot["skip"], snapshot.get("read")
        self._event_time.newest = self._newest_taken
        self.has_turn, self.is_behind = True, False

    def _without_taken(self, batch: SourceBatch) -> SourceBatch | None:
        """What an earlier run has not processed of a batch; None if that is nothing."""
        count = _count_of(batch)
        if count <= self._skip:
            self._skip -= count
            return None
        if batch.rejected or batch.skipped:
            raise self._shorter()
        skip, self._skip = self._skip, 0
        return batch.piece(skip, len(batch.records))

    def _shorter(self) -> SourceChangedError:
        return SourceChangedError(
            f"source {self.step.step_id!r}, partition {self.partition!r}: the run before stopped within a batch, and "
            "what it had read of it is not there any more. Put back what was changed or removed since",
            step_id=self.step.step_id,
            partition=self.partition,
        )

    def _end(self, *, for_good: bool) -> None:
        self._at = self.position
        if not for_good:
            self.caught_up = CaughtUp(self.step.source.grows, self.step.idle_after_us)
        try:
            self.close()
        except SourceError as error:
            # What was read is sound and goes on to the sinks first.
            self._close_error = error
        self.ended = True
        self.channel.put(EndEvent())

    # -- a replay ------------------------------------------------------------------------------

    def aim(self, target: dict[str, Any] | None) -> None:
        """Reads to exactly the position of this snapshot and no further; None: without end again."""
        before, self._target = self._target, target
        if target is not None or before is None:
            return
        self.has_turn = before.get("has_turn", False)
        if before.get("skip"):
            # Batches are cut again where they were.
            self.close()
            self._at, self._skip = before["position"], before["skip"]
            self.delivered = self.watermark

    @property
    def has_arrived(self) -> bool:
        """True if it stands where the replay ends."""
        target = self._target
        if target is None or self.ended != target["ended"]:
            return False
        if target.get("skip"):
            # Within a batch only the count says where.
            return self._read is not None and self._read == target.get("read")
        if not self._is_at(target):
            return False
        if None not in (self._read, target.get("read")) and self._read != target["read"]:
            raise self._changed(target)
        return True

    def _is_at(self, target: dict[str, Any]) -> bool:
        with self._errors():
            return self.step.source.same_position(self.position, target["position"])

    def _left(self, target: dict[str, Any]) -> int:
        """How many records may be read at once so that none after the target is.

        A position does not say how far it is, so without counts, or where what is left is no record, it is one.
        """
        if self._read is None or target.get("read") is None:
            return 1
        left: int = target["read"] - self._read
        return max(min(self._batch_size, left), 1)

    def _check_overshoot(self, target: dict[str, Any]) -> None:
        if None not in (self._read, target.get("read")) and self._read > target["read"]:
            raise self._changed(target)

    def _changed(self, target: dict[str, Any]) -> SourceChangedError:
        return SourceChangedError(
            f"source {self.step.step_id!r}, partition {self.partition!r}: up to the position of the damaged checkpoint "
            f"there were {target['read']:,} records, and now there are {self._read:,}: the input is not what it was, "
            "so no exact recovery is possible. Put back what was changed or removed since, or resume from a checkpoint "
            "of your choice with resume_from, knowing that outputs after it are written again",
            step_id=self.step.step_id,
            partition=self.partition,
            position=target["read"],
        )

    def _times(self, batch: SourceBatch) -> EventTimes:
        if not self.step.source.has_event_time:
            return None
        times = batch.event_times
        if times is None and not len(batch.records):
            return None
        if not isinstance(times, np.ndarray) or times.dtype != np.int64 or times.shape != (len(batch.records),):
            raise SourceError(
                f"source {self.step.step_id!r} promised an event time for each record: event_times of a batch of "
                f"{len(batch.records)} records must be so many int64 microseconds since 1970, not {times!r}"
            )
        try:
            return self._event_time.take(times)
        except ValueError as error:
            raise SourceError(
                f"source {self.step.step_id!r}, partition {self.partition!r}: {error}",
                step_id=self.step.step_id,
                partition=self.partition,
            ) from error

    @property
    def position(self) -> Plain:
        """Where the next record would be read from."""
        if self._reader is None:
            return self._at
        with self._errors():
            return self._reader.position()

    def inject(self, checkpoint_id: int, now_s: float) -> None:
        """Puts a barrier after the last batch."""
        self.channel.put(BarrierEvent(checkpoint_id, now_s))

    def snapshot(self) -> dict[str, Any]:
        """What resumes the task after its last batch."""
        with self._errors():
            position = self.position
            msgspec.msgpack.encode(position)
        ended = self.ended and self.caught_up is None
        snapshot = {"position": position, "newest": self._event_time.newest, "ended": ended}
        if self._read is not None:
            snapshot["read"] = self._read
        if self._skip:
            snapshot["skip"] = self._skip
        if self.has_turn:
            snapshot["has_turn"] = True
        self._base, self._taken = snapshot, 0
        return snapshot

    def _errors(self) -> AbstractContextManager[None]:
        return source_errors(self.step.step_id, self.partition)

    def close(self) -> None:
        """Releases the reader, if there is one."""
        error, self._close_error = self._close_error, None
        if error is not None:
            raise error
        reader, self._reader = self._reader, None
        if reader is not None:
            with self._errors():
                reader.close()


def _count_of(batch: SourceBatch) -> int:
    return len(batch.records) + len(batch.rejected) + batch.skipped
