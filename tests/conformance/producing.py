"""Small programs with a producer, each for either world; what they return is compared."""

from __future__ import annotations

import time
from typing import Any

from worlds import World, flags

__all__ = ["PROGRAMS"]


class Reports:
    """A delivery callback that notes what it is called with."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def __call__(self, error: Any, message: Any) -> None:
        assert (message.error() is None) == (error is None)
        what = None if error is None else error.code()
        self.events.append((what, message.value(), message.offset()))


def _read(world: World, topic: str, count: int, **settings: Any) -> list[Any]:
    """So many records from the beginning of partition 0, and whatever comes behind them soon."""
    consumer = world.consumer(isolation_level="read_committed", **settings)
    consumer.assign([world.place(topic, 0, 0)])
    found: list[Any] = []
    until = time.monotonic() + 30
    while len(found) < count and time.monotonic() < until:
        found += consumer.consume(100, 0.3)
    found += consumer.consume(100, 0.3)
    return found


def reports(world: World) -> object:
    """Order of reports, what they hold, and what flush, poll and len say of them."""
    topic, producer, told = world.topic(2), world.producer(), Reports()
    held: list[object] = []

    def noted(error: Any, message: Any) -> None:
        held.append(
            (message.topic() == topic, message.partition(), message.key(), message.timestamp()[0], len(message))
        )
        told(error, message)

    for number in range(3):
        producer.produce(topic, b"v%d" % number, b"k", 1, on_delivery=noted)
    before = len(producer), bool(producer)
    return before, producer.flush(), producer.poll(0), len(producer), told.events, held


def reports_by_poll(world: World) -> object:
    """Poll says whether it has called any, for both names of the argument; Kafka's counts events of several reports."""
    topic, producer, told = world.topic(), world.producer(), Reports()
    producer.produce(topic, b"a", callback=told)
    producer.produce(topic, b"b", on_delivery=told)
    served, until = [], time.monotonic() + 30
    while len(producer) and time.monotonic() < until:
        served.append(producer.poll(30) > 0)
    return all(served), told.events, producer.poll(0), len(producer)


def records(world: World) -> object:
    """What a reader gets: null keys and values, strings, headers in all forms, timestamps and their type."""
    topic, producer = world.topic(), world.producer()
    producer.produce(topic)
    producer.produce(topic, "text", "key", timestamp=1_700_000_000_123)
    producer.produce(topic, b"", b"", headers={"a": b"b", "c": None, "d": "text"})
    producer.produce(topic, b"x", headers=[("a", b"1"), ("a", b"2")])
    producer.flush()
    found = _read(world, topic, 4)
    assert abs(found[0].timestamp()[1] / 1000 - time.time()) < 60
    return [
        (each.key(), each.value(), each.headers(), each.timestamp()[0], each.offset(), each.error()) for each in found
    ] + [found[1].timestamp(), found[0].latency()]


def refused(world: World) -> object:
    """Records that cannot be written, and what else was produced."""
    topic, producer, told = world.topic(), world.producer(), Reports()
    # Until it knows its topic, Kafka's producer takes and reports what it refuses afterwards.
    producer.produce(topic, b"before", callback=told)
    producer.flush(30)
    errors = [
        world.caught(lambda: producer.produce(topic, b"x" * 2_000_000, callback=told)),
        world.caught(lambda: producer.produce(topic, b"x", partition=7, callback=told)),
    ]
    producer.produce(topic, b"good", callback=told)
    return errors, producer.flush(30), told.events


def batches(world: World) -> object:
    """How many records of a batch were taken, which were not, and whose callback is called."""
    topic, producer, told = world.topic(2), world.producer(), Reports()
    messages: list[dict[str, Any]] = [
        {"value": b"a", "key": b"k", "partition": 1},
        {"value": b"x" * 2_000_000},
        {"value": b"c", "callback": lambda error, message: told.events.append("own")},
    ]
    taken = producer.produce_batch(topic, messages, partition=0, on_delivery=told)
    return (
        taken,
        [each["_error"].code() if "_error" in each else None for each in messages],
        producer.flush(),
        sorted(map(str, told.events)),
    )


def purged(world: World) -> object:
    """Records that wait are forgotten, each is told, and what comes after them is written."""
    topic, producer, told = world.topic(), world.producer(linger_ms=60_000), Reports()
    for number in range(3):
        producer.produce(topic, b"%d" % number, callback=told)
    producer.purge()
    producer.poll(1)
    left = len(producer)
    producer.produce(topic, b"after", callback=told)
    producer.flush()
    return left, told.events, [each.value() for each in _read(world, topic, 1)]


def topics(world: World) -> object:
    """What a client says of topics, one of which does not exist."""
    topic, found = world.topic(3), []
    for client in (world.producer(), world.consumer()):
        # Of its own: a broker makes it of being asked.
        missing = world.name("missing")
        known = client.list_topics(topic, 30)
        unknown = client.list_topics(missing, timeout=30).topics[missing]
        found.append(
            (
                list(known.topics) == [topic],
                known.topics[topic].topic == topic,
                sorted(known.topics[topic].partitions),
                [each.id for each in known.topics[topic].partitions.values()],
                known.topics[topic].error,
                topic in client.list_topics().topics,
                unknown.error.code(),
                unknown.partitions,
                isinstance(client.cluster_id(30), str),
                known.cluster_id == client.cluster_id(),
            )
        )
    return found


