"""Topics of the embedded log as a sink: the output of a checkpoint shows at once, once, after the decision.

It is an outbox (``onceflow.connectors.outbox.writer`` says how it works) whose target is a topic; see ``destination``.
"""

from __future__ import annotations

from collections.abc import Iterable

from onceflow.checks import CheckContext, Finding
from onceflow.clock import Clock, SystemClock
from onceflow.connectors.log.destination import LogDestination
from onceflow.connectors.log.directory import LogDirectory, directory_of, topic_of
from onceflow.connectors.log.inspection import look_at_target
from onceflow.connectors.log.leftovers import left_in_log
from onceflow.connectors.outbox.writer import OutboxWriter, with_run
from onceflow.connectors.topics.fields import Field, Fields
from onceflow.leftovers import Leftover, LeftoverContext
from onceflow.log.settings import check_clock, check_whole
from onceflow.sinks import SinkContext, TransactionalSink, TransactionalSinkWriter

__all__ = ["LogSink"]


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
        self._topic = topic_of(topic)
        self._fields = Fields(key, value, timestamp, headers, partition)
        if partitions is not None:
            check_whole("partitions", partitions)
        self._partitions = partitions
        check_clock("clock", clock)
        self._clock = clock or SystemClock()

    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """See ``Sink``."""
        context = with_run(context)
        destination = LogDestination(self._directory, self._topic, self._partitions, self._fields, context, self._clock)
        return OutboxWriter(destination, context)

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Sink``."""
        return look_at_target(self._directory, self._topic, self._partitions, context)

    def leftovers(self, context: LeftoverContext) -> Iterable[Leftover]:
        """See ``Sink``."""
        return left_in_log(self._directory, context)
