"""One set of small programs, run against the embedded log and a real Kafka: what they see is the same."""

from __future__ import annotations

import consuming
import producing
import pytest
from worlds import EmbeddedWorld, KafkaWorld

from onceflow.log import Log

PROGRAMS = (*producing.PROGRAMS, *consuming.PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_a_program_sees_the_same(program, kafka, tmp_path):
    """A program written against confluent_kafka that behaves otherwise against the embedded log."""
    with Log.open(tmp_path / "log") as log:
        embedded = EmbeddedWorld(log)
        ours = program(embedded)
        embedded.close()
    real = KafkaWorld(kafka.bootstrap)
    theirs = program(real)
    real.close()
    assert ours == theirs
