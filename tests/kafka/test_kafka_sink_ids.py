"""What becomes of a sink's producer identity: it expires, is deleted with its records, or the rules for it change."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest
import topics
from confluent_kafka import TopicPartition
from counting_kafka import Job
from lives import Life, no_survivors
from services.kafka import KafkaBroker
from services.process import ServerUnavailableError

pytestmark = pytest.mark.usefixtures("crash_points")

#: An identity that nobody uses is forgotten after this; the broker looks every half second.
EXPIRES_MS = 2_000


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory):
    """A broker that forgets transactional ids and producers soon, and has the transactions of an older one."""
    properties = {
        "transactional.id.expiration.ms": str(EXPIRES_MS),
        "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
        "producer.id.expiration.ms": str(EXPIRES_MS),
        "producer.id.expiration.check.interval.ms": "500",
    }
    try:
        broker = KafkaBroker(
            tmp_path_factory.mktemp("forgetful"), properties=properties, records=("--feature", "transaction.version=0")
        )
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with broker:
        yield broker


@pytest.fixture
def job(forgetful, tmp_path):
    return Job.make(forgetful.bootstrap, tmp_path / "job")


def came_through(job, life):
    assert life.wait(120) == "done", life.error
    job.check()


@no_survivors()
@pytest.mark.parametrize("at", ["sink.pre_commit:2", "kafka.post_commit:3"])
def test_a_transactional_id_that_expires_while_the_job_stands_still(job, at):
    """Kind (K15): the broker knows nothing of the id any more, and whoever goes on with it is fenced for good."""
    life = Life(partial(job.run, pace_s=0.1), STOP_AT=at)
    assert life.step(60) == "stopped", life.error
    time.sleep(EXPIRES_MS / 1000 + 2)
    life.wake()
    came_through(job, life)


@no_survivors()
def test_a_transactional_id_that_expires_while_the_job_is_down(job):
    """Kind (K15): the marker alone tells what is there."""
    life = Life(partial(job.run, pace_s=0.1), STOP_AT="kafka.post_commit:3")
    assert life.step(60) == "stopped", life.error
    life.kill()
    time.sleep(EXPIRES_MS / 1000 + 2)
    came_through(job, Life(job.run))


@no_survivors()
def test_the_cluster_is_upgraded_within_a_transaction(forgetful, job):
    """Kind (K17): what was to be aborted becomes fatal, or the other way round, from one request to the next."""
    life = Life(partial(job.run, pace_s=0.1), STOP_AT="kafka.pre_commit:3")
    assert life.step(60) == "stopped", life.error
    forgetful.tool(
        "FeatureCommand", "--bootstrap-server", forgetful.bootstrap, "upgrade", "--feature", "transaction.version=2"
    )
    life.wake()
    came_through(job, life)
    # And one that knows the newer rules from its start.
    newer = Life(partial(job.run, resume_from="newest"))
    came_through(job, newer)


@no_survivors()
def test_records_of_the_producer_are_deleted(kafka, tmp_path):
    """Kind (K26): retention removes all that a producer has written, and the broker forgets it with them."""
    job = Job.make(kafka.bootstrap, tmp_path / "job")
    life = Life(partial(job.run, pace_s=0.1), STOP_AT="sink.pre_commit:2")
    assert life.step(60) == "stopped", life.error
    before = job.shown()
    assert before
    places = [TopicPartition(job.topic(), partition, -1) for partition in range(2)]
    client = topics.admin(kafka.bootstrap)
    for future in client.delete_records(places).values():
        future.result(30)
    assert job.shown() == []
    life.wake()
    assert life.wait(120) == "done", life.error
    after = job.shown()
    assert len(before) + len(after) == len({*before, *after}) == job.rows


@no_survivors()
@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.03])
def test_the_broker_hangs_within_a_batch(kafka, tmp_path, after_s):
    """Kind (K10, K11): a part of a transaction is there, the rest is given up by the client, which goes on with another
    epoch: a commit would succeed with what is there."""
    config = {"message.timeout.ms": 2_500, "linger.ms": 0, "batch.size": 100}
    job = Job.make(kafka.bootstrap, tmp_path / "job", config=config)
    life = Life(partial(job.run, pace_s=0.1), STOP_AT="sink.pre_commit:2")
    assert life.step(60) == "stopped", life.error
    life.wake()
    time.sleep(after_s)
    os.kill(kafka.pid, signal.SIGSTOP)
    try:
        # Beyond what the client waits for.
        assert life.step(4) in (None, "done"), life.error
    finally:
        os.kill(kafka.pid, signal.SIGCONT)
    came_through(job, life)
