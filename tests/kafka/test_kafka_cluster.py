"""A job on a cluster of three brokers, of which one after the other is killed."""

from __future__ import annotations

import random
import time

import pytest
import topics
from copying_job import PARTITIONS, CopyingJob, Numbers, number_of
from lives import Life, no_survivors
from recording import RecordingConsumer, create_topics
from services.kafka.cluster import KafkaCluster
from services.process import ServerUnavailableError

from onceflow.checks import CheckContext
from onceflow.connectors.kafka import KafkaSink
from onceflow.testing.histories import Recorder

#: Numbers that are written before each kill, and while a broker is dead.
CHUNK = 400


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Everything is on three brokers, and acknowledged by two."""
    try:
        cluster = KafkaCluster(tmp_path_factory.mktemp("cluster"))
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with cluster:
        yield cluster


@no_survivors()
def test_each_of_three_brokers_is_killed_while_a_job_runs(cluster, tmp_path):
    """Kind (K13): a leader, a coordinator of transactions, a controller that is killed; others take over from it with
    what they have of a transaction. Two of three go on without the third."""
    create_topics(cluster.bootstrap, numbers=PARTITIONS, copies=PARTITIONS)
    job = CopyingJob(cluster.bootstrap, "copying", tmp_path / "state", "numbers", "copies", pace_s=0.02)
    # Before anything here has threads.
    life = Life(lambda: job.run(follow=True))
    history = tmp_path / "history"
    numbers = Numbers(cluster.bootstrap, history, "numbers", "copies")
    with Recorder(history, "follower") as recorder:
        places = [("copies", partition) for partition in range(PARTITIONS)]
        follower = RecordingConsumer(cluster.bootstrap, recorder, places, value_of=number_of)
        seen = 0
        moments = random.Random(3)
        for broker in moments.sample(cluster.brokers, 3):
            numbers.write(CHUNK)
            time.sleep(moments.uniform(0, 0.5))
            broker.kill()
            # Without it.
            numbers.write(CHUNK)
            until = time.monotonic() + 60
            while seen < numbers.count:
                seen += len(follower.poll(500))
                assert time.monotonic() < until, f"{seen} copies of {numbers.count} after a minute"
                assert life.step(0) is None, life.error
            broker.start()
        assert life.kill() == "killed", life.error
        last = Life(job.run)
        assert last.wait(60) == "done", last.error
        follower.read_to_the_end()
        follower.close()
    numbers.due()
    shown = [message.value() for message in topics.read(cluster.bootstrap, "copies")]
    assert job.wrong(shown, numbers.count) == ""


def test_a_cluster_that_is_as_it_has_to_be(cluster):
    """Kind: a look that finds fault with three replicas of which two acknowledge; a marker topic that is less safe than
    the topic of the output."""
    found = list(KafkaSink(cluster.bootstrap, "copies").check(CheckContext("copying", "copies")))
    assert [one for one in found if one.level != "ok"] == []
    assert any("3 replicas" in one.text for one in found)
