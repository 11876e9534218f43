"""A member of a consumer group as a process: python member.py DIRECTORY GROUP TOPIC SESSION_TIMEOUT_MS.

Tells what happens to it, a JSON list a line: ``assigned``, ``revoked``, ``lost`` and partitions, ``read`` and a value,
``error`` and its class. Commits what it has read after each record; ends when its input does.
"""

from __future__ import annotations

import json
import sys
import threading

from onceflow.exceptions import GroupFencedError
from onceflow.log import Consumer, Log, TopicPartition


def tell(*event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def telling(name: str):
    def call(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        tell(name, *(each.partition for each in partitions))

    return call


def main() -> None:
    directory, group, topic, session_timeout_ms = sys.argv[1:]
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    with Log.open(directory) as log, Consumer(log, group, session_timeout_ms=int(session_timeout_ms)) as consumer:
        consumer.subscribe([topic], telling("assigned"), telling("revoked"), telling("lost"))
        while not stopped.is_set():
            try:
                message = consumer.poll(0.1)
                if message is not None:
                    tell("read", message.value().decode())
                    consumer.commit(message)
            except GroupFencedError as error:
                tell("error", type(error).__name__)


if __name__ == "__main__":
    main()
