"""Appends numbers to a topic, says when all are acknowledged, and waits."""

from __future__ import annotations

import sys
import time

from onceflow.log import Log, Producer

if __name__ == "__main__":
    with Log.open(sys.argv[1], upkeep_interval_s=None) as log, Producer(log) as producer:
        for number in range(int(sys.argv[2]), int(sys.argv[3])):
            producer.produce_many("t", [b"%d" % number])
        print(sys.argv[3], flush=True)
        time.sleep(600)
