"""Topics of Kafka as sinks: exactly once, or at least once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.kafka.destination import KafkaDestination
from onceflow.connectors.kafka.inspection import look_at_target
from onceflow.connectors.kafka.leftovers import left_in_kafka
from onceflow.connectors.kafka.plain import PlainWriter
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, topic_of
from onceflow.connectors.outbox.writer import OutboxWriter, with_run
from onceflow.connectors.topics.fields import Field, Fields
from onceflow.exceptions import ConfigurationError
from onceflow.leftovers import Leftover, LeftoverContext
from onceflow.log.settings import check_seconds, check_whole
from onceflow.sinks import PlainSink, SinkContext, SinkWriter, TransactionalSink, TransactionalSinkWriter

__all__ = ["KafkaPlainSink", "KafkaSink"]


class _Topic:
    """What both kinds of sinks are told."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        key: Field | None = None,
        value: Field | None = None,
        timestamp: Field | None = None,
        headers: Field | None = None,
        partition: int | Field | None = None,
        partitions: int | None = None,
        config: Mapping[str, Any] | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        client_library()
        self._settings = KafkaSettings(bootstrap, config)
        self._topic = topic_of(topic)
        self._has_keys = key is not None
        self._fields = Fields(key, value, timestamp, headers, partition)
        if partitions is not None:
            check_whole("partitions", partitions)
        self._partitions = partitions
        check_seconds("timeout_s", timeout_s, above=True)
        self._timeout_s = timeout_s

    def _looked(self, context: CheckContext, *, transactional: bool) -> Iterable[Finding]:
        return look_at_target(
            self._settings,
            self._topic,
            self._partitions,
            has_keys=self._has_keys,
            transactional=transactional,
            timeout_s=self._timeout_s,
            context=context,
        )


class KafkaSink(_Topic, TransactionalSink):
    """Appends records to a topic of Kafka, exactly once; see ``destination`` for how.

    The names and arguments are those of ``LogSink``: a job moves from the embedded log to Kafka by its sink's address.
    Several sinks and other producers can write to one topic. A record that is neither bytes, text nor None is written
    as JSON.

    Args:
        bootstrap: Address of a broker, or several with commas between them.
        topic: Its name.
        key: Name of the field that is the key, or a function of the record. None: records have no key.
        value: The same for the value. None: the record itself.
        timestamp: The same for the timestamp: a datetime (cut to milliseconds), or milliseconds since 1970. None: when
            it was written to the sink.
        headers: The same for the headers: a dict, or pairs, of names and bytes. None: records have none.
        partition: The same for the partition; or its number, for all. None: the key chooses it as in Kafka's Java
            clients (murmur2); records without a key go to one partition a batch, in turn.
        partitions: If the topic does not exist, it is made with so many. None: it must exist.
        config: Settings of librdkafka, such as those of TLS and SASL, ``transaction.timeout.ms``, ``compression.type``.
        timeout_s: So long the broker may give no answer before the job stops; what is decided is written by the next
            run.
        send: ``"eager"``: output is sent while its checkpoint has not begun, where there is much of it, into a
            transaction that is open until it is decided, so that staging and sending go on side by side. Readers of
            what is committed wait meanwhile for what others write to the same partitions. ``"late"``: all of it is
            sent after the decision, in a short transaction.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: confluent-kafka is not installed.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        key: Field | None = None,
        value: Field | None = None,
        timestamp: Field | None = None,
        headers: Field | None = None,
        partition: int | Field | None = None,
        partitions: int | None = None,
        config: Mapping[str, Any] | None = None,
        timeout_s: float = 120.0,
        send: Literal["eager", "late"] = "eager",
    ) -> None:
        super().__init__(
            bootstrap,
            topic,
            key=key,
            value=value,
            timestamp=timestamp,
            headers=headers,
            partition=partition,
            partitions=partitions,
            config=config,
            timeout_s=timeout_s,
        )
        if send not in ("eager", "late"):
            raise ConfigurationError(f"send={send!r}: give 'eager' or 'late'", setting="send")
        self._eager = send == "eager"

    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """See ``Sink``."""
        context = with_run(context)
        destination = KafkaDestination(
            self._settings,
            self._topic,
            self._partitions,
            self._fields,
            context,
            self._timeout_s,
            eager=self._eager,
        )
        return OutboxWriter(destination, context)

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Sink``."""
        return self._looked(context, transactional=True)

    def leftovers(self, context: LeftoverContext) -> Iterable[Leftover]:
        """See ``Sink``."""
        return left_in_kafka(self._settings, self._topic, self._timeout_s, context)


class KafkaPlainSink(_Topic, PlainSink):
    """Appends records to a topic of Kafka at once, by an idempotent producer: at least once.

    For jobs that promise no more, and readers that cannot wait for a checkpoint. The producer repeats what was not
    answered without doubling it; after a crash the job writes again what came after its newest checkpoint.

    Args: Those of ``KafkaSink``. A record without a timestamp gets the time at which it is written.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: confluent-kafka is not installed.
    """

    def open(self, context: SinkContext) -> SinkWriter:
        """See ``Sink``."""
        return PlainWriter(self._settings, self._topic, self._partitions, self._fields, self._timeout_s, context)

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Sink``."""
        return self._looked(context, transactional=False)
