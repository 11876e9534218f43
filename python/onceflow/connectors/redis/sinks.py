"""Sinks to Redis: the newest value of each key, and entries of streams."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, Literal, TypeAlias, get_args

from onceflow.checks import CheckContext, Finding
from onceflow.columns import rows_of
from onceflow.connectors.outbox import OutboxSink
from onceflow.connectors.record_fields import Field, field_of
from onceflow.connectors.redis.fields import check_field, hash_words, key_word, value_word
from onceflow.connectors.redis.server import Durability, RedisAddress, RedisClient, check_durability
from onceflow.connectors.redis.target import MAX_WORDS, Command, RedisTarget
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import ConfigurationError, SinkError, SinkWaitingWarning
from onceflow.log.settings import check_whole
from onceflow.sinks import IdempotentSink, SinkContext, SinkWriter
from onceflow.types import Batch

__all__ = ["RedisSink", "RedisStreamSink", "RedisUpsertSink"]

#: How a value lies under its key.
Mode: TypeAlias = Literal["set", "hash"]

_ATTEMPTS = 60
#: Records whose answers are waited for together.
_SENT_AT_ONCE = 500


class _RedisOutbox(OutboxSink):
    """The output of a checkpoint, and its marker, by one script."""

    def __init__(
        self, address: RedisAddress, durability: Durability, commands: Callable[[list[Any]], Iterator[Command]]
    ) -> None:
        self._address = address
        self._durability = check_durability(durability)
        self.relies_on = (
            "the server must keep what it has answered to: a failover to a replica may lose it, which is noticed as "
            "output that is missing and not repaired by itself"
        )
        super().__init__(functools.partial(RedisTarget, address, durability, commands))

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Sink``: how the server is set, and the markers of this sink."""
        with closing(self._address.connect()) as client, self._address.told(SinkError):
            findings = list(self._address.findings(client, self._durability))
        yield from findings
        if not any(finding.level == "error" for finding in findings):
            yield from super().check(context)


