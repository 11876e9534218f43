"""A topic of Kafka as the target of an outbox.

The output of a checkpoint is decided before anything of it can be read. Then one transaction is committed that has the
records and the marker of the worker that staged them, which lies in a topic of the sink's own (see ``markers``). Where
there are many records they are sent into it ahead (see ``sending``); but what is decided lies in the decision record,
and is sent anew if anything has become of that transaction. So none that times out while the job is down, however long
that is, takes anything along.

The fence: ``recover`` takes the transactional ids of this worker and of all workers of older runs, one after the other,
which has the broker end what they have left open and refuse their producers. Only then the markers are read, up to the
end of what is written, committed or not; they are compared with the job's state, and written anew with this run in
them. A run that was paused and wakes up finds its producer refused. Should it take the id while waking up, it learns
from the marker that it must stop, and the run that it disturbed takes the id back.

When something goes wrong between the decision and the end of the commit, nobody asks the producer: another one takes
the id, the marker says whether the transaction was committed, and if not it is sent again, byte by byte the same, each
record to the partition that was chosen when it was written.

What the broker would refuse after the decision is refused before it: sizes, timestamps, partitions, records without a
key in a compacted topic, a topic that was deleted and made anew.

A checkpoint without output writes nothing, neither records nor a marker.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from onceflow.connectors.kafka.facts import Admin, TopicFacts
from onceflow.connectors.kafka.frame import Frame, handle_of, read_staged
from onceflow.connectors.kafka.markers import KEY, Kept, MarkerTopic, jobs_with_markers, marker_topic_of
from onceflow.connectors.kafka.producing import choose_partitions
from onceflow.connectors.kafka.sending import Sending
from onceflow.connectors.kafka.settings import KafkaSettings
from onceflow.connectors.kafka.transaction import TransactionalProducer, UnsureError
from onceflow.connectors.outbox.destination import Destination, Standings, Words
from onceflow.connectors.outbox.marker import Slot, Standing
from onceflow.connectors.outbox.staged import Place, Staged
from onceflow.connectors.topics.fields import Fields
from onceflow.crash import crash_point
from onceflow.exceptions import FencedError, MissingOutputWarning, SinkError
from onceflow.sinks import SinkContext
from onceflow.types import Batch, Plain

__all__ = ["KafkaDestination", "transactional_id_of"]

#: How often a transaction is sent again, or an id taken back from a run that was fenced and did not know it yet.
_ATTEMPTS = 10
_PAUSE_S = 0.1
#: A topic that does not exist.
_GONE = 1 << 32


def transactional_id_of(job: str, sink: str, worker: int) -> str:
    """The same in all runs of a job; that of the first worker has no number."""
    return f"onceflow/{job}/{sink}" + (f"/{worker}" if worker else "")


class KafkaDestination(Destination[Frame]):
    """See the module; the settings are those of ``KafkaSink``."""

    markers_are_with_output = False

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        partitions: int | None,
        fields: Fields,
        context: SinkContext,
        timeout_s: float,
        *,
        eager: bool,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._partitions = partitions
        self._fields = fields
        self._context = context
        self._timeout_s = timeout_s
        self._admin = Admin(settings, timeout_s, f"sink '{context.job}/{context.sink}'")
        self._cluster = self._admin.cluster()
        self._markers = MarkerTopic(settings, self._admin, context.job, context.sink, timeout_s)
        self._producer = self._producer_of(context.worker)
        self._sending = Sending(self._producer, topic, eager=eager)
        self._facts: TopicFacts | None = None
        #: Of each worker: its marker, and up to where its partition was read.
        self._kept: dict[int, dict[str, Kept]] = {}
        self._read_to: dict[int, int] = {}
        self._turn = 0
        #: Of which it was said that they are.
        self._gone: set[str] = set()
        self.words = Words(
            store="the topic",
            thing=f"the topics {topic!r} and {self._markers.name!r}",
            own="a topic of its own, under another name of the job or the sink, by which its markers go",
        )

    # -- the topics ------------------------------------------------------------------------------

    def where(self, place: str) -> str:
        return f"topic {place!r} at {self._settings.bootstrap}"

    def markers_of(self, job: str) -> str:
        return f"the topic {marker_topic_of(job, self._context.sink)!r}"

    def place(self) -> Place:
        return Place(self._topic, 0, self._cluster)

    def number_of(self, place: str) -> int:
        if self._admin.topics([place]):
            return 0
        if place != self._topic and place not in self._gone:
            self._gone.add(place)
            warnings.warn(
                MissingOutputWarning(
                    f"{self.where(place)}, to which sink {self._context.sink!r} wrote before, does not exist any more; "
                    "what was decided for it and not written yet is lost"
                ),
                stacklevel=4,
            )
        return _GONE

    def make(self) -> None:
        if self._facts is None:
            self._admin.topic_to_write(self._topic, self._partitions)
            self._look()
        self._writable()

    def _look(self) -> None:
        """What the topics are now."""
        found = self._admin.topics([self._topic, self._markers.name])
        self._markers.notice(found.get(self._markers.name))
        facts = found.get(self._topic)
        if self._facts is not None and (facts is None or facts.id != self._facts.id):
            raise self._made_anew(facts)
        self._facts = facts

    def _writable(self) -> TopicFacts:
        if self._facts is None:
            raise SinkError(f"there is no {self.where(self._topic)}")
        return self._facts

    def _made_anew(self, facts: TopicFacts | None, place: str | None = None) -> SinkError:
        return SinkError(
            f"{self.where(place or self._topic)} was deleted{'' if facts is None else ' and made anew'} since this job "
            f"wrote to it, so its output is gone: to write all of it again, delete {self.words.thing} and start over "
            "with resume_from='none' (--resume-from none); to go on with a new topic, give it another name"
        )

    # -- who may write ---------------------------------------------------------------------------

    def standings(self) -> dict[Slot, Standing]:
        self._look()
        # Nothing is open of this run, and what older ones have open is not waited for before they are shut out.
        return self._standings(settled=False)

    def jobs(self) -> list[str]:
        mine = self._context
        found = []
        for job in jobs_with_markers(self._admin.names(), mine.job, mine.sink):
            markers = MarkerTopic(self._settings, self._admin, job, mine.sink, self._timeout_s)
            try:
                markers.notice(self._admin.topics([markers.name]).get(markers.name))
                kept = [markers.read(worker, settled=False) for worker in range(markers.partitions)]
            finally:
                markers.close()
            now = self._admin.topics([self._topic]).get(self._topic)
            # Not of one that was deleted since.
            if now is not None and any(each[self._topic].topic_id == now.id for each in kept if self._topic in each):
                found.append(job)
        return found

    def settled(self) -> bool:
        return self._markers.settled()

    def _standings(self, *, settled: bool) -> dict[Slot, Standing]:
        found = {}
        for worker in range(self._markers.partitions):
            self._read(worker, settled=settled)
            for place, kept in self._kept[worker].items():
                if place == self._topic and kept.standing.checkpoint:
                    facts = self._facts
                    if facts is None or facts.id != kept.topic_id:
                        raise self._made_anew(facts)
                found[place, worker] = kept.standing
        return found

    def _read(self, worker: int, *, settled: bool) -> None:
        end = self._markers.end(worker) if settled else 0
        self._kept[worker] = self._markers.read(worker, settled=settled)
        self._read_to[worker] = end

    def fence(self, judge: Callable[[Standings], Mapping[Slot, int]]) -> None:
        text = ""
        for _ in range(_ATTEMPTS):
            workers = {self._context.worker, *(worker for _, worker in judge(self.standings()))}
            crash_point("kafka.pre_fence")
            self._markers.make(max(workers) + 1, self._writable())
            with contextlib.ExitStack() as others:
                producers = self._take_ids(others)
                crash_point("kafka.post_fence")
                # A newer run shows at once, and may have a transaction open that would have to be waited for.
                judge(self._standings(settled=False))
                # Nobody older can change them any more.
                checkpoints = judge(self._standings(settled=True))
                # By a newer run, which its marker tells; or by an older one, which will read ours and stop.
                try:
                    for worker, producer in producers.items():
                        self._take_over(producer, worker, checkpoints)
                    return
                except UnsureError as error:
                    text = str(error)
            time.sleep(_PAUSE_S)
        raise self._disturbed(text)

    def _take_ids(self, others: contextlib.ExitStack) -> dict[int, TransactionalProducer]:
        """Shuts out all older producers of this sink, also of workers that have no successor; not those of this run."""
        facts, mine = self._writable(), self._context
        self._producer.take(facts)
        producers = {mine.worker: self._producer}
        for worker in range(self._markers.partitions):
            kept = self._kept.get(worker) or self._markers.read(worker, settled=False)
            ours = kept and all(each.standing.run == mine.run for each in kept.values())
            if worker != mine.worker and not ours:
                producers[worker] = producer = self._producer_of(worker)
                others.callback(producer.drop)
                producer.take(facts)
        return producers

    def _take_over(self, producer: TransactionalProducer, worker: int, checkpoints: Mapping[Slot, int]) -> None:
        """From now on the worker's marker says that it is this run that writes."""
        kept = dict(self._kept.get(worker, {}))
        for (place, other), checkpoint in checkpoints.items():
            before = kept.get(place)
            if other != worker or (before is not None and before.standing.run == self._context.run):
                continue
            standing = self._standing(checkpoint, None if before is None else before.standing)
            made = Kept(standing, self._writable().id if place == self._topic else "")
            if before is not None:
                same = (before.standing.checkpoint, before.standing.lineage) == (checkpoint, self._context.lineage)
                made = Kept(
                    made.standing,
                    made.topic_id or before.topic_id,
                    before.after if same else 0,
                    before.staged_by if same else "",
                )
            kept[place] = made
        if kept != self._kept.get(worker, {}):
            producer.begin()
            self._commit(producer, worker, kept, time.monotonic() + self._timeout_s)

    def standing(self, slot: Slot) -> Standing:
        mine, (place, worker) = self._context, slot
        own = (self._topic, mine.worker)
        if slot != own:
            # It was taken over with this worker's id: whoever takes the id back, for another one's output, stops here.
            self.standing(own)
        if worker not in self._read_to or self._markers.end(worker) > self._read_to[worker]:
            for settled in (False, True):
                # Another run shows at once, and may have a transaction open that would have to be waited for.
                self._read(worker, settled=settled)
                for kept in self._kept[worker].values():
                    self._check_run(kept)
        found = self._kept[worker].get(place)
        if found is None:
            raise SinkError(
                f"{self.markers_of(self._context.job)} does not know this job any more: its records were deleted. Run "
                "the job again"
            )
        return found.standing

    def _check_run(self, kept: Kept) -> None:
        mine, there = self._context, kept.standing
        if there.run != mine.run:
            raise FencedError(
                f"another run of job {mine.job!r}, with epoch {there.job_epoch}, writes to {self.where(self._topic)}; "
                f"this process has epoch {mine.job_epoch} and must stop",
                epoch=mine.job_epoch,
                newer_epoch=there.job_epoch,
            )

    # -- output ----------------------------------------------------------------------------------

    def write(self, parts: list[Frame], records: Batch) -> int:
        part, facts, now_ms = self._fields.part(records), self._writable(), self.wall_ms()
        self._turn = (self._turn + 1) % facts.partitions
        # Chosen now: it stays with a record, also where the topic has grown before it is sent.
        choose_partitions(part, facts.partitions, self._turn)
        frame = Frame.of(part, now_ms)
        parts.append(frame)
        self._sending.ahead(parts, part)
        return frame.nbytes

    def wall_ms(self) -> int:
        return int(time.time() * 1000)

    def check(self, staged: Staged[list[Frame]]) -> None:
        self._look()
        facts = self._writable()
        for frame in staged.parts:
            frame.bounds.check(facts, staged.staged_ms, frame.part)

    def handle(self, staged: Staged[list[Frame]]) -> Plain:
        return handle_of(staged)

    def read(self, handle: Any) -> Staged[list[Frame]]:
        return read_staged(handle)

    def apply(self, staged: Staged[list[Frame]], checkpoint_id: int, is_due: Callable[[], bool]) -> None:
        with self._sending.lock:
            self._apply(staged, checkpoint_id, is_due)

    def _apply(self, staged: Staged[list[Frame]], checkpoint_id: int, is_due: Callable[[], bool]) -> None:
        worker, text = staged.worker, ""
        if self._sending.is_open(but_for=staged.parts):
            # Another worker's output comes in between.
            self._renew(self._context.worker, self._topic)
        if staged.place != self._topic and is_due():
            # What an earlier run has decided for another topic, which has bounds of its own.
            self._producer.take(self._facts_of(staged.place, worker))
        for _ in range(_ATTEMPTS):
            if not is_due():
                if self._sending.is_open():
                    self._renew(worker, staged.place)
                self._check_same(staged, checkpoint_id)
                break
            kept = dict(self._kept[worker])
            before = kept[staged.place]
            newest = self._standing(checkpoint_id, before.standing)
            kept[staged.place] = Kept(newest, before.topic_id, before.standing.checkpoint, staged.run)
            until = time.monotonic() + self._timeout_s
            try:
                self._sending.finish(staged.place, staged.parts, until)
                self._commit(self._producer, worker, kept, until)
                break
            except UnsureError as error:
                text = str(error)
            # Behind the handler: only without the error does nobody hold the producer any more.
            self._renew(worker, staged.place)
        else:
            raise SinkError(
                f"the output of checkpoint {checkpoint_id} could not be written to {self.where(staged.place)} in "
                f"{_ATTEMPTS} attempts; it is kept, and the next run writes it. The last one: {text}"
            )
        self._sending.committed(staged.parts)
        if staged.place != self._topic:
            self._producer.take(self._writable())

    def _facts_of(self, place: str, worker: int) -> TopicFacts:
        facts = self._admin.topics([place]).get(place)
        if facts is None or facts.id != self._kept[worker][place].topic_id:
            raise self._made_anew(facts, place)
        return facts

    def _check_same(self, staged: Staged[list[Frame]], checkpoint_id: int) -> None:
        """The output of a number is there; is it this one?"""
        kept = self._kept[staged.worker][staged.place]
        other = kept.staged_by and kept.staged_by != staged.run
        if kept.standing.checkpoint == checkpoint_id and other:
            raise SinkError(
                f"{self.where(staged.place)} holds an output of checkpoint {checkpoint_id} that run {kept.staged_by} "
                f"has decided, and here run {staged.run} has: two copies of the job's state are in use. Give each "
                f"{self.words.own}"
            )

    def _commit(self, producer: TransactionalProducer, worker: int, kept: dict[str, Kept], until: float) -> None:
        producer.finish((self._markers.name, worker, KEY, self._markers.record(worker, kept)), until)
        crash_point("kafka.pre_commit")
        # Never aborted from here on: the broker may have begun to commit.
        self._sending.forget()
        producer.commit()
        crash_point("kafka.post_commit")
        self._kept[worker] = kept
        # The marker, and the record by which the broker ends the transaction.
        self._read_to[worker] += 2

    def _renew(self, worker: int, place: str) -> None:
        """Has another producer take the id, unless another run has it for good."""
        self._sending.forget()
        self._producer.drop()
        for kept in self._markers.read(worker, settled=False).values():
            self._check_run(kept)
        time.sleep(_PAUSE_S)
        self._look()
        self._producer.take(self._writable() if place == self._topic else self._facts_of(place, worker))
        self._read_to.clear()

    def close(self) -> None:
        if self._sending.is_open():
            # Else it would hold readers back until it times out, or until the next run.
            self._producer.abandon()
        self._producer.drop()
        self._markers.close()

    def _producer_of(self, worker: int) -> TransactionalProducer:
        mine = self._context
        name = transactional_id_of(mine.job, mine.sink, worker)
        return TransactionalProducer(self._settings, name, self._timeout_s, self._admin.waiting)

    def _standing(self, checkpoint_id: int, before: Standing | None) -> Standing:
        mine = self._context
        left = {} if before is None else before.left_by(mine.lineage)
        return Standing(mine.job_epoch, mine.run, checkpoint_id, mine.lineage, mine.state_id, left)

    def _disturbed(self, text: str) -> SinkError:
        return SinkError(
            f"no marker could be written to {self._markers.name!r} in {_ATTEMPTS} attempts. Either a right is lacking, "
            "which onceflow explain --check names, or other processes keep taking the transactional id "
            f"{self._producer.id!r} from this one: stop those that are not job {self._context.job!r}. The last "
            f"attempt: {text}"
        )
