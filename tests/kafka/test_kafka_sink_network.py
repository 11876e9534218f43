"""A job that writes to Kafka through a network that cuts connections and delivers late."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

import pytest
import topics
from counting_kafka import Job
from lives import Life, no_survivors
from services.kafka import KafkaBroker
from services.process import ServerUnavailableError
from services.proxy import Proxy

from onceflow.connectors.kafka.facts import Admin
from onceflow.connectors.kafka.settings import KafkaSettings
from onceflow.connectors.kafka.topic import Bounds, Topic

pytestmark = pytest.mark.usefixtures("crash_points", "eager")

#: Of the requests that a producer sends.
_END_TXN = 26


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A broker, and a proxy through which clients reach it that ask there."""
    with Proxy() as proxy:
        try:
            broker = KafkaBroker(tmp_path_factory.mktemp("proxied"), proxy_port=proxy.port)
        except ServerUnavailableError as error:
            pytest.skip(str(error))
        with broker:
            proxy.target = broker.behind_proxy
            yield broker, proxy


def through(proxy, job):
    """The same job, on the other side of the proxy."""
    return replace(job, bootstrap=f"127.0.0.1:{proxy.port}")


def test_connections_are_cut_at_random_bytes(proxied, tmp_path):
    """Kind: an answer that is lost, a request that arrives in half, at any byte of any conversation."""
    broker, proxy = proxied
    proxy.cut(random.Random(7), 2_000, 20_000)
    try:
        for number in range(3):
            job = Job.make(broker.bootstrap, tmp_path / str(number), config={"reconnect.backoff.max.ms": 200})
            life = Life(through(proxy, job).run)
            assert life.wait(120) == "done", life.error
            job.check()
    finally:
        proxy.heal()
    assert proxy.cuts > 5


def test_offsets_that_are_asked_for_are_never_made_up(proxied):
    """Kind: the client answers a question whose connection was lost by an offset of its own, without an error: markers
    seem to be gone, a topic to be empty."""
    broker, proxy = proxied
    topic = topics.name("asked")
    topics.create(broker.bootstrap, topic)
    producer = topics.producer(broker.bootstrap, None)
    for _ in range(3):
        producer.produce(topic, b"x")
    assert producer.flush(30) == 0
    settings = KafkaSettings(f"127.0.0.1:{proxy.port}", {"reconnect.backoff.max.ms": 100})
    before = proxy.cuts
    proxy.cut(random.Random(3), 100, 2_500)
    try:
        admin, asked = Admin(settings, 60), Topic(settings, topic, 60)
        for _ in range(60):
            assert admin.ends(topic, [0], committed=True) == {0: 3}
            assert asked.bounds([0]) == {0: Bounds(0, 3, 3)}
    finally:
        proxy.heal()
    assert proxy.cuts > before + 5


@no_survivors()
def test_an_end_of_a_transaction_that_arrives_late(proxied, tmp_path):
    """Kind: the request to commit one transaction arrives within the next one of the same id, and would end it."""
    broker, proxy = proxied
    job = Job.make(broker.bootstrap, tmp_path / "job", timeout_s=4)
    life = Life(through(proxy, job).run, STOP_AT="kafka.pre_commit:3")
    assert life.step(60) == "stopped", life.error
    ends = 0
    next_is_open, delivered = threading.Event(), threading.Event()

    def before(message):
        nonlocal ends
        if int.from_bytes(message[4:6], "big") != _END_TXN:
            return
        ends += 1
        if ends == 1:
            # Until the producer is given up, and another one has sent all of it again.
            assert next_is_open.wait(60)
            delivered.set()
        elif ends == 2:
            next_is_open.set()
            assert delivered.wait(60)
            time.sleep(0.3)

    proxy.before = before
    try:
        life.wake()
        assert life.wait(120) == "done", life.error
    finally:
        proxy.before = None
        next_is_open.set()
    assert delivered.is_set()
    job.check()
