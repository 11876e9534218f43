"""The job that the kill tests of Kafka's source kill: python kafka_job.py ROOT BOOTSTRAP TOPIC.

Numbers of a topic, and their totals by key, go into files; the topic is read to its end.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import onceflow as of
from onceflow.connectors.files import JsonLinesSink
from onceflow.connectors.kafka import KafkaSource


def main(root: Path, bootstrap: str, topic: str) -> None:
    def slowly(batch: list[object]) -> list[object]:
        # So that a few checkpoints fall within a run.
        time.sleep(0.01)
        return batch

    flow = of.Dataflow("kafka")
    source = KafkaSource(bootstrap, topic, decode="json", event_time="timestamp", group=f"{topic}-lag")
    numbers = flow.source("numbers", source).map_batch(slowly)
    numbers.sink("each", JsonLinesSink(root / "each"))
    numbers.key_by("key").aggregate("by-key", n=of.count(), total=of.sum("n")).sink(
        "totals", JsonLinesSink(root / "totals")
    )
    of.run(flow, state=root / "state", checkpoint_interval_s=0.02, batch_size=50)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
