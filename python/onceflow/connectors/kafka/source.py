"""Topics of Kafka as a source.

Each partition of the topic is a partition of the source, its position an offset and what makes it exact: see
``position``. Partitions are assigned, never subscribed to: where a run begins is said by its checkpoint alone.

A run to the end (``stop_at_end``) ends each partition behind the last record that was there when the job opened it
first, be it committed, aborted or part of a transaction that was still open, whose end it waits for: so all that was
written by then is read. A run until caught up never waits for others: it ends where a read_committed consumer could
read to when the run began, and the next one goes on from there.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, Literal, get_args

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.event_time import micros
from onceflow.connectors.files.malformed import MalformedPolicy
from onceflow.connectors.kafka.feed import LOOK_S, Feed
from onceflow.connectors.kafka.group import GroupOffsets
from onceflow.connectors.kafka.inspection import look_at_source
from onceflow.connectors.kafka.position import Position
from onceflow.connectors.kafka.reader import KafkaReader
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, topic_of
from onceflow.connectors.kafka.topic import Bounds, Isolation, Topic, TopicState, made_anew, out_of_range
from onceflow.connectors.topics.codecs import Codec, CodecName, reading_of
from onceflow.connectors.topics.messages import Decode, EventTime
from onceflow.connectors.topics.share import Share
from onceflow.connectors.topics.typed import FieldType
from onceflow.exceptions import ConfigurationError, SourceChangedError
from onceflow.instances import Instance
from onceflow.log.settings import check_seconds
from onceflow.sources import Source, SourceContext, SourceReader
from onceflow.types import Batch, Plain

__all__ = ["KafkaSource"]

#: What the connector decides, and what a user gives instead.
_INSTEAD = {
    "group.id": "give group=",
    "isolation.level": "give isolation=",
    "auto.offset.reset": "give start=; where a position is gone the source never goes elsewhere by itself",
    "enable.auto.commit": "offsets are committed with the checkpoints: give group=",
    "enable.auto.offset.store": "offsets are committed with the checkpoints: give group=",
    "enable.partition.eof": "the connector sets it itself",
}
#: How long a look for new partitions may take where nothing is read.
_LOOK_TIMEOUT_S = 1.0
#: A client must name one.
_GROUP = "onceflow"
#: Small queues: what is read ahead waits in the feed, which counts it. A client whose queue is full otherwise waits a
#: second before it fetches again.
_DEFAULTS = {
    "client.id": "onceflow",
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 16_384,
    "fetch.queue.backoff.ms": 5,
    "fetch.max.bytes": 16 << 20,
    "reconnect.backoff.max.ms": 1_000,
    "check.crcs": True,
    # A job whose sinks are slow does not poll; nobody else takes its partitions.
    "max.poll.interval.ms": 86_400_000,
}


class KafkaSource(Source):
    """Records of a topic; each of its partitions is a partition.

    Takes what ``LogSource`` takes, by the same names. Partitions that the topic gets while a job follows it are read
    from their beginning, without a restart.

    Args:
        bootstrap: ``"host:port"``, several with commas between them.
        topic: Its name.
        decode: What a record is. None: a dict with ``partition``, ``offset``, ``timestamp_ms``, ``key``, ``value`` and
            ``headers``. ``"json"``: the value, read as JSON (None for a null value). ``"value"``: the value. Or a
            function of that dict.
        as_columns: Batches are columns ``partition``, ``offset``, ``timestamp_ms`` (numpy), ``key`` and ``value``
            (Arrow arrays of binary, or of text by a codec ``"str"``). Needs ``onceflow[arrow]``.
        types: With ``as_columns``: fields of values (JSON, msgpack, Avro, Protobuf) that are columns in place of
            ``value``, and their types: ``"int"`` (64 bits), ``"float"``, ``"bool"``, ``"str"`` or ``"bytes"``. Arrow
            arrays; a field that is missing, and any of a null value, is null. A value of another type is malformed.
        event_time: ``"timestamp"``: the timestamps of the records. Or a function that gives the time of a record (ISO
            text, a datetime, or seconds since 1970); with ``as_columns`` a function that gives an int64 array of
            microseconds for a batch of columns.
        stop_at_end: Each partition ends at what was its end when the job first opened it. False: the source goes on
            for ever, until the job is stopped. See the module for which end is meant.
        on_malformed: What to do with a record that ``decode`` or ``event_time`` raises for: ``"fail"``, ``"skip"`` (and
            count it), or ``"dead_letter"``.
        start: Where a job begins that has no checkpoint: ``"earliest"``; ``"latest"``: behind what a read_committed
            consumer could read to, so that no transaction is cut in two; or a datetime (UTC without a zone): at the
            first record of each partition whose timestamp is not below it.
        isolation: ``"read_committed"``: nothing of open and aborted transactions.
        key_codec: What the bytes of keys mean: ``"bytes"``, ``"str"``, ``"json"``, ``"msgpack"``, an ``AvroCodec`` or
            ``ProtobufCodec`` of ``onceflow.connectors.kafka``. A null stays None; what cannot be read is malformed.
        value_codec: The same for values.
        group: The offsets of each complete checkpoint are committed for this consumer group, for tools that show its
            lag. Nothing is ever read from there. What fails is told by a ``GroupOffsetsWarning``.
        config: Settings of librdkafka, such as ``{"security.protocol": "SASL_SSL", …}``.
        share: ``(index, count)``: reads this share of the partitions, where so many runs of the job divide them; see
            ``instance`` of ``run``.
        partitioned_by: Name of the field of the records by which producers choose the partition. Runs that divide a
            topic may key by it; each record that they read is then checked to lie where it must. None: by ``key``,
            where records are dicts of the message, or columns.
        partitioner: How they do: ``"murmur2"`` as Java's clients and ``KafkaSink``, ``"crc32"`` as librdkafka's where
            they are not told otherwise.
        connect_timeout_s: At the start a broker must answer within so many seconds.
        max_unavailable_s: While the job runs it waits so long for brokers that do not answer; None: for ever.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: confluent-kafka is not installed.
    """

    wakes: ClassVar[bool] = True

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        decode: Literal["json", "value"] | Decode | None = None,
        as_columns: bool = False,
        types: Mapping[str, FieldType] | None = None,
        event_time: Literal["timestamp"] | EventTime | None = None,
        stop_at_end: bool = True,
        on_malformed: MalformedPolicy = "fail",
        start: Literal["earliest", "latest"] | datetime = "earliest",
        isolation: Isolation = "read_committed",
        key_codec: CodecName | Codec = "bytes",
        value_codec: CodecName | Codec = "bytes",
        group: str | None = None,
        config: Mapping[str, Any] | None = None,
        share: tuple[int, int] | None = None,
        partitioned_by: str | None = None,
        partitioner: Literal["murmur2", "crc32"] = "murmur2",
        connect_timeout_s: float = 30.0,
        max_unavailable_s: float | None = 600.0,
    ) -> None:
        client_library()
        self._settings = KafkaSettings(bootstrap, config)
        self._topic_name = topic_of(topic)
        self._reading = reading_of(
            self._topic_name,
            decode=decode,
            as_columns=as_columns,
            types=types,
            event_time=event_time,
            on_malformed=on_malformed,
            key_codec=key_codec,
            value_codec=value_codec,
        )
        self.deterministic = self._reading.is_deterministic
        self.has_event_time = event_time is not None
        self.has_dead_letters = on_malformed == "dead_letter"
        self._stop_at_end = stop_at_end
        if isolation not in get_args(Isolation):
            raise ConfigurationError(
                f"isolation={isolation!r}: 'read_committed' or 'read_uncommitted'", setting="isolation"
            )
        self._isolation: Isolation = isolation
        if group is not None and (not isinstance(group, str) or not group):
            raise ConfigurationError(f"group={group!r}: give the name of a consumer group", setting="group")
        self._group = group
        self._start, self._start_ms = start, _start_ms(start)
        check_seconds("connect_timeout_s", connect_timeout_s, above=True)
        if max_unavailable_s is not None:
            check_seconds("max_unavailable_s", max_unavailable_s, above=True)
        self._connect_timeout_s = connect_timeout_s
        self._max_unavailable_s = max_unavailable_s
        if partitioned_by is None and decode is None and key_codec in ("bytes", "str"):
            partitioned_by = "key"
        self.job_instance = None if share is None else Instance.checked("share", share)
        if partitioner not in ("murmur2", "crc32"):
            raise ConfigurationError(f"partitioner={partitioner!r}: give 'murmur2' or 'crc32'", setting="partitioner")
        self.partitioner = partitioner
        self._share = Share(self._topic_name, None, partitioned_by, partitioner)
        # Refused now and not in the middle of a start.
        self._config(lambda error: None, lambda event: None)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._asked: Topic | None = None
        self._listed: TopicState | None = None
        #: What a job had read of before this run.
        self._resumed: frozenset[str] = frozenset()
        #: Of which run, by the identity of its context, which partitions have come since it began.
        self._come: set[tuple[int, str]] = set()
        self._looked_s = time.monotonic()
        #: By the identity of a context: of each run its own.
        self._runs: dict[int, _Run] = {}
        self._offsets: GroupOffsets | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Connections stay where they are.
        left = ("_lock", "_process", "_asked", "_listed", "_resumed", "_come", "_looked_s", "_runs", "_offsets")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def shared(self, instance: Instance, keys: Sequence[tuple[str, frozenset[str]]]) -> Source:
        """See ``Source``: partitions whose number leaves the instance's index, divided by the number of instances."""
        share = self._share.of(instance, keys)
        own = copy.copy(self)
        own.job_instance, own._share, own.partitioned_by = instance, share, share.field
        return own

    def check_share(self, records: Batch) -> None:
        """See ``Source``."""
        self._share.check_unchanged(self.all_partitions or 0, records)

    def partitions(self) -> list[str]:
        """``"0"``, ``"1"`` and so on, or the share of them."""
        self._listed = self._topic().state()
        self.all_partitions = len(self._listed.partitions)
        return self._mine(self._listed)

    def _mine(self, state: TopicState) -> list[str]:
        return [str(number) for number in self._share.numbers(state.partitions)]

    def restore(self, positions: Mapping[str, Plain]) -> None:
        """See ``Source``. Partitions that have come since a job began are read from their beginning."""
        self._resumed = frozenset(positions)
        if self._listed is None:
            return
        missing = sorted(positions.keys() - {str(number) for number in self._listed.partitions})
        if missing:
            raise SourceChangedError(
                f"topic {self._topic_name!r} has {len(self._listed.partitions)} partitions, and the checkpoint has "
                f"positions of others, {missing}. A topic never loses partitions: it was made anew, or a broker that "
                "starts does not know them yet, and then another attempt helps. To go on with what there is, start "
                "over with resume_from='none'",
                partition=missing[0],
            )

    def new_partitions(self, known: Set[str], context: SourceContext) -> list[str] | None:
        """See ``Source``: where it follows the topic. The feed looks at it every five seconds."""
        if self._stop_at_end or context.until == "caught_up":
            return None
        with self._lock:
            run = self._runs.get(id(context))
        state = self._looked_up() if run is None or run.feed is None else run.feed.newest
        if state is None:
            return []
        self._share.check_count(self.all_partitions, len(state.partitions))
        come = [partition for partition in self._mine(state) if partition not in known]
        with self._lock:
            self._come |= {(id(context), partition) for partition in come}
        return come

    def _looked_up(self) -> TopicState | None:
        """The topic, for an instance that reads nothing of it yet and so has no feed; None if it is too early to ask
        again, or nobody answers."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return None
        self._looked_s = now_s
        found = self._topic().state_now(_LOOK_TIMEOUT_S)
        if isinstance(found, str):
            return None
        if self._listed is not None and found.id != self._listed.id:
            raise made_anew(self._topic_name)
        return found

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        number, topic = int(partition), self._topic()
        with self._lock:
            run = self._runs.get(id(context))
            if run is None:
                state = topic.state()
                run = self._runs[id(context)] = _Run(context, state, topic.bounds(state.partitions), None)
            run.opened += 1
        try:
            bounds = run.bounds.pop(number, None) or topic.bounds([number])[number]
            found, end = self._placed(run, partition, position, bounds)
            if run.feed is None:
                run.feed = Feed(self._settings, self._config, topic, run.state, context.wake, self._max_unavailable_s)
            reading = replace(self._reading, placement=self._share.placement(len(run.state.partitions)))
            return KafkaReader(run.feed, reading, number, found, bounds.start, end, lambda: self._closed(context))
        except BaseException:
            self._closed(context)
            raise

    def _placed(self, run: _Run, partition: str, position: Plain, bounds: Bounds) -> tuple[Position, int | None]:
        """Where a reader goes on, and where it ends in this run."""
        state, context = run.state, run.context
        last_end = bounds.end if self._stop_at_end else None
        there = len(state.partitions)
        if position is None:
            if context.resumed:
                self._share.check_count(None, there)
            found = Position(state.id, self._first(run, partition, bounds), last_end, None)
        else:
            kept = Position.of(position)
            self._share.check_count(kept.partitions, there)
            self._check(partition, kept, state, bounds)
            end = kept.end if self._stop_at_end and kept.end is not None else last_end
            found = Position(state.id, kept.offset, end, kept.last)
        if context.until == "caught_up":
            reached: int | None = bounds.stable_end if self._isolation == "read_committed" else bounds.end
            found = replace(found, end=None)
        else:
            reached = found.end
        return replace(found, partitions=there if self._share.is_keyed else None), reached

    def _first(self, run: _Run, partition: str, bounds: Bounds) -> int:
        # What has come while a job was running, or was stopped, is new from its beginning.
        with self._lock:
            is_new = (id(run.context), partition) in self._come
            self._come.discard((id(run.context), partition))
        has_begun = run.context.resumed or bool(self._resumed)
        is_new |= has_begun and partition not in self._resumed
        if self._start == "earliest" or is_new:
            return bounds.start
        latest = bounds.stable_end if self._isolation == "read_committed" else bounds.end
        if self._start_ms is None:
            return latest
        found = self._topic().offsets_at([int(partition)], self._start_ms)[int(partition)]
        return latest if found < 0 else found

    def _check(self, partition: str, kept: Position, state: TopicState, bounds: Bounds) -> None:
        if kept.topic_id and state.id and kept.topic_id != state.id:
            raise SourceChangedError(
                f"topic {self._topic_name!r} was deleted and made again since the checkpoint, or is one of another "
                f"cluster, so offset {kept.offset} of partition {partition} means nothing any more; start over with "
                "resume_from='none'",
                partition=partition,
                position=kept.offset,
            )
        if not bounds.start <= kept.offset <= bounds.end:
            raise out_of_range(self._topic_name, int(partition), kept.offset, bounds.start, bounds.end)

    def same_position(self, one: Plain, other: Plain) -> bool:
        """See ``Source``: offsets without a record may lie between two positions of the same place."""
        if one is None or other is None:
            return one == other
        return Position.of(one).is_same_place(Position.of(other))

    def on_checkpoint_complete(
        self, checkpoint_id: int, positions: Mapping[str, Plain], context: SourceContext
    ) -> None:
        """See ``Source``: commits the offsets for ``group``, if there is one."""
        if self._group is None or not positions:
            return
        if self._offsets is None:
            self._offsets = GroupOffsets(self._settings, self._group, self._topic_name)
        offsets = {int(name): Position.of(at).offset for name, at in positions.items() if at is not None}
        # Behind the last checkpoint of a run nobody comes to look whether it worked.
        self._offsets.commit(offsets, wait=id(context) not in self._runs)

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Source``."""
        yield from look_at_source(
            self._settings,
            self._topic_name,
            group=self._group or _GROUP,
            committed=self._isolation == "read_committed",
            timeout_s=self._connect_timeout_s,
            share=self._share,
        )
        if self._share.is_keyed:
            yield from self._share.sampled(self._topic().state().partitions, self.open, context.positions)

    def _topic(self) -> Topic:
        if self._process != os.getpid():
            # Threads of the client stay behind at a fork.
            self._forget()
        if self._asked is None:
            self._asked = Topic(self._settings, self._topic_name, self._connect_timeout_s)
        return self._asked

    def _config(self, on_error: Callable[[Any], None], on_throttle: Callable[[Any], None]) -> dict[str, Any]:
        fixed = {
            "group.id": self._group or _GROUP,
            "isolation.level": self._isolation,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
        }
        return self._settings.merged(fixed, _DEFAULTS, instead=_INSTEAD, on_error=on_error, on_throttle=on_throttle)

    def _closed(self, context: SourceContext) -> None:
        with self._lock:
            run = self._runs[id(context)]
            run.opened -= 1
            if run.opened:
                return
            del self._runs[id(context)]
        if run.feed is not None:
            run.feed.close()


class _Run:
    """What the readers of one run share."""

    def __init__(self, context: SourceContext, state: TopicState, bounds: dict[int, Bounds], feed: Feed | None) -> None:
        # Held, so that no other one has its identity.
        self.context = context
        self.state = state
        #: As of the beginning; each is used once.
        self.bounds = bounds
        self.feed = feed
        self.opened = 0


def _start_ms(start: object) -> int | None:
    """Of a datetime."""
    if isinstance(start, datetime):
        try:
            # The first whole millisecond that is not below it.
            return -(-micros(start) // 1000)
        except ValueError as error:
            raise ConfigurationError(f"start={start!r}: {error}", setting="start") from error
    if start not in ("earliest", "latest"):
        raise ConfigurationError(f"start={start!r}: 'earliest', 'latest' or a datetime", setting="start")
    return None
