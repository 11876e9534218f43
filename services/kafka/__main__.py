"""Runs a broker until it is interrupted: ``python -m services.kafka``."""

from __future__ import annotations

import tempfile

from services.kafka import KafkaBroker
from services.process import run_until_ended

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="onceflow-kafka-") as directory:
        run_until_ended("kafka", lambda: KafkaBroker(directory))
