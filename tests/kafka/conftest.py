"""Rules for tests of Kafka."""

from __future__ import annotations

import time

import pytest

from onceflow.connectors.kafka.sending import Sending


@pytest.fixture
def eager(monkeypatch):
    """However little a job writes, it is sent ahead: a transaction is open between checkpoints."""
    monkeypatch.setattr("onceflow.connectors.kafka.sending._LEAST_BYTES", 1)


@pytest.fixture
def in_turn(monkeypatch, eager):
    """Also: a job writes only when the checkpoint before is through, so that everything is sent ahead."""
    ahead = Sending.ahead

    def waits(self, frames, newest):
        before = self._before if frames is self._written else self._written
        until = time.monotonic() + 5
        while before is not None and self._committed is not before and time.monotonic() < until:
            time.sleep(0.001)
        ahead(self, frames, newest)

    monkeypatch.setattr(Sending, "ahead", waits)
