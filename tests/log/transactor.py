"""A transactional producer as a process: python transactor.py DIRECTORY TRANSACTIONAL_ID TOPIC STAGED.

Opens a transaction with two records (large ones, so that they are on the disk already, if STAGED is ``yes``), says
``open``, waits for a line of input, and tries to commit. Then it says how that ended, and the same of an attempt to
begin another one.
"""

from __future__ import annotations

import sys

from onceflow.exceptions import LogError
from onceflow.log import Log, Producer


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def attempt(call) -> None:
    try:
        call()
        say("done")
    except LogError as error:
        say(type(error).__name__)


def main() -> None:
    directory, transactional_id, topic, staged = sys.argv[1:]
    size = 1_000_000 if staged == "yes" else 10
    with Log.open(directory) as log:
        producer = Producer(log, transactional_id=transactional_id, max_buffered_bytes=100_000)
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce_many(topic, [b"z" * size] * 2)
        say("open")
        sys.stdin.readline()
        attempt(producer.commit_transaction)
        attempt(producer.begin_transaction)
        producer.close()


if __name__ == "__main__":
    main()