class _Upserts:
    """What ``RedisSink`` and ``RedisUpsertSink`` write of a record."""

    def __init__(
        self,
        key: Field,
        value: Field | None,
        mode: Mode,
        delete: Field | None,
        prefix: str,
        expire_s: int | None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ConfigurationError(f"mode={mode!r}: give one of {', '.join(get_args(Mode))}", setting="mode")
        if expire_s is not None:
            check_whole("expire_s", expire_s)
        if not isinstance(prefix, str):
            raise ConfigurationError(f"prefix={prefix!r}: give a text", setting="prefix")
        self._key = check_field("key", key, optional=False)
        self._value = check_field("value", value)
        self._delete = check_field("delete", delete)
        self._mode = mode
        self._prefix = prefix.encode()
        self._expire = [] if expire_s is None else [b"EX", str(expire_s).encode()]

    def commands(self, records: list[Any]) -> Iterator[Command]:
        """Raises ``SinkError`` for a record that cannot be written."""
        for record in records:
            key = key_word(field_of(record, self._key, "key"), self._prefix)
            if self._delete is not None and field_of(record, self._delete, "delete"):
                yield Command("", (b"DEL", key))
                continue
            value = record if self._value is None else field_of(record, self._value, "value")
            if self._mode == "set":
                yield Command("", (b"SET", key, value_word(value), *self._expire))
                continue
            # Fields that the record has not are gone, and another type of value too.
            yield Command("", (b"DEL", key))
            words = hash_words(value, "value")
            for start in range(0, len(words), MAX_WORDS):
                yield Command("", (b"HSET", key, *words[start : start + MAX_WORDS]))
            if self._expire:
                yield Command("", (b"EXPIRE", key, self._expire[1]))


class RedisSink(_RedisOutbox):
    """Upserts: each record is the newest value of its key, or deletes it.

    Exactly once: the output of a checkpoint and its marker are written in one step after the decision, see
    ``onceflow.connectors.redis.target``. Readers see checkpoints as a whole.

    Args:
        url: As redis-py takes it, such as ``"redis://127.0.0.1:6379/0"``. It is kept in no checkpoint.
        key: Name of a field, or a function of the record: a text, bytes or a whole number.
        value: The same, for the value; None: the whole record.
        mode: ``"set"``: bytes as they are, text as UTF-8, anything else as JSON. ``"hash"``: a mapping, whose members
            are the fields of a hash, and all of them.
        delete: Name of a field, or a function of the record: where it gives something true, the key is deleted.
        prefix: What keys begin with.
        expire_s: After so many whole seconds the key goes by itself.
        durability: ``"required"``: the server must have ``appendonly yes`` and ``appendfsync always``, and must not
            evict keys of all kinds. ``"assumed"``: it is not asked, such as where a provider does not let it: what it
            loses is noticed at the next checkpoint, as output that is missing, and not before.
        timeout_s: Of one command, and so of the output of a checkpoint.
        attempts: While the server cannot be reached, with waits of up to a second between them; then the job stops.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: redis is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        key: Field,
        value: Field | None = None,
        mode: Mode = "set",
        delete: Field | None = None,
        prefix: str = "",
        expire_s: int | None = None,
        durability: Durability = "required",
        timeout_s: float = 60.0,
        attempts: int = _ATTEMPTS,
    ) -> None:
        upserts = _Upserts(key, value, mode, delete, prefix, expire_s)
        super().__init__(RedisAddress(url, timeout_s, attempts), durability, upserts.commands)


class RedisUpsertSink(IdempotentSink):
    """Upserts like those of ``RedisSink``, each written when it comes: what a crash repeats replaces itself.

    For effectively_once, where a value should be seen before its checkpoint is complete. It has no marker: readers may
    find a part of a checkpoint, a run that was paused within a write and replaced may write older values over newer
    ones, and a server that was put back from a backup is not noticed.

    Args:
        url: See ``RedisSink``, as all of these.
        key: Name of a field, or a function of the record.
        value: The same, for the value.
        mode: ``"set"`` or ``"hash"``.
        delete: Name of a field, or a function of the record.
        prefix: What keys begin with.
        expire_s: After so many whole seconds the key goes by itself.
        durability: ``"required"`` or ``"assumed"``.
        timeout_s: Of a bunch of commands.
        attempts: While the server cannot be reached.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: redis is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        key: Field,
        value: Field | None = None,
        mode: Mode = "set",
        delete: Field | None = None,
        prefix: str = "",
        expire_s: int | None = None,
        durability: Durability = "required",
        timeout_s: float = 60.0,
        attempts: int = _ATTEMPTS,
    ) -> None:
        self._upserts = _Upserts(key, value, mode, delete, prefix, expire_s)
        self._address = RedisAddress(url, timeout_s, attempts)
        self._durability = check_durability(durability)

    def open(self, context: SinkContext) -> SinkWriter:
        """See ``Sink``."""
        waiting = self._address.waiting(f"sink '{context.job}/{context.sink}'", SinkWaitingWarning)
        return _UpsertWriter(self._address, self._durability, self._upserts, waiting)

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Sink``: how the server is set."""
        with closing(self._address.connect()) as client, self._address.told(SinkError):
            yield from list(self._address.findings(client, self._durability))


class _UpsertWriter(SinkWriter):
    def __init__(self, address: RedisAddress, durability: Durability, upserts: _Upserts, waiting: Waiting) -> None:
        self._address = address
        self._upserts = upserts
        self._client: RedisClient = address.connect(waiting)
        try:
            address.refuse_unfit(self._client, durability)
        except BaseException:
            self.close()
            raise

    def check_output(self, records: Batch) -> None:
        for _ in self._upserts.commands(rows_of(records)):
            pass

    def write(self, records: Batch) -> None:
        rows = rows_of(records)
        for start in range(0, len(rows), _SENT_AT_ONCE):
            commands = self._upserts.commands(rows[start : start + _SENT_AT_ONCE])
            with self._address.told(SinkError):
                # In one step, so that nobody finds a hash between its old fields and its new ones.
                step = self._client.pipeline(transaction=True)
                for command in commands:
                    step.execute_command(*command.words)
                step.execute()

    def flush(self) -> None:
        # Each write has waited for its answers.
        pass

    def close(self) -> None:
        self._client.close()


class RedisStreamSink(_RedisOutbox):
    """Appends each record to a stream, as ``RedisSink`` writes: exactly once, and a checkpoint in one step.

    Args:
        url: See ``RedisSink``.
        stream: Its key; or a function of the record.
        fields: Name of a field, or a function of the record: a mapping of the entry's names to values (bytes as they
            are, text as UTF-8, anything else as JSON). None: ``{"value": record}``.
        maxlen: The stream is cut to about so many entries. Readers that are further behind lose some.
        durability: See ``RedisSink``.
        timeout_s: See ``RedisSink``.
        attempts: See ``RedisSink``.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: redis is not installed.
    """

    def __init__(
        self,
        url: str,
        stream: str | Callable[[Any], str],
        *,
        fields: Field | None = None,
        maxlen: int | None = None,
        durability: Durability = "required",
        timeout_s: float = 60.0,
        attempts: int = _ATTEMPTS,
    ) -> None:
        if not stream or not (isinstance(stream, str) or callable(stream)):
            raise ConfigurationError(
                f"stream={stream!r}: give the key of a stream, or a function of a record", setting="stream"
            )
        if maxlen is not None:
            check_whole("maxlen", maxlen)
        self._stream = stream
        self._fields = check_field("fields", fields)
        self._cut = () if maxlen is None else (b"MAXLEN", b"~", str(maxlen).encode())
        super().__init__(RedisAddress(url, timeout_s, attempts), durability, self._commands)

    def _commands(self, records: list[Any]) -> Iterator[Command]:
        for record in records:
            stream = field_of(record, self._stream, "stream") if callable(self._stream) else self._stream
            fields = {"value": record} if self._fields is None else field_of(record, self._fields, "fields")
            words = hash_words(fields, "fields")
            if len(words) > MAX_WORDS:
                raise SinkError(f"an entry has {len(words) // 2} fields, and {MAX_WORDS // 2} are the most")
            yield Command("stream", (b"XADD", key_word(stream, b""), *self._cut, b"*", *words))
