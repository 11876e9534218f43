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
``open`` reads the markers and changes nothing: a run with another state directory, of an older lineage or job epoch, or
with a state that does not know the marker's checkpoint as decided, is refused there. ``recover`` takes the
transactional id, which makes the log refuse every older producer of this sink; then it reads the markers again, which
nobody older can change any more; then it writes the marker anew in every topic of this sink. A run that was paused and
wakes up finds its producer refused or the marker another's, whichever it meets first: ``FencedError``. Should it take
the transactional id while waking up, it learns from the marker that it must stop, and the run that it disturbed takes
the id back. The marker's lineage and job epoch never fall.

Older copies
------------
A state that was put back from a copy does not know the marker's checkpoint: refused, at each attempt, until a new
timeline is begun on purpose. A log that was put back lacks what the state says was written: staged output names the
checkpoint whose output was in the topic before it, and the checkpoint itself keeps the newest one that has output, so
that the gap is refused too.

What is not promised: the marker's group must not be deleted while the job lives, or the newest decided checkpoint is
written again; a topic, or a log, that is deleted and made anew takes its marker along, which is how to start over.
"""

from __future__ import annotations

import contextlib
import secrets
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from onceflow._native import Log, LogProducer
from onceflow.clock import Clock, SystemClock
from onceflow.connectors.log.directory import LogDirectory, directory_of
from onceflow.connectors.log.fields import Field, Fields
from onceflow.connectors.log.owner import Marker, Written, group_of, marker_of, markers_of
from onceflow.connectors.log.staged import Part, Staged
from onceflow.crash import crash_point
from onceflow.exceptions import (
    FencedError,
    InvalidTransactionStateError,
    LogError,
    MissingOutputWarning,
    ProducerFencedError,
    RepeatedOutputWarning,
    SinkError,
    StateError,
    StoreError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from onceflow.log.log_time import LogTime
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
        timestamp: The same for the timestamp: a datetime (cut to milliseconds), or milliseconds since 1970. None: when
            it was staged.
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
        return _LogSinkWriter(self._directory, self._topic, self._partitions, self._fields, context, self._clock)

    def describe(self) -> dict[str, Any]:
        """See ``Sink``."""
        return {"type": "LogSink", "log": str(self._directory), "topic": self._topic}


class _LogSinkWriter(TransactionalSinkWriter):
    """Until ``recover`` nothing is written; what is missing is made when this run may write."""

    held: int = 0
    held_bytes: int = 0

    def __init__(
        self,
        directory: Path,
        topic: str,
        partitions: int | None,
        fields: Fields,
        context: SinkContext,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._topic = topic
        self._fields = fields
        self._context = context
        self._clock = clock
        self._group = group_of(context.job, context.sink)
        self._run = secrets.token_hex(8)
        self._parts: list[Part] = []
        self._producer: LogProducer | None = None
        #: The checkpoint that was sealed last, if it has output, and the newest that this run knows to be in the topic.
        self._sealed = 0
        self._visible = 0
        #: Prepared, and then aborted.
        self._aborted: set[int] = set()
        with _sink_errors(directory):
            self._log = Log.open(directory, create=partitions is not None)
            try:
                markers = self._markers()
                self._check(markers)
                self._check_new_lineage(markers)
                if partitions is not None:
                    with contextlib.suppress(TopicExistsError):
                        self._log.create_topic(topic, partitions=partitions)
                self._log.topic(topic)
            except BaseException:
                self.close()
                raise

    # -- the start -----------------------------------------------------------------------------

    def applied(self, checkpoint_id: int) -> bool | None:
        lineage = self._context.lineage
        with _sink_errors(self._directory):
            markers = self._markers().values()
        known = [marker.checkpoint for marker in markers if marker.lineage in (None, lineage)]
        return None if not known else max(known) >= checkpoint_id

    def recover(self, decided: Sequence[Committable]) -> None:
        with _sink_errors(self._directory):
            staged = [(committable.checkpoint_id, _staged(committable)) for committable in decided]
            outputs = [(checkpoint_id, output) for checkpoint_id, output in staged if self._is_there(output)]
            for _ in range(_ATTEMPTS):
                markers = self._markers()
                self._check(markers)
                self._check_outputs(markers, outputs)
                crash_point("log.pre_fence")
                self._take_id()
                crash_point("log.post_fence")
                # Again: nobody older can change them any more.
                markers = self._markers()
                self._check(markers)
                try:
                    self._write_markers(markers, outputs)
                except ProducerFencedError:
                    # By a newer run, which its marker tells; or by an older one, which will read ours and stop.
                    continue
                break
            else:
                raise self._disturbed()
            for checkpoint_id, output in outputs:
                self._append(output, checkpoint_id)
            self._visible = self._check_owner(self._topic).checkpoint

    def _markers(self) -> dict[str, Marker]:
        return markers_of(self._log, self._group)

    def _check(self, markers: dict[str, Marker]) -> None:
        """Whether this run may write. Changes nothing.

        Raises:
            FencedError: A newer run writes.
            SinkError: The topic is another state's, or newer than this one.
        """
        for topic, marker in markers.items():
            self._check_state(topic, marker)
            self._check_fence(topic, marker)
        newest = markers.get(self._topic)
        if self._context.restored_checkpoint is None and newest is not None and newest.checkpoint:
            raise SinkError(
                f"topic {self._topic!r} of {self._directory} holds output of an earlier run, up to checkpoint "
                f"{newest.checkpoint}, and this job starts from nothing, so it would be written again: delete the "
                f"topic, choose another one, or delete {self._marker_group()} if it shall be written again"
            )
        for topic, marker in markers.items():
            self._check_checkpoint(topic, marker)

    def _check_new_lineage(self, markers: dict[str, Marker]) -> None:
        """Where a job goes back on purpose: that a topic has what the output goes on from, and what it has after it.

        Once, before any sink is touched: afterwards the markers are of the new lineage.
        """
        mine = self._context
        restored = mine.restored_checkpoint
        if restored is None or mine.newest_decided is not None:
            return
        marker = markers.get(self._topic)
        if marker is None:
            return
        if marker.lineage != mine.lineage and marker.checkpoint > restored:
            warnings.warn(
                RepeatedOutputWarning(
                    f"topic {self._topic!r} of {self._directory} holds the output of checkpoints after {restored}, up "
                    f"to {marker.checkpoint}, of job {mine.job!r}: it stays there, and sink {mine.sink!r} writes it "
                    "again, so readers find it twice. Where that must not be, run the job with its newest state "
                    "instead; or delete the topic, move away what other sinks hold, and run the job once with "
                    "fresh=True (--fresh), which writes all of it once"
                ),
                stacklevel=2,
            )
        if mine.restored_state is None:
            return
        known = msgspec.convert(mine.restored_state, Written)
        there = self._standing(marker)
        anew = known.log != self._log.id or self._number(self._topic) > known.number
        # Without a checkpoint that is left, the output of the restored one may have to be committed yet.
        if mine.newest_left is not None and known.topic == self._topic and there < known.newest and not anew:
            error = self._older_log(self._topic, known.newest, there, mine.newest_left)
            if marker.lineage == known.lineage:
                raise error
            # Another lineage has gone on from before it.
            warnings.warn(MissingOutputWarning(str(error)), stacklevel=2)

    def _check_state(self, topic: str, marker: Marker) -> None:
        mine = self._context.state_id
        if marker.state and mine and marker.state != mine:
            raise SinkError(
                f"topic {topic!r} of {self._directory} holds the output of job {self._context.job!r} with another "
                f"state directory (identity {marker.state}, and this one is {mine}): run the job with that one, or "
                f"write to a topic of its own. If the job's state was deleted, delete the topic too; or only "
                f"{self._marker_group()}, if the output shall be written again"
            )

    def _check_fence(self, topic: str, marker: Marker) -> None:
        mine = self._context
        lineage = mine.lineage if marker.lineage is None else marker.lineage
        if (lineage, marker.job_epoch) > (mine.lineage, mine.job_epoch):
            theirs = f"epoch {marker.job_epoch}" + (f" of lineage {lineage}" if lineage != mine.lineage else "")
            raise FencedError(
                f"{theirs} of job {mine.job!r} writes to {topic!r} in {self._directory}; this process has epoch "
                f"{mine.job_epoch} and must stop. If none does, {self._older_state()}"
            )

    def _check_checkpoint(self, topic: str, marker: Marker) -> None:
        mine = self._context
        same = marker.lineage == mine.lineage or (marker.lineage is None and mine.newest_decided is not None)
        decided = max(mine.newest_decided or 0, mine.restored_checkpoint or 0)
        if same and marker.checkpoint > decided:
            raise SinkError(
                f"topic {topic!r} of {self._directory} holds the output of checkpoint {marker.checkpoint} of job "
                f"{mine.job!r}, and the newest one of this run's state is {decided}: {self._older_state()}"
            )

    def _older_state(self) -> str:
        """How to go on with a state that is older than the topic."""
        number = self._context.newest_decided or self._context.restored_checkpoint
        way = (
            f"run it once with from_checkpoint={number} (--from-checkpoint {number}): what was written after it stays "
            "in the topic, and is written again"
            if number is not None
            else "delete the topic, and run it again"
        )
        return (
            "the state is older than its output, as when a backup was put back or another copy of the job's state was "
            "run, and would write it again. Run the job with its newest state; or, to go on from this one on purpose, "
            f"{way}"
        )

    def _check_outputs(self, markers: dict[str, Marker], outputs: Sequence[tuple[int, Staged]]) -> None:
        """Refuses a log that lacks what was in it: it would get what came after, and nobody would miss the rest."""
        mine = self._context
        visible = {topic: self._standing(marker) for topic, marker in markers.items()}
        for checkpoint_id, output in outputs:
            there = visible.get(output.topic, 0)
            if checkpoint_id <= there:
                continue
            if output.after is not None and there < output.after:
                error = self._older_log(output.topic, output.after, there)
                if output.lineage == mine.lineage:
                    raise error
                # Another timeline goes on from here on purpose.
                warnings.warn(MissingOutputWarning(str(error)), stacklevel=2)
            visible[output.topic] = checkpoint_id
        if mine.restored_state is None:
            return
        known = msgspec.convert(mine.restored_state, Written)
        if known.topic != self._topic or (known.lineage != mine.lineage and mine.newest_left is not None):
            return
        # A topic, or a log, that was deleted and made anew has none of it on purpose.
        anew = known.log != self._log.id or self._number(self._topic) > known.number
        there = visible.get(self._topic, 0)
        if there < known.newest and not anew:
            error = self._older_log(self._topic, known.newest, there)
            if known.lineage == mine.lineage:
                raise error
            # From the end of a lineage a person goes on all the same.
            warnings.warn(MissingOutputWarning(str(error)), stacklevel=2)

    def _standing(self, marker: Marker) -> int:
        """The newest checkpoint of this timeline whose output a topic has."""
        if marker.lineage in (None, self._context.lineage):
            return marker.checkpoint
        # Another timeline begins with what it resumes from, whatever was written after it.
        return min(marker.checkpoint, self._context.restored_checkpoint or 0)

    def _marker_group(self) -> str:
        """What has the markers, and how to delete it."""
        return f"the group {self._group!r} (Log.open({str(self._directory)!r}).delete_group({self._group!r}))"

    def _older_log(self, topic: str, expected: int, there: int, newest: int | None = None) -> SinkError:
        number = newest or self._context.restored_checkpoint
        return SinkError(
            f"topic {topic!r} of {self._directory} had the output of checkpoint {expected} of job "
            f"{self._context.job!r}, and has it up to {there or 'none'} now: the log is older than the job's state, as "
            "when a backup was put back. Put the newest log back; or resume from a checkpoint that the topic has in "
            f"full with from_checkpoint (--from-checkpoint); or, to go on without what is lost, from {number}"
        )

    def _number(self, topic: str) -> int:
        """Of a topic; numbers rise, also where a name comes back. Of a missing one it is above all."""
        try:
            return self._log.topic(topic).number
        except UnknownTopicOrPartitionError:
            return 1 << 32

    def _is_there(self, staged: Staged) -> bool:
        """Whether the topic that output was decided for still exists."""
        if staged.log and staged.log != self._log.id:
            warnings.warn(
                MissingOutputWarning(
                    f"the output of the newest checkpoint of job {self._context.job!r} was decided for another log "
                    f"than {self._directory}, where it may be missing: run the job once with that one to be sure"
                ),
                stacklevel=2,
            )
            return False
        return self._number(staged.topic) <= staged.number

    def _take_id(self) -> None:
        """Fences all older producers of this sink."""
        self._producer = LogProducer(
            self._log, now_ms=self._now_ms(), transactional_id=self._group, max_buffered_bytes=_UNBOUNDED
        )
        self._producer.init_transactions(now_ms=self._now_ms())

    def _write_markers(self, markers: dict[str, Marker], outputs: Sequence[tuple[int, Staged]]) -> None:
        """From now on each topic says that it is this run that writes."""
        checkpoints = dict.fromkeys([self._topic, *(output.topic for _, output in outputs)], 0)
        checkpoints |= {topic: self._standing(marker) for topic, marker in markers.items()}
        producer = self._begun()
        for topic, checkpoint in checkpoints.items():
            self._send_marker(producer, topic, checkpoint)
        producer.commit_transaction(now_ms=self._now_ms())

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
        self._sealed = checkpoint_id if parts else 0
        return parts or None

    def snapshot(self) -> Plain:
        with _sink_errors(self._directory):
            log, topic = self._log, self._topic
            newest = self._sealed or self._visible
            written = Written(log.id, topic, log.topic(topic).number, self._context.lineage, newest)
        return cast("Plain", msgspec.to_builtins(written))

    def prepare(self, checkpoint_id: int, sealed: Any) -> Plain:
        with _sink_errors(self._directory):
            marker = self._check_owner(self._topic)
            if checkpoint_id <= marker.checkpoint:
                raise SinkError(
                    f"topic {self._topic!r} of {self._directory} holds the output of checkpoint {marker.checkpoint} of "
                    f"job {self._context.job!r}, and this is checkpoint {checkpoint_id}: another copy of the job's "
                    "state has written here. Give each copy a topic of its own"
                )
            number, lineage = self._log.topic(self._topic).number, self._context.lineage
            place = (marker.checkpoint, lineage, self._log.id)
            staged = Staged(self._topic, number, self._run, self._wall_ms(), sealed, *place)
            producer = self._begun()
            try:
                self._produce(producer, staged)
            finally:
                producer.abort_transaction(now_ms=self._now_ms())
        return msgspec.msgpack.encode(staged)

    def commit(self, committable: Committable) -> None:
        staged = _staged(committable)
        with _sink_errors(self._directory):
            self._check_owner(staged.topic)
            # What an earlier run has staged was committed, or discarded, by the recovery.
            if staged.run == self._run and committable.checkpoint_id not in self._aborted:
                self._append(staged, committable.checkpoint_id)
                self._visible = committable.checkpoint_id

    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        # What is not decided is nowhere.
        self._aborted.add(checkpoint_id)

    def _append(self, staged: Staged, checkpoint_id: int) -> None:
        """Appends the output of a checkpoint, unless it is there."""
        for _ in range(_ATTEMPTS):
            there = self._check_owner(staged.topic).checkpoint
            if checkpoint_id <= there:
                return
            if staged.run == self._run and staged.after is not None and there < staged.after:
                raise self._older_log(staged.topic, staged.after, there)
            try:
                producer = self._begun()
                self._produce(producer, staged)
                self._send_marker(producer, staged.topic, checkpoint_id)
                crash_point("log.pre_append")
                producer.commit_transaction(now_ms=self._now_ms())
            except (ProducerFencedError, InvalidTransactionStateError):
                # By a newer run, which its marker tells; or by an older one, which will read ours and stop. Or the id
                # was forgotten, since the job had no output for long.
                self._take_id()
                continue
            crash_point("log.post_append")
            return
        raise self._disturbed()

    def _disturbed(self) -> SinkError:
        return SinkError(
            f"other processes keep taking the transactional id {self._group!r} from this one; stop those that are not "
            f"job {self._context.job!r}"
        )

    def _produce(self, producer: LogProducer, staged: Staged) -> None:
        for part in staged.parts:
            part.produce(producer, staged.topic, now_ms=self._now_ms(), wall_ms=staged.staged_ms)

    def _send_marker(self, producer: LogProducer, topic: str, checkpoint_id: int) -> None:
        mine = self._context
        note = Marker(mine.job_epoch, self._run, checkpoint_id, mine.lineage, mine.state_id).note()
        producer.send_offsets(self._group, [(topic, 0, checkpoint_id, note)], now_ms=self._now_ms())

    def _check_owner(self, topic: str) -> Marker:
        """The marker of a topic, which must be of this run."""
        marker = marker_of(self._log, self._group, topic)
        if marker is None:
            raise SinkError(
                f"topic {topic!r} of {self._directory} does not know this job any more: it was made anew, or the group "
                f"{self._group!r} was deleted. Run the job again"
            )
        if marker.run != self._run:
            raise FencedError(
                f"another run of job {self._context.job!r}, with epoch {marker.job_epoch}, writes to {topic!r} in "
                f"{self._directory}; this process has epoch {self._context.job_epoch} and must stop"
            )
        return marker

    def _begun(self) -> LogProducer:
        if self._producer is None:
            raise SinkError("recover() comes before anything else")
        self._producer.begin_transaction(now_ms=self._now_ms())
        return self._producer

    def _now_ms(self) -> int:
        return LogTime(self._log, self._clock).now_ms()

    def _wall_ms(self) -> int:
        return LogTime(self._log, self._clock).wall_ms()

    def close(self) -> None:
        self._parts = []
        if self._producer is not None:
            self._producer.close()
        self._log.close()


def _staged(committable: Committable) -> Staged:
    if not isinstance(committable.handle, bytes):
        raise SinkError(f"checkpoint {committable.checkpoint_id} has no output for a log: {committable.handle!r}")
    return msgspec.msgpack.decode(committable.handle, type=Staged)


@contextlib.contextmanager
def _sink_errors(directory: Path | str) -> Iterator[None]:
    try:
        yield
    except ProducerFencedError as error:
        raise FencedError(
            f"another run of the job writes to the log {directory}; this process must stop: {error}"
        ) from error
    except (LogError, StateError, StoreError) as error:
        raise SinkError(f"the log {directory} cannot be written: {error}") from error
