"""A job that writes to Kafka while the broker is killed, stopped, gone, or asked by somebody else."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import pytest
import topics
from counting_kafka import Job
from lives import Life, no_survivors
from waits import CONTEXT, said

from onceflow.connectors import waiting
from onceflow.connectors.kafka import KafkaSink, asking
from onceflow.connectors.kafka.destination import transactional_id_of
from onceflow.exceptions import SinkWaitingWarning
from onceflow.sinks import Committable

pytestmark = pytest.mark.usefixtures("crash_points", "eager")

#: With it a transaction that nobody ends is over after this, and the second in which the broker looks.
SHORT = {"config": {"transaction.timeout.ms": 2_000}}
OVER_S = 4.5


#: Where a transaction is open: records were sent ahead of their checkpoint; or it was decided, and the marker is there.
OPEN = ("kafka.sent_ahead:3", "kafka.pre_commit:3")
#: The same, however slow the machine is: where a transaction may last two seconds only, those that follow may be late.
SHORTLY_OPEN = ("kafka.sent_ahead:1", "kafka.pre_commit:3")


@pytest.fixture
def job(kafka, tmp_path):
    return Job.make(kafka.bootstrap, tmp_path / "job")


@pytest.fixture(autouse=True)
def _in_turn(request):
    if "at" in request.fixturenames and request.getfixturevalue("at") != OPEN[1]:
        request.getfixturevalue("in_turn")


def stopped_with_a_transaction(job, at=OPEN[1], **options):
    life = Life(lambda: job.run(**options), STOP_AT=at)
    assert life.step(60) == "stopped", life.error
    return life


def came_through(job, life=None):
    life = life or Life(job.run)
    assert life.wait(120) == "done", life.error
    job.check()


@no_survivors()
@pytest.mark.parametrize("at", OPEN)
def test_the_broker_is_stopped_while_a_transaction_is_open(kafka, job, at):
    """Kind (K5, K11): a commit that times out here and succeeds there; an abort after it would contradict it."""
    life = stopped_with_a_transaction(job, at)
    os.kill(kafka.pid, signal.SIGSTOP)
    try:
        life.wake()
        assert life.step(4) is None, life.error
    finally:
        os.kill(kafka.pid, signal.SIGCONT)
    came_through(job, life)


@no_survivors()
@pytest.mark.parametrize("at", OPEN)
def test_the_broker_is_killed_while_a_transaction_is_open(kafka, job, at):
    """Kind (K13): nobody answers for a while, and then the transaction may be there or not."""
    life = stopped_with_a_transaction(job, at)
    kafka.kill()
    life.wake()
    assert life.step(1) is None, life.error
    kafka.start()
    came_through(job, life)


@no_survivors()
@pytest.mark.parametrize("at", OPEN)
def test_job_and_broker_are_killed_together(kafka, job, at):
    """Kind (K6): the next run meets a transaction in any state."""
    stopped_with_a_transaction(job, at).kill()
    kafka.kill()
    kafka.start()
    came_through(job)


@no_survivors()
@pytest.mark.parametrize("at", SHORTLY_OPEN)
def test_a_transaction_that_times_out_is_sent_again(job, at):
    """Kind (K7): its own timeout looks to a producer as if it had been replaced."""
    life = stopped_with_a_transaction(job, at, **SHORT)
    time.sleep(OVER_S)
    life.wake()
    came_through(job, life)


@no_survivors()
@pytest.mark.parametrize("at", SHORTLY_OPEN)
def test_a_job_that_is_down_for_longer_than_a_transaction_may_last(job, at):
    """Kind: output that was decided and lies in a transaction which the broker has aborted meanwhile."""
    stopped_with_a_transaction(job, at, **SHORT).kill()
    time.sleep(OVER_S)
    came_through(job)


@no_survivors()
@pytest.mark.parametrize("at", OPEN)
def test_somebody_else_takes_the_transactional_id(kafka, job, at):
    """Kind (K8): a producer that is no run of the job fences it; the marker says that the job is not replaced."""
    life = stopped_with_a_transaction(job, at)
    stranger = topics.producer(kafka.bootstrap, transactional_id_of(job.name, "out-0", 0))
    stranger.init_transactions(30)
    life.wake()
    came_through(job, life)


@no_survivors()
def test_several_sinks_are_each_exact(kafka, tmp_path):
    """Kind: one sink's transaction is committed, another's is not, when the job is killed."""
    job = Job.make(kafka.bootstrap, tmp_path / "job", topics_=3)
    for nth in (5, 7):
        assert Life(job.run, CRASH_AT=f"kafka.pre_commit:{nth}").wait() in ("killed", "done")
    came_through(job)


def test_two_jobs_write_to_one_topic(kafka, tmp_path):
    """Kind: a job that takes the other one's markers or transactions for its own."""
    one = Job.make(kafka.bootstrap, tmp_path / "one")
    two = Job.make(kafka.bootstrap, tmp_path / "two", topic=one.topic())
    for each in (one, two):
        assert Life(each.run, CRASH_AT="kafka.pre_commit:3").wait() == "killed"
    for each in (two, one):
        life = Life(each.run)
        assert life.wait() == "done", life.error
    shown = one.shown()
    assert sorted(shown) == sorted(2 * list(set(shown)))
    assert len(shown) == 2 * one.rows


def test_a_broker_that_is_gone_for_good(kafka, tmp_path):
    """Kind: a job that hangs, or ends as if all were well."""
    job = Job.make("127.0.0.1:1", tmp_path / "job", timeout_s=1)
    life = Life(job.run)
    assert life.wait() == "SinkError"
    assert "127.0.0.1:1" in life.error


@no_survivors()
def test_a_broker_that_is_away_is_told(monkeypatch, kafka):
    """Kind: a job that stands still without a word."""

    sink = KafkaSink(kafka.bootstrap, topics.name("told"), partitions=1)
    # Of one request, so long a client waits by itself.
    monkeypatch.setattr(asking, "_REQUEST_S", 0.5)
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.1)

    def tell():
        with closing(sink.open(CONTEXT)) as writer:
            writer.recover([])
            writer.write(["a"])
            output = Committable(1, writer.prepare(1, writer.seal(1)))
            with pytest.warns(SinkWaitingWarning) as told:
                writer.commit(output)
        said(told, "sink 'job/out'")

    life = Life(tell, STOP_AT="kafka.pre_commit:2")
    assert life.step(60) == "stopped", life.error
    kafka.kill()
    life.wake()
    assert life.step(1.5) is None, life.error
    kafka.start()
    assert life.wait(120) == "done", life.error
