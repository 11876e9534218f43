"""Kafka's own soak, in small."""

from __future__ import annotations

import random

import pytest
from copiers import run_copiers
from services.kafka import KafkaBroker
from services.process import ServerUnavailableError


def test_jobs_in_a_chain_copy_each_number_once_and_in_order(tmp_path):
    """Kind: what is lost or comes twice between two jobs when both and the broker are killed, and when transactions are
    aborted from outside at any moment."""
    try:
        broker = KafkaBroker(tmp_path / "broker")
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with broker:
        copied = run_copiers(tmp_path / "soak", broker, numbers=5_000, pace_s=0.02, chance=random.Random(1))
    assert copied.kills == 9
