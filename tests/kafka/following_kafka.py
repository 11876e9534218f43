"""The job of the tests of topics that grow: python following_kafka.py ROOT BOOTSTRAP TOPIC [START].

Follows a topic until it is killed; numbers, and their totals by key, go into files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onceflow as of
from onceflow.connectors.files import JsonLinesSink
from onceflow.connectors.kafka import KafkaSource, feed
from onceflow.runtime import growth

# Tests do not wait for seconds.
feed.LOOK_S = 0.2
growth._EVERY_S = 0.05


def main(root: Path, bootstrap: str, topic: str, start: str = "earliest") -> None:
    flow = of.Dataflow("following")
    source = KafkaSource(bootstrap, topic, decode="json", stop_at_end=False, start=start, group=f"{topic}-lag")
    numbers = flow.source("numbers", source)
    numbers.sink("each", JsonLinesSink(root / "each"))
    numbers.key_by("key").aggregate("by-key", total=of.sum("n")).sink("totals", JsonLinesSink(root / "totals"))
    of.run(flow, state=root / "state", checkpoint_interval_s=0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
