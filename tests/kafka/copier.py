"""Copies numbers in transactions, aborts some, and may kill itself: python copier.py BOOTSTRAP DIRECTORY LIFE DEATH.

DEATH is ``before-commit``, ``in-commit`` or ``none``. What a copier writes is ``LIFE.ATTEMPT:NUMBER``, so that each
attempt has values of its own and the numbers tell what was copied.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path

from recording import RecordingConsumer, RecordingProducer

BATCH = 40


def main() -> None:
    bootstrap, directory, life, death = sys.argv[1:]
    producer = RecordingProducer(bootstrap, Path(directory), f"copier-{life}", transactional_id="copier")
    # Only now, with the transaction of the life before decided, do the group's positions stand still.
    consumer = RecordingConsumer(bootstrap, producer.recorder, [("numbers", 0), ("numbers", 1)], group="copiers")
    attempt = 0
    while len(consumer.ended) < 2:
        values = consumer.poll(BATCH)
        if not values:
            continue
        attempt += 1
        producer.begin()
        for value in values:
            number = int(value)
            producer.send("copies", f"{life}.{attempt}:{number}", number % 2)
        producer.send_offsets(consumer)
        producer.flush()
        if attempt == 6 and death == "before-commit":
            os.kill(os.getpid(), signal.SIGKILL)
        if attempt % 4 == 2:
            producer.abort()
            consumer.resume("copiers")
            continue
        if attempt == 7 and death == "in-commit":
            threading.Timer(random.uniform(0, 0.01), os.kill, (os.getpid(), signal.SIGKILL)).start()
        producer.commit()
    consumer.close()


if __name__ == "__main__":
    main()
