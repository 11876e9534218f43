"""What a sink must know of a topic before it writes: its identity, its partitions, what it refuses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from onceflow.connectors.extras import require
from onceflow.connectors.kafka.asking import Asking, UnansweredError, known_offset
from onceflow.connectors.kafka.settings import KafkaSettings, client_library
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import SinkError

__all__ = ["Admin", "TopicFacts"]

T = TypeVar("T")

#: Between two looks at what was made just now, and how long a broker may not know of it.
_PAUSE_S = 0.1
_NEW_TOPIC_S = 5.0
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
        self._library = client_library()
        self._admin = require("confluent_kafka.admin", extra="kafka", purpose="Kafka")
        self._asking = Asking(settings, timeout_s, self.waiting, _NEW_TOPIC_S)
        self._client, self._request_s = self._asking.client, self._asking.request_s
        #: Topics that were made or have grown just now: so many partitions, and until when not all brokers may know it.
        self._made: dict[str, tuple[int, float]] = {}

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
                return {name: entry.value for name, entry in self._asking.answer(future).items()}
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
                return frozenset(each.name for each in self._asking.answer(asked[topic]).authorized_operations)
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
                self._asking.answer(asked[topic])
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
                operations = self._asking.answer(asked[group]).authorized_operations
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
                resource.name: self._asking.answer(future)
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
                found[name] = self._asking.answer(future)
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
                self._asking.answer(ask())
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
                where.partition: known_offset(self._asking.answer(future).offset) for where, future in asked.items()
            }

        return self._asked(f"ask for the end of {topic!r}", ask)

    def _asked(self, doing: str, ask: Callable[[], T]) -> T:
        """Asks again while the cluster does not answer."""
        try:
            return self._asking.ask(ask)
        except UnansweredError as error:
            raise SinkError(f"could not {doing} at {self._settings.bootstrap}: {error}") from None


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
