"""Runs a broker until it is interrupted: ``python -m services.kafka``."""

from __future__ import annotations

import signal
import tempfile

from services.kafka import KafkaBroker


def main() -> None:
    """Prints the bootstrap address when the broker is ready."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="onceflow-kafka-") as directory, KafkaBroker(directory) as broker:
        print(broker.bootstrap, flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping")


if __name__ == "__main__":
    main()
