"""Topics of the embedded log as a sink: the output of a checkpoint shows at once, once, after the decision.

Where staged records live, and why
----------------------------------
They are kept in the job's memory until the barrier, then inside the decision record, and nowhere else. The log could
stage them too, as an open transaction whose id and epoch the decision record would name. But then they would lie in
one store and the decision in another: a transaction of the log can time out, and is aborted by whoever keeps the log in
order, while a decided output must outlive any downtime; what was staged and never decided would have to be found and
discarded; and a fence must not abort what was decided. With the records in the decision record none of that can
happen: before the decision there is nothing anywhere, so nothing can be orphaned; after it everything is there, fixed,
for as long as it takes. The price is that output is written twice, and that what is written between two checkpoints
must fit in memory (a checkpoint begins early when much is held). It saves a sync: two a checkpoint instead of three.

The steps of a checkpoint
-------------------------
1. ``write`` turns records into bytes; ``seal`` cuts.
2. ``prepare`` lets the log check all records in a transaction that it aborts (sizes, partitions): what the log would
   refuse after the decision is refused before it. Nothing is written.
3. The decision record, with the records in it, becomes durable.
4. ``commit`` appends the records in one transaction of the log, under the job's producer id, together with the marker
   (see ``owner``): job epoch, run, checkpoint. A checkpoint that is not above the marker's is in the topic already and
   is dropped, so a commit can be repeated.

A crash before 3 leaves nothing. Between 3 and the end of 4 the next run finds the decision, and the marker tells
whether the transaction was committed.

Fencing
-------
``recover`` first takes the transactional id, which makes the log refuse every older producer of this sink; then it
reads the marker, which nobody older can change any more, and stops if a newer job epoch has written it; then it writes
the marker anew in every topic of this sink. A run that was paused and wakes up finds its producer refused or the marker
another's, whichever it meets first: ``FencedError``. Should it take the transactional id while waking up, it learns
from the marker that it must stop, and the run that it disturbed takes the id back.

What is not promised: the marker's group must not be deleted while the job lives, or the newest decided checkpoint is
written again; a topic that is deleted takes its marker along, which is how to start over.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from onceflow._native import Log, LogProducer
from onceflow.clock import Clock, SystemClock
from onceflow.connectors.log.directory import LogDirectory, directory_of
from onceflow.connectors.log.fields import Field, Fields
from onceflow.connectors.log.owner import Marker, group_of, marker_of, markers_of
from onceflow.connectors.log.staged import Part, Staged
from onceflow.crash import crash_point
from onceflow.exceptions import (
    FencedError,
    LogError,
    ProducerFencedError,
    SinkError,
    StateError,
    StoreError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from onceflow.sinks import Committable, SinkContext, TransactionalSink, TransactionalSinkWriter
from onceflow.types import Batch, Plain

__all__ = ["LogSink"]

#: A transaction is one call to the log and must not be cut into pieces by a smaller buffer.
_UNBOUNDED = 1 << 62
#: How often a commit takes its transactional id back from a run that was fenced and did not know it yet.
_ATTEMPTS = 10


class LogSink(TransactionalSink):
    """Appends records to a topic; see the module.

    Several sinks and other producers can write to one topic. A record that is neither bytes, text nor None is written
    as JSON.

    Args:
        log: Directory of the log, or an open log.
        topic: Its name.
        key: Name of the field that is the key, or a function of the record. None: records have no key.
        value: The same for the value. None: the record itself.
        timestamp: The same for the timestamp: a datetime, or milliseconds since 1970. None: when it was staged.
        headers: The same for the headers: a dict, or pairs, of names and bytes. None: records have none.
        partition: The same for the partition; or its number, for all. None: the key chooses it; records without a key
            go to one partition a batch, in turn.
        partitions: If the topic (or the log) does not exist, it is made with so many. None: it must exist.
        clock: Where the time comes from.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    def __init__(
        self,
        log: LogDirectory,
        topic: str,
        *,
        key: Field | None = None,
        value: Field | None = None,
        timestamp: Field | None = None,
        headers: Field | None = None,
        partition: int | Field | None = None,
        partitions: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._directory = directory_of(log)
        self._topic = topic
        self._fields = Fields(key, value, timestamp, headers, partition)
        self._partitions = partitions
        self._clock = clock or SystemClock()

    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """See ``Sink``."""
        with _sink_errors(self._directory):
            log = Log.open(self._directory, create=self._partitions is not None)
            try:
                if self._partitions is not None:
                    with contextlib.suppress(TopicExistsError):
                        log.create_topic(self._topic, partitions=self._partitions)
                number = log.topic(self._topic).number
            except BaseException:
                log.close()
                raise
        return _LogSinkWriter(log, self._topic, number, self._fields, context, self._clock)

    def describe(self) -> dict[str, Any]:
        """See ``Sink``."""
        return {"type": "LogSink", "log": str(self._directory), "topic": self._topic}


class _LogSinkWriter(TransactionalSinkWriter):
    def __init__(self, log: Log, topic: str, number: int, fields: Fields, context: SinkContext, clock: Clock) -> None:
        self._log = log
        self._topic = topic
        self._number = number
        self._fields = fields
        self._context = context
        self._clock = clock
        self._group = group_of(context.job, context.sink)
        self._run = secrets.token_hex(8)
        self._parts: list[Part] = []
        self._producer: LogProducer | None = None
        #: Prepared, and then aborted.
        self._aborted: set[int] = set()

    # -- the start -----------------------------------------------------------------------------

    def recover(self, decided: Sequence[Committable]) -> None:
        with _sink_errors(self._log.path):
            self._refuse_if_older(self._markers())
            crash_point("log.pre_fence")
            self._take_id()
            crash_point("log.post_fence")
            markers = self._markers()
            self._refuse_if_older(markers)
            outputs = [(committable.checkpoint_id, _staged(committable)) for committable in decided]
            outputs = [(checkpoint_id, staged) for checkpoint_id, staged in outputs if self._is_there(staged)]
            checkpoints = dict.fromkeys([self._topic, *(staged.topic for _, staged in outputs)], 0)
            self._write_markers(checkpoints | {topic: marker.checkpoint for topic, marker in markers.items()})
            for checkpoint_id, staged in outputs:
                self._append(staged, checkpoint_id)
            newest = marker_of(self._log, self._group, self._topic)
        if self._context.restored_checkpoint is None and newest is not None and newest.checkpoint:
            raise SinkError(
                f"topic {self._topic!r} of {self._log.path} holds output of an earlier run, up to checkpoint "
                f"{newest.checkpoint}, and this job starts from nothing, so it would be written again: delete the "
                f"topic, choose another one, or delete the group {self._group!r} if it shall be written again"
            )

    def _markers(self) -> dict[str, Marker]:
        return markers_of(self._log, self._group)

    def _refuse_if_older(self, markers: dict[str, Marker]) -> None:
        newest = max((marker.job_epoch for marker in markers.values()), default=0)
        if newest > self._context.job_epoch:
            anew = f". If the job's state was deleted, delete the group {self._group!r} and the topic, or choose others"
            raise FencedError(
                f"epoch {newest} of job {self._context.job!r} writes to {self._topic!r} in {self._log.path}; this "
                f"process has epoch {self._context.job_epoch} and must stop"
                f"{anew if self._context.restored_checkpoint is None else ''}"
            )

    def _take_id(self) -> None:
        """Fences all older producers of this sink."""
        self._producer = LogProducer(
            self._log, now_ms=self._now_ms(), transactional_id=self._group, max_buffered_bytes=_UNBOUNDED
        )
        self._producer.init_transactions(now_ms=self._now_ms())

    def _write_markers(self, checkpoints: dict[str, int]) -> None:
        """From now on each topic says that it is this run that writes."""
        producer = self._begun()
        for topic, checkpoint in checkpoints.items():
            self._send_marker(producer, topic, checkpoint)
        producer.commit_transaction(now_ms=self._now_ms())

    def _is_there(self, staged: Staged) -> bool:
        """Whether the topic that output was decided for still exists."""
        try:
            return self._log.topic(staged.topic).number == staged.number
        except UnknownTopicOrPartitionError:
            return False

    # -- a checkpoint --------------------------------------------------------------------------

    def write(self, records: Batch) -> None:
        if not len(records):
            return
        part = self._fields.part(records)
        self.held += len(records)
        self.held_bytes += part.nbytes()
        if not self._parts or not self._parts[-1].extend(part):
            self._parts.append(part)

    def seal(self, checkpoint_id: int) -> Any | None:
        parts, self._parts = self._parts, []
        self.held = self.held_bytes = 0
        return parts or None

    def prepare(self, checkpoint_id: int, sealed: Any) -> Plain:
        with _sink_errors(self._log.path):
            marker = self._check_owner(self._topic)
            if checkpoint_id <= marker.checkpoint:
                raise SinkError(
                    f"topic {self._topic!r} of {self._log.path} holds the output of checkpoint {marker.checkpoint} of "
                    f"job {self._context.job!r}, and this is checkpoint {checkpoint_id}: another copy of the job's "
                    "state has written here. Give each copy a topic of its own"
                )
            staged = Staged(self._topic, self._number, self._run, self._now_ms(), sealed)
            producer = self._begun()
            try:
                self._produce(producer, staged)
            finally:
                producer.abort_transaction(now_ms=self._now_ms())
        return msgspec.msgpack.encode(staged)

    def commit(self, committable: Committable) -> None:
        staged = _staged(committable)
        with _sink_errors(self._log.path):
            self._check_owner(staged.topic)
            # What an earlier run has staged was committed, or discarded, by the recovery.
            if staged.run == self._run and committable.checkpoint_id not in self._aborted:
                self._append(staged, committable.checkpoint_id)

    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        # What is not decided is nowhere.
        self._aborted.add(checkpoint_id)

    def _append(self, staged: Staged, checkpoint_id: int) -> None:
        """Appends the output of a checkpoint, unless it is there."""
        for _ in range(_ATTEMPTS):
            if checkpoint_id <= self._check_owner(staged.topic).checkpoint:
                return
            producer = self._begun()
            try:
                self._produce(producer, staged)
                self._send_marker(producer, staged.topic, checkpoint_id)
                crash_point("log.pre_append")
                producer.commit_transaction(now_ms=self._now_ms())
            except ProducerFencedError:
                # By a newer run, which the marker tells; or by an older one, which will read the marker and stop.
                self._take_id()
                continue
            crash_point("log.post_append")
            return
        raise SinkError(
            f"other processes keep taking the transactional id {self._group!r} from this one; stop those that are not "
            f"job {self._context.job!r}"
        )

    def _produce(self, producer: LogProducer, staged: Staged) -> None:
        for part in staged.parts:
            part.produce(producer, staged.topic, staged.staged_ms)

    def _send_marker(self, producer: LogProducer, topic: str, checkpoint_id: int) -> None:
        note = Marker(self._context.job_epoch, self._run, checkpoint_id).note()
        producer.send_offsets(self._group, [(topic, 0, checkpoint_id, note)], now_ms=self._now_ms())

    def _check_owner(self, topic: str) -> Marker:
        """The marker of a topic, which must be of this run."""
        marker = marker_of(self._log, self._group, topic)
        if marker is None:
            raise SinkError(
                f"topic {topic!r} of {self._log.path} does not know this job any more: it was made anew, or the group "
                f"{self._group!r} was deleted. Run the job again"
            )
        if marker.run != self._run:
            raise FencedError(
                f"another run of job {self._context.job!r}, with epoch {marker.job_epoch}, writes to {topic!r} in "
                f"{self._log.path}; this process has epoch {self._context.job_epoch} and must stop"
            )
        return marker

    def _begun(self) -> LogProducer:
        if self._producer is None:
            raise SinkError("recover() comes before anything else")
        self._producer.begin_transaction(now_ms=self._now_ms())
        return self._producer

    def _now_ms(self) -> int:
        return int(self._clock.now() * 1000)

    def close(self) -> None:
        self._parts = []
        self._producer = None
        self._log.close()


def _staged(committable: Committable) -> Staged:
    if not isinstance(committable.handle, bytes):
        raise SinkError(f"checkpoint {committable.checkpoint_id} has no output for a log: {committable.handle!r}")
    return msgspec.msgpack.decode(committable.handle, type=Staged)


@contextlib.contextmanager
def _sink_errors(directory: Path | str) -> Iterator[None]:
    try:
        yield
    except (LogError, StateError, StoreError) as error:
        raise SinkError(f"the log {directory} cannot be written: {error}") from error
