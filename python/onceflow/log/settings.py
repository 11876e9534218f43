"""What to write instead of the settings that a client of Kafka takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from onceflow.exceptions import ConfigurationError, LogError, OnceflowError

__all__ = [
    "check_callback",
    "check_clock",
    "check_flag",
    "check_items",
    "check_log",
    "check_name",
    "check_number",
    "check_seconds",
    "check_timeout",
    "check_whole",
    "told",
]

_T = TypeVar("_T")

#: Whole numbers of settings stay below it, in milliseconds as in bytes.
_MOST = 1 << 62

#: Settings of ``confluent_kafka``, the argument that is the same here, and how much of it one of theirs is.
_PRODUCER: dict[str, tuple[str, float]] = {
    "transactional.id": ("transactional_id", 1),
    "transaction.timeout.ms": ("transaction_timeout_ms", 1),
    "linger.ms": ("linger_s", 0.001),
    "queue.buffering.max.ms": ("linger_s", 0.001),
    "queue.buffering.max.messages": ("max_buffered_records", 1),
    "queue.buffering.max.kbytes": ("max_buffered_bytes", 1024),
    "delivery.timeout.ms": ("delivery_timeout_s", 0.001),
    "message.timeout.ms": ("delivery_timeout_s", 0.001),
}
_CONSUMER: dict[str, tuple[str, float]] = {
    "group.id": ("group_id", 1),
    "isolation.level": ("isolation_level", 1),
    "auto.offset.reset": ("auto_offset_reset", 1),
    "enable.auto.commit": ("enable_auto_commit", 1),
    "auto.commit.interval.ms": ("auto_commit_interval_ms", 1),
    "enable.auto.offset.store": ("enable_auto_offset_store", 1),
    "session.timeout.ms": ("session_timeout_ms", 1),
    "max.poll.interval.ms": ("max_poll_interval_ms", 1),
    "partition.assignment.strategy": ("partition_assignment_strategy", 1),
    "fetch.max.bytes": ("fetch_max_bytes", 1),
}

#: Names that librdkafka takes too.
_RESETS = {"beginning": "earliest", "smallest": "earliest", "end": "latest", "largest": "latest"}


def check_log(client: Literal["Producer", "Consumer"], given: Any) -> None:
    """Refuses what is not an open log, and says what to write.

    Raises:
        ConfigurationError: It is a dict of settings, a path or something else.
    """
    if hasattr(given, "native"):
        return
    if isinstance(given, Mapping):
        known = _PRODUCER if client == "Producer" else _CONSUMER
        arguments = ["log", *(_argument(*known[name], value) for name, value in given.items() if name in known)]
        dropped = [str(name) for name in given if name not in known]
        raise ConfigurationError(
            f"{client} takes an open log and arguments instead of settings, as there is no broker. Write: "
            f"log = Log.open('events/'); {client}({', '.join(arguments)})"
            + (f". Without a meaning here: {', '.join(dropped)}" if dropped else "")
        )
    raise ConfigurationError(
        f"{client} takes an open log, not {given!r}. Write: log = Log.open('events/'); {client}(log)"
    )


def refusal(name: str, given: Any, advice: str) -> ConfigurationError:
    """The error of one argument; its name may stand after that of its method."""
    return ConfigurationError(f"{name} is {given!r}; {advice}", setting=name.rpartition(": ")[2])


def check_whole(name: str, given: Any, least: int = 1) -> None:
    """Refuses what is not a whole number of some size.

    Raises:
        ConfigurationError: Names the setting.
    """
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= _MOST:
        raise refusal(name, given, f"give a whole number from {least} on")


def check_seconds(name: str, given: Any, *, above: bool = False, most: float = math.inf) -> None:
    """Refuses what is not a duration in seconds; infinity is one, unless there is a bound.

    Raises:
        ConfigurationError: Names the setting.
    """
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not number or not (given > 0 if above else given >= 0) or not (given <= _MOST or given == math.inf):
        raise refusal(name, given, f"give seconds, {'above 0' if above else '0 or more'}")
    if given > most:
        raise refusal(name, given, f"give at most {int(most)} seconds")


def check_name(name: str, given: Any) -> None:
    """Refuses what is neither text nor None.

    Raises:
        ConfigurationError: Names the setting.
    """
    if given is not None and not isinstance(given, str):
        raise refusal(name, given, "give a str, or None")


def check_timeout(name: str, given: Any) -> None:
    """Refuses what is not a time to wait in seconds; None and what is below 0 have a meaning of their own.

    Raises:
        ConfigurationError: Names the argument.
    """
    if given is None:
        return
    number = isinstance(given, (int, float, np.integer)) and not isinstance(given, bool)
    if not number or not (given <= _MOST or given == math.inf):
        raise refusal(name, given, "give seconds, such as 1.0")


def check_number(name: str, given: Any) -> int:
    """A whole number, also one of numpy.

    Raises:
        ConfigurationError: It is something else; names the argument.
    """
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (int, np.integer)):
        raise refusal(name, given, "give an int")
    return int(given)


def check_items(name: str, given: Any, kind: type[_T], example: str) -> list[_T]:
    """The items of a list or another iterable, all of one kind.

    Raises:
        ConfigurationError: Names the argument, and shows what to give.
    """
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        raise refusal(name, given, f"give a list, such as {example}")
    items = list(given)
    for item in items:
        if not isinstance(item, kind):
            raise ConfigurationError(f"{name} has {item!r} among them; give a list such as {example}")
    return items


def check_callback(name: str, given: Any) -> None:
    """Refuses what is neither a function nor None.

    Raises:
        ConfigurationError: Names the argument.
    """
    if given is not None and not callable(given):
        raise refusal(name, given, "give a function, or None")


def check_flag(name: str, given: Any) -> None:
    """Refuses what is neither true nor false.

    Raises:
        ConfigurationError: Names the argument.
    """
    if not isinstance(given, bool):
        raise refusal(name, given, "give True or False")


def check_clock(name: str, given: Any) -> None:
    """Refuses what is neither a clock nor None.

    Raises:
        ConfigurationError: Names the argument.
    """
    if given is not None and not all(callable(getattr(given, of, None)) for of in ("monotonic", "now")):
        raise refusal(name, given, "give a Clock, such as SystemClock(), or None")


def told(error: Exception) -> OnceflowError:
    """What a background thread ran into, as an error that the next call can raise."""
    if isinstance(error, OnceflowError):
        return error
    found = LogError(f"a background thread of the log failed: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found


def _argument(name: str, unit: float, value: Any) -> str:
    if unit != 1:
        value = float(value) * unit
        value = int(value) if unit > 1 else value
    elif name.endswith(("_ms", "_bytes", "_records")):
        value = int(value)
    elif name in ("enable_auto_commit", "enable_auto_offset_store"):
        value = value if isinstance(value, bool) else str(value).lower() == "true"
    elif name == "auto_offset_reset":
        value = _RESETS.get(value, value)
    elif name == "partition_assignment_strategy":
        value = {"cooperative-sticky": "sticky"}.get(value, value)
    return f"{name}={value!r}"
