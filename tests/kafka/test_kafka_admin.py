"""What a sink asks a cluster for, while its broker comes and goes."""

from __future__ import annotations

import gc

import topics

from onceflow.connectors.kafka.facts import Admin
from onceflow.connectors.kafka.settings import KafkaSettings


def test_a_client_looks_anew_for_the_leaders_of_a_broker_that_was_started_again(kafka):
    """Kind: what was an answer before a broker's end (an epoch of a leader) goes with each question after it, and is
    refused until the client forgets it, minutes later: the job stopped instead of going on."""
    admin = Admin(KafkaSettings(kafka.bootstrap), timeout_s=30)
    led = topics.name("led")
    topics.create(kafka.bootstrap, led, partitions=4)
    assert set(admin.ends(led, range(4), committed=False).values()) == {0}
    for _ in range(2):
        kafka.kill()
        kafka.start()
        assert set(admin.ends(led, range(4), committed=False).values()) == {0}
    # Other tests fork: no thread of a client may hold a lock by then.
    del admin
    gc.collect()