def reports_before_a_commit(world: World) -> object:
    """A program that waits for its reports before it commits, by flush or by poll: nothing is visible before."""
    topic, producer, told = world.topic(), world.producer(world.name("tx")), Reports()
    producer.init_transactions()
    producer.begin_transaction()
    for number in range(3):
        producer.produce(topic, b"%d" % number, callback=told)
    left = producer.flush()
    producer.produce(topic, b"3", callback=told)
    until = time.monotonic() + 30
    while len(producer) and time.monotonic() < until:
        producer.poll(0.1)
    early = [(error, value) for error, value, _ in told.events]
    visible = [each.value() for each in _read(world, topic, 0)]
    producer.commit_transaction()
    return left, len(producer), early, visible, [each.value() for each in _read(world, topic, 4)], len(told.events)


def reports_of_a_commit(world: World) -> object:
    """Who does not wait gets the reports, with offsets, within the commit."""
    topic, producer, told = world.topic(), world.producer(world.name("tx")), Reports()
    producer.init_transactions()
    producer.begin_transaction()
    for number in range(3):
        producer.produce(topic, b"%d" % number, callback=told)
    producer.commit_transaction()
    return told.events, len(producer)


def aborted(world: World) -> object:
    """What had its report keeps it, what had none is told; and nothing is visible."""
    topic, producer, told = world.topic(), world.producer(world.name("tx"), linger_ms=5_000), Reports()
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b"flushed", callback=told)
    producer.flush()
    producer.produce(topic, b"waiting", callback=told)
    producer.abort_transaction()
    producer.begin_transaction()
    producer.produce(topic, b"next")
    producer.commit_transaction()
    return [(error, value) for error, value, _ in told.events], [each.value() for each in _read(world, topic, 1)]


def calls_out_of_order(world: World) -> object:
    """Flags and codes of calls that the state of a transaction does not allow, and that it goes on after them."""
    topic, producer = world.topic(), world.producer(world.name("tx"))
    offsets = [world.place(topic, 0, 1)]
    group = world.consumer().consumer_group_metadata()
    found = [
        world.caught(producer.begin_transaction),
        world.caught(lambda: producer.produce(topic, b"x")),
    ]
    producer.init_transactions()
    found += [
        world.caught(producer.commit_transaction),
        world.caught(producer.abort_transaction),
        world.caught(lambda: producer.produce(topic, b"x")),
        world.caught(lambda: producer.send_offsets_to_transaction(offsets, group)),
    ]
    producer.begin_transaction()
    found.append(world.caught(producer.begin_transaction))
    found.append(world.caught(lambda: producer.produce(topic, b"x" * 2_000_000)))
    producer.produce(topic, b"taken")
    producer.commit_transaction(30)
    return found, [each.value() for each in _read(world, topic, 1)]


def fenced(world: World) -> object:
    """Every call of a producer that was replaced."""
    topic, identity = world.topic(), world.name("tx")
    producer = world.producer(identity)
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b"old")
    producer.flush()
    newer = world.producer(identity)
    newer.init_transactions()
    found = [world.caught(call) for call in (producer.commit_transaction, producer.abort_transaction)]
    found.append(world.caught(producer.begin_transaction))
    with_newer = world.caught(newer.begin_transaction)
    newer.produce(topic, b"new")
    newer.commit_transaction()
    return found, with_newer, [each.value() for each in _read(world, topic, 1)]


def timed_out(world: World) -> object:
    """A transaction that was open for too long."""
    topic = world.topic()
    producer = world.producer(world.name("tx"), transaction_timeout_ms=1_000)
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b"late")
    producer.flush()
    time.sleep(3.5)
    found = [world.caught(call) for call in (producer.commit_transaction, producer.begin_transaction)]
    return found, [each.value() for each in _read(world, topic, 0)]


def offsets_in_a_transaction(world: World) -> object:
    """Committed with it, or not at all."""
    topic, group = world.topic(), world.name("group")
    world.fill(topic, 3)
    producer, consumer = world.producer(world.name("tx")), world.consumer(group)
    producer.init_transactions()
    consumer.subscribe([topic])
    taken = [consumer.poll(30).offset() for _ in range(2)]
    found = []
    for end in (producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30
        )
        end()
        found.append(consumer.committed(consumer.assignment(), timeout=30)[0].offset)
    return taken, found


def offsets_of_a_lost_member(world: World) -> object:
    """A member that did not poll for too long has nothing to commit any more, in a transaction or without."""
    topic = world.topic()
    world.fill(topic, 2)
    consumer = world.consumer(session_timeout_ms=1_000, max_poll_interval_ms=1_000)
    consumer.subscribe([topic])
    message = consumer.poll(30)
    time.sleep(2.2)
    refused = world.caught(lambda: consumer.commit(message, asynchronous=False))
    consumer.close()
    return refused


def closed(world: World) -> object:
    """A client that was closed."""
    topic, found = world.topic(), []
    producer, consumer = world.producer(), world.consumer()
    producer.close()
    consumer.close()
    calls = (
        lambda: producer.produce(topic, b"x"),
        lambda: consumer.poll(0),
        lambda: consumer.assign([world.place(topic)]),
        lambda: consumer.commit(asynchronous=False),
    )
    for call in calls:
        try:
            call()
        except RuntimeError:
            found.append("RuntimeError")
        except world.error as error:
            found.append(flags(error))
    return found


PROGRAMS = (
    reports,
    reports_by_poll,
    records,
    refused,
    batches,
    purged,
    topics,
    reports_before_a_commit,
    reports_of_a_commit,
    aborted,
    calls_out_of_order,
    fenced,
    timed_out,
    offsets_in_a_transaction,
    offsets_of_a_lost_member,
    closed,
)
