"""What one consumer fetches for all partitions of a source, on a thread of its own, until their readers take it.

The thread alone uses the consumer. What waits for readers is bounded in bytes over all partitions: where nobody lacks
anything the thread waits; where one partition is full and another has nothing, the full one is paused. So partitions
that are ahead in event time hold nobody up, and memory does not grow with their number.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from onceflow.connectors.kafka.quota import Quota
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text
from onceflow.connectors.kafka.topic import Topic, TopicState, made_anew, out_of_range
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import NewPartitionsWarning, SourceError, SourceWaitingWarning, described
from onceflow.sources import Wake

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, ThrottleEvent

__all__ = ["LOOK_S", "Feed", "Lane", "offset_of"]

#: Bytes that wait for readers, of all partitions together; of one at least. Half as much again may come on top.
MAX_BUFFERED_BYTES = 32 << 20
_LEAST_SHARE = 256 << 10
#: A message in memory besides its key and value.
_OVERHEAD_BYTES = 300
_AT_ONCE = 5_000
_SUPPOSED_BYTES = 10_000
#: Nothing interrupts a poll, so it is short where something was to do just now, and gets longer.
_POLL_S, _QUICK_POLL_S = 0.05, 0.002
#: The topic is looked at so often anyway, and so often while nobody answers.
LOOK_S, _PROBE_S = 5.0, 1.0
_PROBE_TIMEOUT_S = 2.0
_VERIFY_EVERY_S = 0.1


class Lane:
    """What was fetched of one partition, in order: messages, and the offsets at which nothing more was there."""

    __slots__ = ("_feed", "items", "nbytes", "offset", "partition", "paused")

    def __init__(self, feed: Feed, partition: int, offset: int) -> None:
        self._feed = feed
        self.partition = partition
        self.offset = offset
        #: Messages and about how many bytes they take; or an offset at which nothing more was there.
        self.items: deque[tuple[list[Message], int] | int] = deque()
        self.nbytes = 0
        self.paused = False

    def take(self, max_records: int) -> tuple[list[Message], int | None]:
        """Up to so many messages; and, if behind them nothing more was there, from which offset on."""
        return self._feed.taken(self, max_records)

    def close(self) -> None:
        """Nothing more is fetched."""
        self._feed.leave(self)


class Feed:
    """See the module.

    Args:
        settings: How to reach the cluster.
        config: The consumer's, as ``KafkaSettings.merged`` makes it.
        topic: What is read.
        state: The topic as it was opened; another one under the same name is an error.
        wake: Set when there is something to take, or to hear of.
        deadline_s: Nobody answers for longer: it is an error. None: for ever.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        config: Callable[[Callable[[KafkaError], None], Callable[[ThrottleEvent], None]], Mapping[str, Any]],
        topic: Topic,
        state: TopicState,
        wake: Wake,
        deadline_s: float | None,
    ) -> None:
        self._library = client_library()
        self._settings = settings
        self._topic = topic
        self._topic_id = state.id
        #: As of the newest look.
        self.newest = state
        #: So many a user knows of.
        self._told = len(state.partitions)
        self._wake = wake
        self._deadline_s = deadline_s
        self._lock = threading.Condition()
        self._lanes: dict[int, Lane] = {}
        self._commands: deque[tuple[bool, Lane]] = deque()
        self._nbytes = 0
        self._closing = False
        self._failure: SourceError | None = None
        #: Something was wrong with a connection; since when no broker has answered, and why.
        self._suspect = False
        self._away_since_s: float | None = None
        self._away_reason = ""
        self._looked_s = time.monotonic()
        self._poll_s = _QUICK_POLL_S
        #: Of the messages that came last.
        self._mean_bytes = _SUPPOSED_BYTES
        #: Of messages that were taken, and of those, how many a look at the topic has come after.
        self._taken = self._verified = 0
        self._verified_s = 0.0
        who = f"the source of topic {topic.name!r}"
        limit = "none, it waits for ever" if deadline_s is None else f"max_unavailable_s={deadline_s:g}"
        self._waiting = Waiting(who, f"Kafka at {settings.bootstrap}", limit, SourceWaitingWarning)
        self._waits = False
        self._quota = Quota(who, "consumer_byte_rate", SourceWaitingWarning)
        self._consumer: Consumer = settings.consumer(config(self._note, self._quota.heard))
        self._thread = threading.Thread(target=self._run, name=f"onceflow-kafka-{topic.name}", daemon=True)
        self._thread.start()

    # -- for readers, on the job's thread ------------------------------------------------------

    def join(self, partition: int, offset: int) -> Lane:
        """Has a partition fetched from an offset on."""
        lane = Lane(self, partition, offset)
        with self._lock:
            self._lanes[partition] = lane
            self._commands.append((True, lane))
            self._lock.notify()
        return lane

    def leave(self, lane: Lane) -> None:
        """Ends that."""
        with self._lock:
            if self._lanes.get(lane.partition) is lane:
                del self._lanes[lane.partition]
            self._nbytes -= lane.nbytes
            lane.nbytes = 0
            lane.items.clear()
            self._commands.append((False, lane))
            self._lock.notify()

    @property
    def is_used(self) -> bool:
        """Whether any partition is fetched."""
        return bool(self._lanes)

    def close(self) -> None:
        """Ends the thread, and the consumer with it."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join()

    def taken(self, lane: Lane, max_records: int) -> tuple[list[Message], int | None]:
        """See ``Lane.take``."""
        messages: list[Message] = []
        reached: int | None = None
        with self._lock:
            while lane.items and len(messages) < max_records:
                item = lane.items.popleft()
                if isinstance(item, int):
                    reached = item
                    continue
                part, nbytes = item
                reached, left = None, max_records - len(messages)
                if len(part) > left:
                    rest = part[left:]
                    part, whole = part[:left], nbytes
                    nbytes = _nbytes(part)
                    lane.items.appendleft((rest, whole - nbytes))
                messages = messages + part if messages else part
                lane.nbytes -= nbytes
                self._nbytes -= nbytes
            if messages:
                self._taken += len(messages)
                self._lock.notify()
        return messages, reached

    def check(self) -> bool:
        """Whether the cluster answers, as far as is known. Says so if it does not for a while.

        Raises:
            SourceError: What the thread has met; or nobody has answered until the deadline.
        """
        if self._failure is not None:
            raise self._failure
        self._quota.tell()
        since_s = self._away_since_s
        if since_s is None:
            if self._waits:
                self._waits = False
                self._waiting.answered()
            return True
        away_s = time.monotonic() - since_s
        if self._deadline_s is not None and away_s >= self._deadline_s:
            raise SourceError(
                f"no broker at {self._settings.bootstrap!r} has answered for topic {self._topic.name!r} for "
                f"{away_s:.0f} s: {self._away_reason}. Nothing is lost: run the job again when one does, or give a "
                f"longer max_unavailable_s than {self._deadline_s:g}"
            )
        self._waits = True
        self._waiting.missed(self._away_reason, since_s)
        return False

    def tell_growth(self) -> None:
        """Warns of partitions that have come, of which this run reads nothing."""
        there = len(self.newest.partitions)
        if there <= self._told:
            return
        come, self._told = there - self._told, there
        warnings.warn(
            NewPartitionsWarning(
                f"topic {self._topic.name!r} has got {come} more partitions, and now has {there}. This run ends with "
                "what was there when it began, so nothing of them is in it; a run that follows the topic "
                "(stop_at_end=False), or a later one until='caught_up', reads them from their first records"
            ),
            stacklevel=2,
        )

    def verify(self) -> None:
        """What was taken until now is of the topic that was opened, as far as a broker can be asked.

        Raises:
            SourceChangedError: The topic is another one of the same name.
        """
        taken, now_s = self._taken, time.monotonic()
        if taken == self._verified or now_s - self._verified_s < _VERIFY_EVERY_S or self._suspect:
            # The thread looks before anything else once somebody answers.
            return
        self._verified_s = now_s
        found = self._topic.state_now(1.0)
        if isinstance(found, TopicState):
            self._check_identity(found)
            self._verified = taken
        else:
            self._suspect = True

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._obey():
                self._fetch()
                self._look()
        except Exception as error:
            if not isinstance(error, SourceError):
                text = self._settings.redacted(described(error))
                error = SourceError(f"topic {self._topic.name!r} cannot be read: {text}")
            self._failure = error
            self._wake.set()
        finally:
            self._consumer.close()

    def _obey(self) -> bool:
        """Does what readers want done, and waits while nothing is to be fetched; false in the end."""
        with self._lock:
            while not self._closing and not self._commands and (not self._lanes or self._is_full()):
                self._lock.wait(_PROBE_S)
                if self._suspect:
                    break
            commands, self._commands = list(self._commands), deque()
            closing = self._closing
        for joins, lane in commands:
            place = self._library.TopicPartition(self._topic.name, lane.partition, lane.offset)
            if joins:
                self._consumer.incremental_assign([place])
            else:
                self._consumer.incremental_unassign([place])
        return not closing

    def _share(self) -> int:
        """Bytes that each partition may have waiting where they are many."""
        return max(MAX_BUFFERED_BYTES // max(len(self._lanes), 1), _LEAST_SHARE)

    def _is_full(self) -> bool:
        """Whether enough waits, and nobody lacks anything."""
        half = self._share() // 2
        return self._nbytes >= MAX_BUFFERED_BYTES and all(
            lane.nbytes > half if lane.paused else lane.items for lane in self._lanes.values()
        )

    def _fetch(self) -> None:
        self._pause()
        first = self._consumer.poll(self._poll_s)
        if first is not None:
            # As many as there is room for, as far as their size is known.
            room = max(MAX_BUFFERED_BYTES - self._nbytes, self._share()) // 2
            more = min(room // self._mean_bytes, _AT_ONCE)
            self._dispatch([first, *(self._consumer.consume(more, 0) if more else ())])
        is_busy = first is not None or self._commands or any(lane.paused for lane in list(self._lanes.values()))
        self._poll_s = _QUICK_POLL_S if is_busy else min(2 * self._poll_s, _POLL_S)

    def _pause(self) -> None:
        """Pauses who has more than its share where another one has nothing; and has it go on when it has less."""
        with self._lock:
            lanes = list(self._lanes.values())
            share = self._share()
            over = []
            if self._nbytes >= MAX_BUFFERED_BYTES or len(lanes) * share > MAX_BUFFERED_BYTES:
                over = [lane for lane in lanes if lane.nbytes >= share and not lane.paused]
            under = [lane for lane in lanes if lane.paused and lane.nbytes <= share // 2]
        for lane in over:
            self._consumer.pause([self._library.TopicPartition(self._topic.name, lane.partition)])
            lane.paused = True
        for lane in under:
            self._consumer.resume([self._library.TopicPartition(self._topic.name, lane.partition)])
            lane.paused = False

    def _dispatch(self, messages: Sequence[Message]) -> None:
        of_partition = self._library.Message.partition
        for partition, run in groupby(messages, of_partition):
            part = list(run)
            if any(map(self._library.Message.error, part)):
                for message in part:
                    if message.error() is None:
                        self._put(partition, [message])
                    else:
                        self._hear(message)
            else:
                self._put(partition, part)

    def _put(self, partition: int | None, found: list[Message] | int) -> None:
        nbytes = 0
        if not isinstance(found, int):
            nbytes = _nbytes(found)
            self._mean_bytes = nbytes // len(found)
        with self._lock:
            lane = None if partition is None else self._lanes.get(partition)
            if lane is None:
                return
            was_empty = not lane.items
            lane.items.append(found if isinstance(found, int) else (found, nbytes))
            lane.nbytes += nbytes
            self._nbytes += nbytes
        if was_empty:
            self._wake.set()

    def _hear(self, message: Message) -> None:
        """Of an event among the messages.

        Raises:
            SourceError: It cannot be waited for.
        """
        error, kinds = message.error(), self._library.KafkaError
        if error is None:
            return
        if error.code() == kinds._PARTITION_EOF:
            self._put(message.partition(), offset_of(message))
            return
        if error.code() == kinds.GROUP_AUTHORIZATION_FAILED:
            text = self._settings.redacted(error_text(error))
            # The client reads nothing without it, though it joins no group.
            raise SourceError(f"topic {self._topic.name!r} cannot be read without READ on the source's group: {text}")
        if message.topic() is None or error.code() in (
            kinds.UNKNOWN_TOPIC_OR_PART,
            kinds._UNKNOWN_TOPIC,
            kinds._UNKNOWN_PARTITION,
            kinds._TRANSPORT,
            kinds._TIMED_OUT,
            kinds._ALL_BROKERS_DOWN,
            kinds._RESOLVE,
        ):
            self._note(error)
            return
        if error.code() == kinds._AUTO_OFFSET_RESET:
            raise self._out_of_range(message)
        # Anything else may mean that records cannot be read, which the client would pass by.
        text = self._settings.redacted(error_text(error))
        raise SourceError(
            f"partition {message.partition()} of {self._topic.name!r} cannot be read at {message.offset()}: {text}",
            partition=str(message.partition()),
        )

    def _out_of_range(self, message: Message) -> SourceError:
        partition, offset = message.partition() or 0, offset_of(message)
        self._check_identity(self._topic.state())
        bounds = self._topic.bounds([partition])[partition]
        return out_of_range(self._topic.name, partition, offset, bounds.start, bounds.end)

    def _note(self, error: KafkaError) -> None:
        """Something is wrong that belongs to no partition: whether anybody answers is found out by a question."""
        self._suspect = True
        self._away_reason = self._settings.redacted(error_text(error))
        if error.fatal():
            self._failure = SourceError(f"Kafka's client has failed for good: {self._away_reason}")
            self._wake.set()

    def _look(self) -> None:
        """Asks what the topic is, now and then, and whether anybody answers."""
        now_s = time.monotonic()
        if now_s - self._looked_s < (_PROBE_S if self._suspect else LOOK_S):
            return
        found = self._probe()
        self._looked_s = time.monotonic()
        if isinstance(found, TopicState):
            self._check_identity(found)
            self._suspect = False
            if self._away_since_s is not None:
                # It is said that somebody answers again, also where nothing is there to read.
                self._away_since_s = None
                self._wake.set()
            if len(found.partitions) > len(self.newest.partitions):
                self.newest = found
                self._wake.set()
        else:
            self._suspect = True
            self._away_reason = found
            if self._away_since_s is None:
                self._away_since_s = now_s
            self._wake.set()

    def _probe(self) -> TopicState | str:
        """What the topic is, or why nobody says so.

        While nobody answers the consumer asks: requests of the admin client that time out for lack of
        a broker were seen to end the process, by an assertion of librdkafka that failed.
        """
        if self._suspect:
            try:
                self._consumer.list_topics(self._topic.name, timeout=_PROBE_TIMEOUT_S)
            except self._library.KafkaException as error:
                return self._settings.redacted(error_text(error))
        return self._topic.state_now(_PROBE_TIMEOUT_S)

    def _check_identity(self, found: TopicState) -> None:
        if found.id and self._topic_id and found.id != self._topic_id:
            raise made_anew(self._topic.name)


def offset_of(message: Message) -> int:
    """Of a message that was fetched, which always has one."""
    offset = message.offset()
    return -1 if offset is None else offset


def _nbytes(messages: list[Message]) -> int:
    """About what messages take in memory; the length of a message is that of its value."""
    keys = sum(len(key) for message in messages if (key := message.key()) is not None)
    return sum(map(len, messages)) + keys + len(messages) * _OVERHEAD_BYTES
