"""Writes the time, so many times: python pinger.py DIRECTORY TOPIC COUNT."""

from __future__ import annotations

import sys
import time

from onceflow.log import Log, Producer

directory, topic, count = sys.argv[1:]
with Log.open(directory) as log, Producer(log) as producer:
    for _ in range(int(count)):
        time.sleep(0.02)
        producer.produce_many(topic, [f"{time.monotonic_ns()}"])
