"""Writes to a topic of Kafka at once, by an idempotent producer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onceflow.connectors.kafka.bounds import Bounds
from onceflow.connectors.kafka.facts import Admin
from onceflow.connectors.kafka.producing import choose_partitions, flush, produce, settings_of
from onceflow.connectors.kafka.quota import Quota
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text
from onceflow.connectors.topics.fields import Fields
from onceflow.exceptions import SinkError, SinkWaitingWarning
from onceflow.sinks import SinkContext, SinkWriter
from onceflow.types import Batch

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

__all__ = ["PlainWriter"]


class PlainWriter(SinkWriter):
    """The settings are those of ``KafkaPlainSink``."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        partitions: int | None,
        fields: Fields,
        timeout_s: float,
        context: SinkContext,
    ) -> None:
        self._settings = settings
        self._where = f"topic {topic!r} at {settings.bootstrap}"
        self._fields = fields
        self._timeout_s = timeout_s
        admin = Admin(settings, timeout_s, f"sink '{context.job}/{context.sink}'")
        self._waiting = admin.waiting
        self._facts = admin.topic_to_write(topic, partitions)
        self._failed: list[KafkaError] = []
        self._quota = Quota(admin.waiting.who, "producer_byte_rate", SinkWaitingWarning)
        self._producer = settings.producer(settings_of(settings, self._facts, self._delivered, self._quota))
        self._turn = 0

    def write(self, records: Batch) -> None:
        if not len(records):
            return
        part, facts, now_ms = self._fields.part(records), self._facts, int(time.time() * 1000)
        self._turn = (self._turn + 1) % facts.partitions
        choose_partitions(part, facts.partitions, self._turn)
        Bounds.of(part).check(facts, now_ms, lambda: part)
        with self._errors():
            until = time.monotonic() + self._timeout_s
            sent = produce(self._producer, facts.name, part, now_ms, until, self._waiting)
        if sent < len(records):
            raise self._error(f"the client's queue was full for {self._timeout_s:g} s{self._quota.hint()}")
        self._check()
        self._quota.tell()

    def flush(self) -> None:
        until = time.monotonic() + self._timeout_s
        with self._errors():
            left = flush(self._producer, self._check, until, self._waiting, self._quota)
        if left:
            raise SinkError(
                f"{left} records to {self._where} were not accepted within {self._timeout_s:g} s{self._quota.hint()}"
            )

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(error)

    def _check(self) -> None:
        if self._failed:
            raise self._error(error_text(self._failed[0]))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (client_library().KafkaException, SystemError) as error:
            # The client raises a fatal error within whatever calls back, and goes on to call us with it raised.
            text = error_text(error.__cause__ if isinstance(error, SystemError) else error)
        else:
            return
        raise self._error(text)

    def _error(self, text: str) -> SinkError:
        return SinkError(f"a record to {self._where} was not accepted: {self._settings.redacted(text)}")
