"""Which rights a source or sink lacks on a cluster, asked before a start. Changes nothing.

Only a broker knows, and says it only when it is asked to do the thing: so topics are asked for what may be done with
them, a topic is made for validation only, and a transactional id is asked for with a timeout that a broker refuses once
it has seen that the id may be taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from onceflow.checks import Finding
from onceflow.connectors.kafka.facts import Admin
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text, kafka_error

__all__ = ["rights_lacking", "rights_lacking_for_group", "transactional_id_refused"]

#: No broker's ``transaction.max.timeout.ms`` allows it. (Where one does, the id is taken, and its owner takes it back.)
_TOO_LONG_MS = (1 << 31) - 1
_STEP_S = 1.0


def rights_lacking(admin: Admin, topic: str, needed: tuple[str, ...], *, made_with: int | None) -> Iterator[Finding]:
    """What this user may not do with a topic.

    Args:
        admin: Of the cluster.
        topic: Its name.
        needed: What is to be done, such as ``WRITE``.
        made_with: The topic is made with so many partitions if there is none; None: it is not made.
    """
    allowed, subject = admin.operations(topic), f"topic {topic!r}"
    if allowed is None:
        advice = f"allow {_joined(needed)}" + (
            "" if made_with is None else "; and CREATE, if there is no such topic yet"
        )
        yield Finding("error", subject, "this user may not even know whether there is such a topic", advice)
    elif allowed:
        if lacking := tuple(each for each in needed if each not in allowed):
            text = f"this user may not {_joined(lacking)}, but only {_joined(tuple(sorted(allowed)))}"
            yield Finding("error", subject, text, f"allow {_joined(lacking)}")
    elif made_with is not None and not admin.may_create(topic, made_with):
        yield Finding(
            "error", subject, "there is none, and this user may not make it", "allow CREATE, or make it before"
        )


def rights_lacking_for_group(admin: Admin, group: str) -> Iterator[Finding]:
    """Whether a consumer may name a group: the client asks for it, though none of ours joins one."""
    if not admin.may_use(group):
        text = "this user may not READ it, and Kafka's client reads nothing without"
        yield Finding("error", f"consumer group {group!r}", text, "allow READ")


def transactional_id_refused(settings: KafkaSettings, transactional_id: str, timeout_s: float) -> Iterator[Finding]:
    """Whether a transactional id may be taken."""
    kinds, exception = client_library().KafkaError, client_library().KafkaException
    ours = {"transactional.id": transactional_id, "transaction.timeout.ms": _TOO_LONG_MS}
    producer = settings.producer({**settings.merged({"transactional.id": transactional_id}, {}), **ours})
    subject, until = f"transactional id {transactional_id!r}", time.monotonic() + timeout_s
    while True:
        try:
            producer.init_transactions(_STEP_S)
            return
        except exception as error:
            known = kafka_error(error)
            if known is not None and known.retriable() and time.monotonic() < until:
                continue
            code = None if known is None else known.code()
            if code == kinds.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                yield Finding("error", subject, "this user may not write with it", "allow WRITE and DESCRIBE")
            elif code != kinds.INVALID_TRANSACTION_TIMEOUT:
                text = f"cannot be asked for: {settings.redacted(error_text(error))}"
                yield Finding("warning", subject, text, "see whether transactions work on this cluster")
            return


def _joined(operations: tuple[str, ...]) -> str:
    return ", ".join(operations)
