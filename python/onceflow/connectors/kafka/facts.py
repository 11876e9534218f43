"""What a sink must know of a topic before it writes: its identity, its partitions, what it refuses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from onceflow.connectors.extras import require
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text, kafka_error
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import SinkError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError
    from confluent_kafka.admin import AdminClient

__all__ = ["Admin", "TopicFacts", "is_passing", "keeps_out", "known_offset", "refresh_leaders"]

T = TypeVar("T")

#: Of one request, and between two of them.
_REQUEST_S = 10.0
_PAUSE_S = 0.1
_NEW_TOPIC_S = 5.0
_PASSING = (
    "_TIMED_OUT",
    "_TIMED_OUT_QUEUE",
    "_TRANSPORT",
    "_RESOLVE",
    "_ALL_BROKERS_DOWN",
    "_WAIT_COORD",
    # No leader is known of a partition.
    "_NOENT",
    "LEADER_NOT_AVAILABLE",
    "NOT_LEADER_FOR_PARTITION",
    "REPLICA_NOT_AVAILABLE",
    "BROKER_NOT_AVAILABLE",
    "REQUEST_TIMED_OUT",
    "NETWORK_EXCEPTION",
    "NOT_CONTROLLER",
    "COORDINATOR_NOT_AVAILABLE",
    "NOT_COORDINATOR",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "KAFKA_STORAGE_ERROR",
    "FENCED_LEADER_EPOCH",
    "UNKNOWN_LEADER_EPOCH",
    "OFFSET_NOT_AVAILABLE",
)
_NO_BOUND = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """A topic as it is now.

    Attributes:
        name: Of the topic.
        id: Another one when it is deleted and made anew.
        partitions: How many.
        replicas: Of the first partition.
        cleanup: ``cleanup.policy``.
        max_bytes: ``max.message.bytes``: of a batch, as it is stored.
        future_ms: A record's timestamp may be so much later than the broker's time.
        past_ms: And so much earlier.
        min_insync: ``min.insync.replicas``.
        unclean: ``unclean.leader.election.enable``.
        log_append_time: The broker sets the timestamps.
        retention_ms: ``retention.ms``; -1: records are kept for ever.
        retention_bytes: ``retention.bytes`` of a partition; -1: they may be as many as they are.
    """

    name: str
    id: str
    partitions: int
    replicas: int
    cleanup: str
    max_bytes: int
    future_ms: int
    past_ms: int
    min_insync: int
    unclean: bool
    log_append_time: bool
    retention_ms: int = -1
    retention_bytes: int = -1


class Admin:
    """Asks a cluster; makes topics, and deletes them.

    Args:
        settings: Of the cluster.
        timeout_s: So long the cluster may give no answer before ``SinkError`` is raised.
        who: Asks, for people.

    Attributes:
        waiting: What tells that the cluster gives none.
    """

    def __init__(self, settings: KafkaSettings, timeout_s: float, who: str = "a look at Kafka") -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self.waiting = Waiting(who, f"Kafka at {settings.bootstrap}", f"timeout_s={timeout_s:g}")
        self._request_s = min(_REQUEST_S, timeout_s)
        self._library = client_library()
        self._admin = require("confluent_kafka.admin", extra="kafka", purpose="Kafka")
        #: What the client said last of its connections: why nobody answers.
        self._trouble: KafkaError | None = None
        self._client: AdminClient = settings.admin(settings.merged({}, {}, on_error=self._note))
        #: Topics that were made or have grown just now: so many partitions, and until when not all brokers may know it.
        self._made: dict[str, tuple[int, float]] = {}

    def _note(self, error: KafkaError) -> None:
        # The sum of other errors, which say more.
        if self._trouble is None or error.code() != self._library.KafkaError._ALL_BROKERS_DOWN:
            self._trouble = error

    def cluster(self) -> str:
        """Identity of the cluster."""
        return (
            self._asked("ask for the cluster", lambda: self._client.list_topics(timeout=self._request_s)).cluster_id
            or ""
        )

    def names(self) -> list[str]:
        """Of all topics that this user may know of."""
        return list(self._asked("ask for the topics", lambda: self._client.list_topics(timeout=self._request_s)).topics)

    def broker_settings(self) -> dict[str, str]:
        """Settings of one broker; nothing where this user may not read them."""
        brokers = self._asked("ask for the brokers", lambda: self._client.list_topics(timeout=self._request_s)).brokers
        resource = self._admin.ConfigResource(self._admin.ResourceType.BROKER, str(min(brokers)))

        def ask() -> dict[str, str]:
            [future] = self._client.describe_configs([resource], request_timeout=self._request_s).values()
            try:
                return {name: entry.value for name, entry in future.result(2 * _REQUEST_S).items()}
            except self._library.KafkaException as error:
                if error.args[0].code() != self._library.KafkaError.CLUSTER_AUTHORIZATION_FAILED:
                    raise
                return {}

        return self._asked("read the settings of a broker", ask)

    def operations(self, topic: str) -> frozenset[str] | None:
        """What this user may do with a topic, such as ``WRITE``: nothing if there is none; None: not even know it."""
        names = self._library.KafkaError

        def ask() -> frozenset[str] | None:
            asked = self._client.describe_topics(
                self._library.TopicCollection([topic]),
                include_authorized_operations=True,
                request_timeout=self._request_s,
            )
            try:
                return frozenset(each.name for each in asked[topic].result(2 * _REQUEST_S).authorized_operations)
            except self._library.KafkaException as error:
                if error.args[0].code() == names.TOPIC_AUTHORIZATION_FAILED:
                    return None
                if error.args[0].code() != names.UNKNOWN_TOPIC_OR_PART:
                    raise
                return frozenset()

        return self._asked(f"ask what may be done with {topic!r}", ask)

    def may_create(self, topic: str, partitions: int) -> bool:
        """Whether this user may make a topic; it is not made."""
        names = self._library.KafkaError
        wanted = self._admin.NewTopic(topic, partitions)

        def ask() -> bool:
            asked = self._client.create_topics([wanted], validate_only=True, request_timeout=self._request_s)
            try:
                asked[topic].result(2 * _REQUEST_S)
            except self._library.KafkaException as error:
                if error.args[0].code() not in (names.TOPIC_AUTHORIZATION_FAILED, names.TOPIC_ALREADY_EXISTS):
                    raise
                return bool(error.args[0].code() == names.TOPIC_ALREADY_EXISTS)
            return True

        return self._asked(f"ask whether topic {topic!r} may be made", ask)

    def may_use(self, group: str) -> bool:
        """Whether this user may READ a consumer group."""
        names = self._library.KafkaError

        def ask() -> bool:
            asked = self._client.describe_consumer_groups(
                [group], include_authorized_operations=True, request_timeout=self._request_s
            )
            try:
                operations = asked[group].result(2 * _REQUEST_S).authorized_operations
            except self._library.KafkaException as error:
                if error.args[0].code() == names.GROUP_ID_NOT_FOUND:
                    return True
                if error.args[0].code() != names.GROUP_AUTHORIZATION_FAILED:
                    raise
                return False
            return any(each.name == "READ" for each in operations or ())

        return self._asked(f"ask what may be done with group {group!r}", ask)

    def topics(self, names: Iterable[str]) -> dict[str, TopicFacts]:
        """Those that exist."""
        names = list(names)
        described = self._asked(f"look at {names}", lambda: self._describe(names))
        while self._is_behind(names, described):
            time.sleep(_PAUSE_S)
            described = self._asked(f"look at {names}", lambda: self._describe(names))
        kind = self._admin.ResourceType.TOPIC
        resources = [self._admin.ConfigResource(kind, name) for name in described]
        if not resources:
            return {}
        configs = self._asked(
            f"read the settings of {names}",
            lambda: {
                resource.name: future.result(2 * _REQUEST_S)
                for resource, future in self._client.describe_configs(
                    resources, request_timeout=self._request_s
                ).items()
            },
        )
        return {name: _facts(name, described[name], configs[name]) for name in described}

    def _is_behind(self, names: Iterable[str], described: Mapping[str, Any]) -> bool:
        """Whether the broker that has answered does not know yet of what was made just now."""
        for name in names:
            partitions, until = self._made.get(name, (0, 0.0))
            known = len(described[name].partitions) if name in described else 0
            if known < partitions and time.monotonic() < until:
                return True
        return False

    def topic_to_write(self, name: str, partitions: int | None) -> TopicFacts:
        """A topic, which is made if it does not exist and ``partitions`` says of how many.

        Raises:
            SinkError: It does not exist.
        """
        found = self.topics([name]).get(name)
        if found is None:
            if partitions is None:
                raise SinkError(
                    f"there is no topic {name!r} at {self._settings.bootstrap}: make it, or give the sink "
                    "partitions=N, which makes it"
                )
            self.create(name, partitions)
            found = self.topics([name])[name]
        return found

    def _describe(self, names: list[str]) -> dict[str, Any]:
        asked: dict[str, Future[Any]] = self._client.describe_topics(
            self._library.TopicCollection(names), request_timeout=self._request_s
        )
        found = {}
        for name, future in asked.items():
            try:
                found[name] = future.result(2 * _REQUEST_S)
            except self._library.KafkaException as error:
                if error.args[0].code() != self._library.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return found

    def create(self, name: str, partitions: int, *, replicas: int = -1, config: dict[str, str] | None = None) -> None:
        """Makes a topic, unless there is one, and waits until it can be used."""
        topic = self._admin.NewTopic(name, partitions, replicas, config=config or {})
        self._make(
            f"make topic {name!r}",
            lambda: self._client.create_topics([topic], request_timeout=self._request_s)[name],
            self._library.KafkaError.TOPIC_ALREADY_EXISTS,
        )
        self._wait_for(name, partitions)

    def grow(self, name: str, partitions: int) -> None:
        """Gives a topic so many partitions, unless it has them, and waits until they can be used."""
        more = self._admin.NewPartitions(name, partitions)
        self._make(
            f"give topic {name!r} {partitions} partitions",
            lambda: self._client.create_partitions([more], request_timeout=self._request_s)[name],
            self._library.KafkaError.INVALID_PARTITIONS,
        )
        self._wait_for(name, partitions)

    def delete(self, name: str) -> None:
        """Deletes a topic, if there is one, and waits until it is gone."""
        self._make(
            f"delete topic {name!r}",
            lambda: self._client.delete_topics([name], request_timeout=self._request_s)[name],
            self._library.KafkaError.UNKNOWN_TOPIC_OR_PART,
        )
        until = time.monotonic() + self._timeout_s
        while self._asked(f"look at {name!r}", lambda: self._describe([name])):
            if time.monotonic() > until:
                raise SinkError(f"topic {name!r} of {self._settings.bootstrap} was deleted and still shows")
            time.sleep(_PAUSE_S)

    def _make(self, doing: str, ask: Callable[[], Future[None]], is_done: int) -> None:
        def asked() -> None:
            try:
                ask().result(2 * _REQUEST_S)
            except self._library.KafkaException as error:
                # By somebody else at the same time, or by a request of ours whose answer was lost.
                if error.args[0].code() != is_done:
                    raise

        self._asked(doing, asked)

    def _wait_for(self, name: str, partitions: int) -> None:
        until = time.monotonic() + self._timeout_s
        while True:
            found = self._asked(f"look at {name!r}", lambda: self._describe([name])).get(name)
            if found is not None and len(found.partitions) >= partitions and all(p.leader for p in found.partitions):
                # By one of the brokers: the next one that is asked may be behind it.
                self._made[name] = (partitions, time.monotonic() + _NEW_TOPIC_S)
                return
            if time.monotonic() > until:
                raise SinkError(f"topic {name!r} of {self._settings.bootstrap} was made and does not come up")
            time.sleep(_PAUSE_S)

    def ends(self, topic: str, partitions: Iterable[int], *, committed: bool) -> dict[int, int]:
        """Behind the newest record of each partition; with ``committed``, where the first open transaction begins."""
        library = self._library
        level = library.IsolationLevel.READ_COMMITTED if committed else library.IsolationLevel.READ_UNCOMMITTED
        latest = self._admin.OffsetSpec.latest()
        wanted = {library.TopicPartition(topic, partition): latest for partition in partitions}

        def ask() -> dict[int, int]:
            asked = self._client.list_offsets(wanted, isolation_level=level, request_timeout=self._request_s)
            return {
                where.partition: known_offset(future.result(2 * _REQUEST_S).offset) for where, future in asked.items()
            }

        return self._asked(f"ask for the end of {topic!r}", ask)

    def _asked(self, doing: str, ask: Callable[[], T]) -> T:
        """Asks again while the cluster does not answer."""
        start = time.monotonic()
        while True:
            try:
                found = ask()
                self.waiting.answered()
                return found
            except (self._library.KafkaException, TimeoutError) as error:
                self._client.poll(0)
                # A connection that fails says more than a question that nobody answers.
                text = self._settings.redacted(error_text(self._why(error)))
                if not self._passes(error, time.monotonic() - start):
                    raise SinkError(f"could not {doing} at {self._settings.bootstrap}: {text}") from None
            self.waiting.missed(text, start)
            time.sleep(_PAUSE_S)
            refresh_leaders(self._client)

    def _why(self, error: Exception) -> Exception | KafkaError:
        known = kafka_error(error)
        # The client's own kinds are below zero: nobody has answered.
        return error if self._trouble is None or (known is not None and known.code() > 0) else self._trouble

    def _passes(self, error: Exception, waited_s: float) -> bool:
        known, names = kafka_error(error), self._library.KafkaError
        if waited_s > self._timeout_s:
            return False
        if (known is None or known.code() < 0) and self._trouble is not None and keeps_out(self._trouble):
            return False
        if known is not None and known.code() == names.UNKNOWN_TOPIC_OR_PART:
            # Not every broker knows at once of a topic that was made just now.
            return waited_s < _NEW_TOPIC_S
        return known is None or is_passing(known)


def refresh_leaders(client: AdminClient) -> None:
    """Has a client look anew who leads the partitions: of a broker that was started again it keeps an older epoch,
    which it sends, and which is refused, for minutes."""
    with contextlib.suppress(client_library().KafkaException):
        client.list_topics(timeout=_PAUSE_S * 10)


def known_offset(offset: int, least: int = 0) -> int:
    """An offset that a cluster was asked for.

    Raises:
        TimeoutError: It is below ``least``, so there was no answer: where the connection was lost, the client gives one
            of its own without an error.
    """
    if offset < least:
        raise TimeoutError(f"no answer, but offset {offset}")
    return offset


def keeps_out(error: KafkaError) -> bool:
    """Whether it is credentials or certificates that keep us out: no waiting helps."""
    names = client_library().KafkaError
    return error.fatal() or error.code() in (names._AUTHENTICATION, names._SSL, names.SASL_AUTHENTICATION_FAILED)


def is_passing(error: KafkaError) -> bool:
    """Whether it may go better in a while: what a client says that has no connection, and a broker that starts."""
    names = client_library().KafkaError
    return error.retriable() or error.code() in {getattr(names, name) for name in _PASSING}


def _facts(name: str, described: Any, config: Any) -> TopicFacts:
    def whole(setting: str, default: int) -> int:
        # Brokers before 3.6 lack those of timestamps.
        return int(config[setting].value) if setting in config else default

    return TopicFacts(
        name=name,
        id=str(described.topic_id),
        partitions=len(described.partitions),
        replicas=len(described.partitions[0].replicas),
        cleanup=config["cleanup.policy"].value,
        max_bytes=whole("max.message.bytes", 1_000_000),
        future_ms=whole("message.timestamp.after.max.ms", _NO_BOUND),
        past_ms=whole("message.timestamp.before.max.ms", _NO_BOUND),
        min_insync=whole("min.insync.replicas", 1),
        unclean=config["unclean.leader.election.enable"].value == "true",
        log_append_time=config["message.timestamp.type"].value == "LogAppendTime",
        retention_ms=whole("retention.ms", -1),
        retention_bytes=whole("retention.bytes", -1),
    )
