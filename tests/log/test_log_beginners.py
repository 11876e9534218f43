"""What somebody writes who comes from Kafka, or for the first time: accepted, or told what to write."""

from __future__ import annotations

import re

import pytest

from onceflow.exceptions import ConfigurationError, TopicExistsError, UnknownTopicWarning
from onceflow.log import Consumer, Log, Producer


def advice(error):
    """The program that a message tells to write."""
    return re.search(r"Write: (.*?\))(?:\. Without|$)", str(error)).group(1)


def followed(text, directory):
    """What comes of doing it."""
    names = {"Log": Log, "Producer": Producer, "Consumer": Consumer}
    log, _, client = text.partition("; ")
    names["log"] = eval(log.partition(" = ")[2].replace("events/", str(directory)), names)
    return names["log"], eval(client, names)


def test_a_producer_with_settings(directory):
    """``Producer({...})``, the way Kafka users begin, was an AttributeError."""
    settings = {
        "bootstrap.servers": "localhost:9092",
        "transactional.id": "billing",
        "transaction.timeout.ms": 30000,
        "linger.ms": "5",
        "queue.buffering.max.kbytes": 1024,
        "enable.idempotence": True,
    }
    with pytest.raises(
        ConfigurationError, match=r"Without a meaning here: bootstrap\.servers, enable\.idempotence"
    ) as told:
        Producer(settings)
    assert "transaction_timeout_ms=30000, linger_s=0.005, max_buffered_bytes=1048576" in str(told.value)
    log, producer = followed(advice(told.value), directory)
    assert producer.transactional_id == "billing"
    log.close()


def test_a_consumer_with_settings(directory):
    """The same of ``Consumer({...})``."""
    settings = {
        "bootstrap.servers": "localhost:9092",
        "group.id": "readers",
        "auto.offset.reset": "smallest",
        "enable.auto.commit": "false",
        "session.timeout.ms": "6000",
        "partition.assignment.strategy": "cooperative-sticky",
    }
    with pytest.raises(ConfigurationError, match="there is no broker") as told:
        Consumer(settings)
    log, consumer = followed(advice(told.value), directory)
    assert consumer.consumer_group_metadata().group_id == "readers"
    log.close()


@pytest.mark.parametrize("client", [Producer, Consumer])
@pytest.mark.parametrize("given", ["events/", None, 5])
def test_something_that_is_not_a_log(directory, client, given):
    """A path instead of the open log."""
    with pytest.raises(ConfigurationError, match="takes an open log") as told:
        client(given)
    log, _ = followed(advice(told.value), directory)
    log.close()


def test_names_among_topics(log):
    """``"in" in log.topics()`` was always False."""
    assert "one" in log.topics()
    assert "in" not in log.topics()
    assert log.topics()[0] not in ["one"]
    topics = log.topics()
    assert topics[0] in topics
    assert [topic.name for topic in topics] == ["four", "one"]


def test_a_topic_that_may_be_there(log):
    """A program that makes its topics can be run twice."""
    log.create_topic("four", partitions=9, exist_ok=True)
    assert log.topic("four").partitions == 4
    with pytest.raises(TopicExistsError, match="exists already"):
        log.create_topic("four")
    with pytest.raises(ConfigurationError, match="cannot be the name of a topic"):
        log.create_topic("a b", exist_ok=True)


def test_a_topic_that_nobody_has_made_is_told(log):
    """Subscribing to an unknown topic was silent."""
    with Consumer(log, "readers") as consumer:
        consumer.subscribe(["won", "one", "six"])
        with pytest.warns(UnknownTopicWarning) as told:
            consumer.poll(0)
        assert [str(each.message).split(" in ")[0] for each in told] == [
            "there is no topic 'six'",
            "there is no topic 'won'",
        ]
        assert "Did you mean 'one'?" in str(told[1].message)
        # Once, and read from when it comes.
        log.create_topic("six")
        with Producer(log) as producer:
            producer.produce("six", b"x")
        assert consumer.poll(10).value() == b"x"


@pytest.mark.parametrize(
    ("client", "setting", "given"),
    [
        *((Producer, name, given) for name in ("linger_s", "max_block_s", "delivery_timeout_s") for given in (-1, "1")),
        (Producer, "linger_s", float("nan")),
        *((Producer, "max_buffered_records", given) for given in (0, -1, 1.5, "1", True, None, 2**70)),
        *((Producer, "transaction_timeout_ms", given) for given in (0, -1, "60000", 2**70)),
        (Producer, "transactional_id", 5),
        *((Consumer, name, -1) for name in ("session_timeout_ms", "max_poll_interval_ms", "fetch_max_bytes")),
        *((Consumer, "session_timeout_ms", given) for given in ("6000", 2**70, True, 0.5)),
        (Consumer, "group_id", b"readers"),
        (Consumer, "enable_auto_commit", "false"),
        (Consumer, "auto_offset_reset", "first"),
        (Consumer, "isolation_level", None),
    ],
)
def test_settings_that_cannot_be(log, client, setting, given):
    """Settings of another type, or out of range, gave untyped errors."""
    with pytest.raises(ConfigurationError, match=setting):
        client(log, **{setting: given})


@pytest.mark.parametrize("given", [0, -1, "10", float("nan"), True])
def test_an_upkeep_that_cannot_be(directory, given):
    """The same of the log itself, and nothing is made."""
    with pytest.raises(ConfigurationError, match="upkeep_interval_s"):
        Log.open(directory, upkeep_interval_s=given)
    assert not directory.exists()


def test_as_long_as_it_takes(log):
    """An infinite duration is one: it was an OverflowError of a thread, in the background or not."""
    forever = float("inf")
    told = []
    with Producer(log, linger_s=forever, max_block_s=forever, delivery_timeout_s=forever) as producer:
        producer.produce("one", b"x", on_delivery=lambda *report: told.append(report))
        assert producer.flush(timeout=forever) == 0
        producer.produce("one", b"y", on_delivery=lambda *report: told.append(report))
        producer.flush(timeout=5)
        assert producer.poll(forever) == 0
    assert len(told) == 2
    with Consumer(log, "readers") as consumer:
        consumer.subscribe(["one"])
        assert [message.value() for message in consumer.consume(2, timeout=forever)] == [b"x", b"y"]
