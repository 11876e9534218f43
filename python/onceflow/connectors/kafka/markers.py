"""The markers of a sink: a compacted topic of its own, with a partition for each worker.

The newest record of a partition says, for each topic that the worker has ever written to, which run writes there, and
up to which checkpoint its output is there. It is written in the transaction of that output. One record says all, so the
newest one of a partition is enough, however much compaction has left before it.

A partition has one writer, so a transaction of another program in another partition or topic hides nothing here. Should
a stranger write to it all the same and leave its transaction open, what is behind that is hidden from readers of what
is committed. So the markers are taken as read only when they have been read up to the end that an *uncommitted* reader
sees; until then the sink waits, and stops when it takes too long, instead of taking output for missing and sending it
again.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from onceflow.connectors.kafka.asking import is_passing
from onceflow.connectors.kafka.facts import Admin, TopicFacts
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text
from onceflow.connectors.outbox.marker import Standing
from onceflow.exceptions import SinkError
from onceflow.instances import Instance, job_and_instance

if TYPE_CHECKING:
    from confluent_kafka import Consumer

__all__ = ["Kept", "MarkerRecord", "MarkerTopic", "jobs_with_markers", "marker_topic_of", "marker_topics"]

#: Of every marker: compaction keeps the newest record of a key.
KEY = b"marker"
#: What is read first; where it has no marker, ten times as much and so on.
_TAIL = 32
_PAUSE_S = 0.05
_POLL_S = 0.5
#: Compaction never touches the newest segment, so it is kept small.
_SEGMENT_BYTES = 16 << 20
_ADVICE = (
    "Without it nobody knows which output is there, so nothing is written. Look up to where the output is there, and "
    "resume from a checkpoint with resume_from (--resume-from)"
)


class Kept(msgspec.Struct, frozen=True):
    """What is known of a worker's output in one topic.

    Attributes:
        standing: Who writes, and up to which checkpoint the output is there.
        topic_id: Of the topic.
        after: The checkpoint whose output was the newest before that one's.
        staged_by: The run that decided on that output; empty if there is none.
    """

    standing: Standing
    topic_id: str
    after: int = 0
    staged_by: str = ""


class MarkerRecord(msgspec.Struct, frozen=True):
    """A marker as it is kept: JSON."""

    job: str
    sink: str
    worker: int
    topics: dict[str, Kept]
    format: int = 1


def marker_topic_of(job: str, sink: str) -> str:
    """Name of the topic. Kafka takes a dot and an underscore for the same, and long names are cut: the digest tells
    them apart."""
    digest = hashlib.blake2b(f"{job}/{sink}".encode(), digest_size=6).hexdigest()
    flow, instance = job_and_instance(job)
    which = () if instance is None else (f"{instance.index}of{instance.count}",)
    names = (_plain(flow), *which, _plain(sink))
    return "-".join(("onceflow-markers", *names, digest))


def jobs_with_markers(topics: Iterable[str], job: str, sink: str) -> list[str]:
    """Jobs that divide the dataflow of a job in another way, and have a topic of markers of a sink."""
    flow, mine = job_and_instance(job)
    pattern = re.compile(rf"onceflow-markers-{_plain(flow)}-(?:(\d+)of(\d+)-)?{_plain(sink)}-[0-9a-f]+")
    found = []
    for topic in topics:
        if (name := pattern.fullmatch(topic)) is None:
            continue
        instance = None if name[1] is None else Instance(int(name[1]), int(name[2]))
        other = flow if instance is None else instance.job(flow)
        is_beside = (None if instance is None else instance.count) == (None if mine is None else mine.count)
        if not is_beside and marker_topic_of(other, sink) == topic:
            found.append(other)
    return found


def marker_topics(topics: Iterable[str], job: str) -> list[str]:
    """Those that may be of a job, whichever of its sinks; another job's name may begin as this one's."""
    flow, _ = job_and_instance(job)
    return sorted(topic for topic in topics if topic.startswith(f"onceflow-markers-{_plain(flow)}-"))


def _plain(name: str) -> str:
    return re.sub(r"[._]", "-", name)[:80]


class MarkerTopic:
    """The markers of one sink.

    Args:
        settings: Of the cluster.
        admin: Of the same.
        job: Name of the job.
        sink: Step id of the sink.
        timeout_s: How long to wait for what is hidden.
        name: Of a topic that is only looked at, to see whose it is.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        admin: Admin,
        job: str,
        sink: str,
        timeout_s: float,
        *,
        name: str | None = None,
    ) -> None:
        self.name = name or marker_topic_of(job, sink)
        self._settings = settings
        self._admin = admin
        self._job = job
        self._sink = sink
        self._timeout_s = timeout_s
        self._id: str | None = None
        self.partitions = 0
        self._consumer: Consumer = settings.consumer(
            settings.merged(
                {
                    # Nothing is committed for it.
                    "group.id": self.name,
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",
                    "allow.auto.create.topics": False,
                },
                {"fetch.wait.max.ms": 10},
            )
        )

    # -- the topic -------------------------------------------------------------------------------

    def notice(self, facts: TopicFacts | None) -> None:
        """What the topic is now; None: it does not exist.

        Raises:
            SinkError: It is gone, another one, or may lose markers.
        """
        if facts is None:
            if self._id is not None:
                raise SinkError(f"topic {self.name!r} with the markers of this sink was deleted. {_ADVICE}")
            return
        if self._id is not None and facts.id != self._id:
            raise SinkError(f"topic {self.name!r} with the markers of this sink was deleted and made anew. {_ADVICE}")
        if facts.cleanup != "compact":
            raise SinkError(
                f"topic {self.name!r} has the markers of this sink and cleanup.policy={facts.cleanup!r}, which removes "
                "them after a while, and then output would be written twice: set it to 'compact' and nothing else"
            )
        self._id, self.partitions = facts.id, facts.partitions

    def make(self, workers: int, of: TopicFacts) -> None:
        """Makes the topic, with a partition for each worker, as safe as the topic that the output goes to."""
        if self._id is None:
            config = {
                "cleanup.policy": "compact",
                "segment.bytes": str(_SEGMENT_BYTES),
                "min.insync.replicas": str(of.min_insync),
            }
            self._admin.create(self.name, workers, replicas=of.replicas, config=config)
        elif self.partitions < workers:
            self._admin.grow(self.name, workers)
        else:
            return
        self.notice(self._admin.topics([self.name]).get(self.name))
        if self.partitions < workers:
            raise SinkError(
                f"topic {self.name!r}, which was made for the markers of this sink, does not show with its {workers} "
                "partitions; run the job again"
            )

    # -- markers ---------------------------------------------------------------------------------

    def end(self, worker: int) -> int:
        """Behind the newest record of a worker, committed or not."""
        try:
            return self._admin.ends(self.name, [worker], committed=False)[worker]
        except SinkError:
            # Says that it is gone, if it is.
            self.notice(self._admin.topics([self.name]).get(self.name))
            raise

    def record(self, worker: int, topics: dict[str, Kept]) -> bytes:
        """What is written for a worker."""
        return msgspec.json.encode(MarkerRecord(self._job, self._sink, worker, topics))

    def settled(self) -> bool:
        """Whether no transaction is open that may still show, or hides, a marker."""
        workers = range(self.partitions)
        ends = self._admin.ends(self.name, workers, committed=False) if workers else {}
        return not workers or ends == self._admin.ends(self.name, workers, committed=True)

    def read(self, worker: int, *, settled: bool) -> dict[str, Kept]:
        """The newest marker of a worker.

        Args:
            worker: Whose.
            settled: Waits until nothing is hidden behind an open transaction; else what shows now is enough.

        Raises:
            SinkError: It stays hidden, or is damaged.
        """
        if worker >= self.partitions or (value := self._newest(worker, settled=settled)) is None:
            return {}
        record = self._decoded(value)
        if (record.job, record.sink, record.worker, record.format) != (self._job, self._sink, worker, 1):
            raise SinkError(
                f"partition {worker} of {self.name!r} has a marker of worker {record.worker} of {record.job}/"
                f"{record.sink} in format {record.format}: it is not this sink's, or of a newer version"
            )
        return record.topics

    def records(self) -> list[MarkerRecord]:
        """The newest markers of all workers, as they show now, whosever they are.

        Raises:
            SinkError: One cannot be read.
        """
        values = (self._newest(worker, settled=False) for worker in range(self.partitions))
        return [self._decoded(value) for value in values if value is not None]

    def _newest(self, worker: int, *, settled: bool) -> bytes | None:
        end = self._settled_end(worker) if settled else self._admin.ends(self.name, [worker], committed=True)[worker]
        back = _TAIL
        while True:
            start = max(0, end - back)
            if (found := self._last(worker, start, end)) is not None or not start:
                return found
            back *= 10

    def _settled_end(self, worker: int) -> int:
        end = self.end(worker)
        until = time.monotonic() + self._timeout_s
        while self._admin.ends(self.name, [worker], committed=True)[worker] < end:
            if time.monotonic() > until:
                raise SinkError(
                    f"somebody's transaction is open in partition {worker} of {self.name!r}, which has the markers of "
                    f"this sink, and hides them since {self._timeout_s:g} s; nothing but this sink must write there. "
                    "Find it with kafka-transactions.sh find-hanging, or describe-producers, and abort it; then run "
                    "the job again"
                )
            self._admin.waiting.missed(f"a transaction is open in partition {worker} of {self.name!r}")
            time.sleep(_PAUSE_S)
        return end

    def _last(self, worker: int, start: int, end: int) -> bytes | None:
        """The newest committed marker from ``start`` on, before ``end``."""
        library = client_library()
        until = time.monotonic() + self._timeout_s
        consumer, found = self._consumer, None
        consumer.assign([library.TopicPartition(self.name, worker, start)])
        try:
            while time.monotonic() < until:
                message = consumer.poll(_POLL_S)
                if message is None:
                    self._admin.waiting.missed(f"no answer of partition {worker} of {self.name!r}")
                    continue
                self._admin.waiting.answered()
                error, offset = message.error(), message.offset() or 0
                if error is None:
                    if offset < end and message.key() == KEY:
                        found = message.value()
                elif is_passing(error):
                    continue
                elif error.code() != library.KafkaError._PARTITION_EOF:
                    raise SinkError(
                        f"the markers in {self.name!r} cannot be read: {self._settings.redacted(error_text(error))}"
                    )
                if offset >= end - (error is None):
                    return found
        finally:
            consumer.unassign()
        raise SinkError(f"the markers in {self.name!r} cannot be read within {self._timeout_s:g} s")

    def _decoded(self, value: bytes) -> MarkerRecord:
        try:
            return msgspec.json.decode(value, type=MarkerRecord)
        except msgspec.DecodeError as error:
            raise SinkError(f"a marker in {self.name!r} is damaged: {value!r}: {error}") from error

    def close(self) -> None:
        """Releases the connection."""
        self._consumer.close()
