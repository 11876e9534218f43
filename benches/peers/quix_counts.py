"""The keyed count by Quix Streams, exactly once.

``python quix_counts.py BOOTSTRAP WORDS COUNTS STATE INTERVAL_S MESSAGES SETTINGS`` in an environment of its own with
quixstreams. With 0 messages it follows until it is killed; else it ends after so many, and prints how many a second it
counted, from the first one to the last one: neither its start nor its last commit are in that. Its settings are JSON:
``{"consumer": {…}, "producer": {…}}`` are handed to librdkafka.
"""

from __future__ import annotations

import json
import sys
import time

from quixstreams import Application, State


def main(
    bootstrap: str, words: str, counts: str, state_dir: str, interval_s: str, messages: str, settings: str
) -> None:
    """See the module."""
    given = json.loads(settings)
    app = Application(
        bootstrap,
        consumer_group=f"quix-{counts}",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=float(interval_s),
        state_dir=state_dir,
        loglevel="ERROR",
        consumer_extra_config=given["consumer"],
        producer_extra_config=given["producer"],
    )
    first = last = 0.0
    clock = time.perf_counter

    def count(_value: bytes, state: State) -> int:
        nonlocal first, last
        total = state.get("count", 0) + 1
        state.set("count", total)
        last = clock()
        first = first or last
        return total

    source = app.topic(words, value_deserializer="bytes")
    sink = app.topic(counts, value_serializer="json")
    app.dataframe(source).apply(count, stateful=True).to_topic(sink)
    app.run(count=int(messages), collect=False)
    print(json.dumps({"rate": int(messages) / (last - first)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
