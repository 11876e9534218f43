"""Topics of the embedded log as the target of an outbox.

The log could stage records too, as an open transaction whose id and epoch the decision record would name. But then they
would lie in one store and the decision in another: a transaction of the log can time out, and is aborted by whoever
keeps the log in order, while a decided output must outlive any downtime; what was staged and never decided would have
to be found and discarded; and a fence must not abort what was decided. Staged in the decision record none of that can
happen, and it saves a sync: two a checkpoint instead of three.

The check before the decision is a transaction with all records that is aborted (sizes, partitions). After it the
records are appended in one transaction of the log, under the worker's producer id, together with the marker (see
``owner``).

The fence: this worker's transactional id is taken, and those of all workers of older runs, which makes the log refuse
their producers; then the markers are read again; then they are written anew, in every topic of this sink, those of each
worker under its own id. A run that
was paused and wakes up finds its producer refused or the marker another's, whichever it meets first: ``FencedError``.
Should it take the transactional id while waking up, it learns from the marker that it must stop, and the run that it
disturbed takes the id back. The markers' lineage and job epoch never fall.

What is not promised: the markers' groups must not be deleted while the job lives, or the newest decided checkpoint is
written again; a topic, or a log, that is deleted and made anew takes its marker along, which is how to start over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from onceflow._native import Log, LogProducer
from onceflow.clock import Clock
from onceflow.connectors.log.owner import group_of, jobs_of, standing_of, standings_of
from onceflow.connectors.outbox.destination import Destination, Standings, Words
from onceflow.connectors.outbox.marker import Slot, Standing
from onceflow.connectors.outbox.staged import Place, Staged
from onceflow.connectors.topics.fields import Fields
from onceflow.connectors.topics.staged import Part
from onceflow.crash import crash_point
from onceflow.exceptions import (
    FencedError,
    InvalidTransactionStateError,
    LogError,
    OnceflowError,
    ProducerFencedError,
    SinkError,
    StateError,
    StoreError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from onceflow.log.log_time import LogTime
from onceflow.sinks import SinkContext
from onceflow.types import Batch

__all__ = ["LogDestination"]

#: A transaction is one call to the log and must not be cut into pieces by a smaller buffer.
_UNBOUNDED = 1 << 62
#: How often a transactional id is taken back from a run that was fenced and did not know it yet.
_ATTEMPTS = 10


class LogDestination(Destination[Part]):
    """See the module; the settings are those of ``LogSink``."""

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
        self._partitions = partitions
        self._fields = fields
        self._context = context
        self._clock = clock
        self._group = group_of(context.job, context.sink, context.worker)
        self._producer: LogProducer | None = None
        self.words = Words(
            store="the log",
            thing="the topic",
            own="a topic of its own, under another name of the job or the sink, by which its markers go",
        )
        with self._errors():
            self._log = Log.open(directory, create=partitions is not None)

    # -- the topics ------------------------------------------------------------------------------

    def where(self, place: str) -> str:
        return f"topic {place!r} of {self._directory}"

    def markers_of(self, job: str) -> str:
        group = group_of(job, self._context.sink)
        return f"the group {group!r} (Log.open({str(self._directory)!r}).delete_group({group!r}))"

    def place(self) -> Place:
        with self._errors():
            # Before ``make`` it may not exist.
            return Place(self._topic, self.number_of(self._topic), self._log.id)

    def number_of(self, place: str) -> int:
        with self._errors():
            try:
                return self._log.topic(place).number
            except UnknownTopicOrPartitionError:
                return 1 << 32

    def make(self) -> None:
        with self._errors():
            if self._partitions is not None:
                with contextlib.suppress(TopicExistsError):
                    self._log.create_topic(self._topic, partitions=self._partitions)
            self._log.topic(self._topic)

    # -- who may write ---------------------------------------------------------------------------

    def standings(self) -> dict[Slot, Standing]:
        with self._errors():
            return standings_of(self._log, self._context.job, self._context.sink)

    def jobs(self) -> list[str]:
        with self._errors():
            return jobs_of(self._log, self._context.sink, self._topic)

    def fence(self, judge: Callable[[Standings], Mapping[Slot, int]]) -> None:
        with self._errors():
            for _ in range(_ATTEMPTS):
                standings = self.standings()
                taken = self._older(standings, judge(standings))
                crash_point("log.pre_fence")
                with contextlib.ExitStack() as others:
                    producers = self._take_ids({worker for _, worker in taken}, others)
                    crash_point("log.post_fence")
                    # Again: nobody older can change them any more.
                    standings = self.standings()
                    checkpoints = judge(standings)
                    try:
                        for worker, producer in producers.items():
                            slots = [slot for slot in self._older(standings, checkpoints) if slot[1] == worker]
                            self._write_markers(producer, {slot: checkpoints[slot] for slot in slots}, standings)
                    except ProducerFencedError:
                        # By a newer run, which its marker tells; or by an older one, which will read ours and stop.
                        continue
                return
            raise self._disturbed()

    def _older(self, standings: Standings, checkpoints: Mapping[Slot, int]) -> list[Slot]:
        """The slots that this run takes over; those of other workers of this run are theirs to move on."""
        run = self._context.run
        return [slot for slot in checkpoints if slot not in standings or standings[slot].run != run]

    def standing(self, slot: Slot) -> Standing:
        mine = self._context
        own = (self._topic, mine.worker)
        if slot != own:
            # It was taken over with this worker's id: whoever takes the id back, for another one's output, stops here.
            self.standing(own)
        with self._errors():
            standing = standing_of(self._log, mine.job, mine.sink, slot)
        if standing is None:
            raise SinkError(
                f"{self.where(slot[0])} does not know this job any more: it was made anew, or the group "
                f"{group_of(mine.job, mine.sink, slot[1])!r} was deleted. Run the job again"
            )
        if standing.run != mine.run:
            raise FencedError(
                f"another run of job {mine.job!r}, with epoch {standing.job_epoch}, writes to {self.where(slot[0])}; "
                f"this process has epoch {mine.job_epoch} and must stop",
                epoch=mine.job_epoch,
                newer_epoch=standing.job_epoch,
            )
        return standing

    def _take_ids(self, workers: set[int], others: contextlib.ExitStack) -> dict[int, LogProducer]:
        """Fences all older producers of this sink, also of workers that have no successor; not those of this run."""
        mine = self._context
        producers = {mine.worker: self._take_id()}
        for worker in sorted(workers - {mine.worker}):
            producers[worker] = producer = self._producer_of(group_of(mine.job, mine.sink, worker))
            others.callback(producer.close)
        return producers

    def _take_id(self) -> LogProducer:
        self._producer = self._producer_of(self._group)
        return self._producer

    def _producer_of(self, transactional_id: str) -> LogProducer:
        producer = LogProducer(
            self._log, now_ms=self._now_ms(), transactional_id=transactional_id, max_buffered_bytes=_UNBOUNDED
        )
        producer.init_transactions(now_ms=self._now_ms())
        return producer

    def _write_markers(self, producer: LogProducer, checkpoints: Mapping[Slot, int], before: Standings) -> None:
        """From now on each topic says that it is this run that writes.

        Each worker's by the producer of its id: if a run that was replaced has taken that id back meanwhile, it fails.
        """
        producer.begin_transaction(now_ms=self._now_ms())
        for slot, checkpoint in checkpoints.items():
            self._send_marker(producer, slot, checkpoint, before.get(slot))
        producer.commit_transaction(now_ms=self._now_ms())

    # -- output ----------------------------------------------------------------------------------

    def write(self, parts: list[Part], records: Batch) -> int:
        part = self._fields.part(records)
        nbytes = part.nbytes()
        if not parts or not parts[-1].extend(part):
            parts.append(part)
        return nbytes

    def wall_ms(self) -> int:
        with self._errors():
            return LogTime(self._log, self._clock).wall_ms()

    def check(self, staged: Staged[list[Part]]) -> None:
        with self._errors():
            producer = self._begun()
            try:
                self._produce(producer, staged)
            finally:
                producer.abort_transaction(now_ms=self._now_ms())

    def read(self, handle: bytes) -> Staged[list[Part]]:
        return msgspec.msgpack.decode(handle, type=Staged[list[Part]])

    def apply(self, staged: Staged[list[Part]], checkpoint_id: int, is_due: Callable[[], bool]) -> None:
        with self._errors():
            for _ in range(_ATTEMPTS):
                if not is_due():
                    return
                try:
                    producer = self._begun()
                    self._produce(producer, staged)
                    self._send_marker(producer, staged.slot, checkpoint_id, self.standing(staged.slot))
                    crash_point("log.pre_append")
                    producer.commit_transaction(now_ms=self._now_ms())
                except (ProducerFencedError, InvalidTransactionStateError):
                    # By a newer run, which its marker tells; or by an older one, which will read ours and stop. Or the
                    # id was forgotten, since the job had no output for long.
                    self._take_id()
                    continue
                crash_point("log.post_append")
                return
            raise self._disturbed()

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close()
        self._log.close()

    def _produce(self, producer: LogProducer, staged: Staged[list[Part]]) -> None:
        for part in staged.parts:
            producer.produce(
                staged.place,
                part.values.take(),
                keys=None if part.keys is None else part.keys.take(),
                timestamps=part.timestamps,
                headers=part.headers,
                partition=part.partitions,
                now_ms=self._now_ms(),
                wall_ms=staged.staged_ms,
            )

    def _send_marker(self, producer: LogProducer, slot: Slot, checkpoint_id: int, before: Standing | None) -> None:
        mine, (topic, worker) = self._context, slot
        left = {} if before is None else before.left_by(mine.lineage)
        note = Standing(mine.job_epoch, mine.run, checkpoint_id, mine.lineage, mine.state_id, left).text()
        group = group_of(mine.job, mine.sink, worker)
        producer.send_offsets(group, [(topic, 0, checkpoint_id, note)], now_ms=self._now_ms())

    def _begun(self) -> LogProducer:
        assert self._producer is not None, "fence() comes before"
        self._producer.begin_transaction(now_ms=self._now_ms())
        return self._producer

    def _now_ms(self) -> int:
        return LogTime(self._log, self._clock).now_ms()

    def _disturbed(self) -> SinkError:
        return SinkError(
            f"other processes keep taking the transactional id {self._group!r} from this one; stop those that are not "
            f"job {self._context.job!r}"
        )

    def _newer_epoch(self) -> int | None:
        """The job epoch of the run that has taken over, once its marker says so."""
        context = self._context
        try:
            standing = standing_of(self._log, context.job, context.sink, (self._topic, context.worker))
        except OnceflowError:
            return None
        return None if standing is None or standing.run == context.run else standing.job_epoch

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ProducerFencedError as error:
            raise FencedError(
                f"another run of the job writes to the log {self._directory}; this process must stop: {error}",
                epoch=self._context.job_epoch,
                newer_epoch=self._newer_epoch(),
            ) from error
        except (LogError, StateError, StoreError) as error:
            raise SinkError(f"the log {self._directory} cannot be written: {error}") from error
