"""Small programs with consumers, each for either world; what they return is compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from worlds import World, flags

__all__ = ["PROGRAMS"]

FIRST_MS = 1_700_000_000_000


def _offsets(partitions: Any) -> list[int]:
    return [each.offset for each in partitions]


def _polled(consumer: Any, count: int) -> list[int]:
    return [consumer.poll(30).offset() for _ in range(count)]


def _until(world: World, done: Callable[[], bool], *consumers: Any) -> None:
    """Polls them until something is so."""
    until = time.monotonic() + 120
    while not done():
        assert time.monotonic() < until
        for consumer in consumers:
            consumer.poll(0.05)


def _subscribe(consumer: Any, topics: list[str], events: list[object], name: str = "", what: Any = len) -> None:
    """Notes what comes and goes, but for nothing at all."""

    def note(event: str) -> Callable[[Any, Any], None]:
        def noted(who: Any, partitions: Any) -> None:
            assert who is consumer
            if partitions:
                events.append((name + event, what(partitions)))

        return noted

    consumer.subscribe(topics, on_assign=note("assigned"), on_revoke=note("revoked"), on_lost=note("lost"))


def positions(world: World) -> object:
    """Positions and assignment as records are read, one by one and many at once."""
    topic, consumer = world.topic(), world.consumer()
    world.fill(topic, 10)
    consumer.assign([world.place(topic, 0, 2)])
    place = [world.place(topic)]
    found: list[object] = [consumer.assignment() == place]
    found.append((_polled(consumer, 2), _offsets(consumer.position(place))))
    taken = consumer.consume(num_messages=3, timeout=30)
    while len(taken) < 3:
        taken += consumer.consume(3 - len(taken), 30)
    found.append(([each.offset() for each in taken], _offsets(consumer.position(place))))
    found.append(_offsets(consumer.position([world.place(topic, 0, 99)])))
    consumer.unassign()
    found.append((consumer.assignment(), consumer.poll(0.1), consumer.consume(5, 0.1)))
    return found


def beginnings(world: World) -> object:
    """The offsets that mean something, in assign and seek."""
    topic, group = world.topic(), world.name("group")
    world.fill(topic, 5)
    first = world.consumer(group)
    first.assign([world.place(topic, 0, world.api.OFFSET_BEGINNING)])
    found = [_polled(first, 1)]
    first.commit(offsets=[world.place(topic, 0, 3)], asynchronous=False)
    for offset in (world.api.OFFSET_STORED, world.api.OFFSET_INVALID, 1, world.api.OFFSET_BEGINNING):
        first.assign([world.place(topic, 0, offset)])
        found.append(_polled(first, 1))
    first.assign([world.place(topic, 0, world.api.OFFSET_END)])
    found.append([first.poll(1.0)])
    # Where the end is has been asked for, and may be answered late: what comes before that is not read.
    while (record := first.poll(1.0)) is None:
        world.fill(topic, 1)
    found.append(record.offset() >= 5)
    latest = world.consumer(auto_offset_reset="latest")
    latest.assign([world.place(topic)])
    found.append([latest.poll(1.0)])
    return found


def seeks_and_pauses(world: World) -> object:
    """A partition that is paused, resumed, sought; another goes on."""
    topic, consumer = world.topic(2), world.consumer()
    world.fill(topic, 5)
    world.fill(topic, 5, partition=1)
    consumer.assign([world.place(topic, 0, 0)])
    found: list[object] = [_polled(consumer, 2)]
    consumer.seek(world.place(topic, 0, 4))
    found.append(_polled(consumer, 1))
    consumer.seek(world.place(topic, 0, world.api.OFFSET_BEGINNING))
    found.append(_polled(consumer, 2))
    consumer.pause([world.place(topic)])
    found.append(consumer.poll(0.3))
    consumer.incremental_assign([world.place(topic, 1, 3)])
    taken = [consumer.poll(30) for _ in range(2)]
    found.append(([(each.partition(), each.offset()) for each in taken], consumer.poll(0.3)))
    consumer.resume([world.place(topic)])
    found.append(_polled(consumer, 3))
    return found


def incremental(world: World) -> object:
    """Partitions are added and taken away; those that are there twice, or not at all, are refused."""
    topic, consumer = world.topic(3), world.consumer()
    for partition in range(3):
        world.fill(topic, 2, partition)
    consumer.assign([world.place(topic, 0)])
    consumer.incremental_assign([world.place(topic, 1, 1), world.place(topic, 2)])
    taken = [consumer.poll(30) for _ in range(5)]
    found: list[object] = [sorted((each.partition(), each.offset()) for each in taken)]
    again = world.caught(lambda: consumer.incremental_assign([world.place(topic, 1)]))
    consumer.incremental_unassign([world.place(topic, 0)])
    missing = world.caught(lambda: consumer.incremental_unassign([world.place(topic, 0)]))
    found.append(([each is not None for each in (again, missing)], len(consumer.assignment())))
    return found


def commits(world: World) -> object:
    """Commits of a message, of offsets with a text, of what was read; in the background, with the callback."""
    told: list[object] = []
    topic = world.topic()
    world.fill(topic, 5)
    consumer = world.consumer(on_commit=lambda error, offsets: told.append((error, _offsets(offsets))))
    place = [world.place(topic)]
    consumer.assign(place)
    found: list[object] = [_offsets(consumer.committed(place, 30))]
    message = consumer.poll(30)
    found.append(_offsets(consumer.commit(message, asynchronous=False)))
    found.append(_offsets(consumer.committed(place, timeout=30)))
    consumer.commit(offsets=[world.place(topic, 0, 4, "note")], asynchronous=False)
    found.append([(each.offset, each.metadata, each.error) for each in consumer.committed(place)])
    found.append(_polled(consumer, 4))
    found.append(_offsets(consumer.commit(asynchronous=False)))
    consumer.commit(offsets=[world.place(topic, 0, 2)], asynchronous=True)
    _until(world, lambda: bool(told) and told[-1] == (None, [2]), consumer)
    found.append(_offsets(consumer.committed(place)))
    return found


def stored_offsets(world: World) -> object:
    """What is noted is committed, and nothing else, whatever was read."""
    topic, consumer = world.topic(), world.consumer(enable_auto_offset_store=False)
    world.fill(topic, 5)
    place = [world.place(topic)]
    consumer.assign(place)
    message = consumer.poll(30)
    consumer.poll(30)
    consumer.store_offsets(message)
    found: list[object] = [_offsets(consumer.commit(asynchronous=False))]
    consumer.store_offsets(offsets=[world.place(topic, 0, 4)])
    found.append((_offsets(consumer.commit(asynchronous=False)), _offsets(consumer.committed(place))))
    found.append(world.caught(lambda: consumer.store_offsets(offsets=[world.place(topic, 1, 1)])) is not None)
    noting = world.consumer()
    noting.assign(place)
    found.append(world.caught(lambda: noting.store_offsets(offsets=[world.place(topic, 0, 1)])))
    return found


def stored_offsets_by_themselves(world: World) -> object:
    """What is noted is also what is committed automatically: by close, too."""
    topic, group = world.topic(), world.name("group")
    world.fill(topic, 5)
    consumer = world.consumer(group, enable_auto_offset_store=False, enable_auto_commit=True)
    consumer.subscribe([topic])
    message = consumer.poll(30)
    _polled(consumer, 2)
    consumer.store_offsets(message)
    consumer.close()
    return _offsets(world.consumer(group).committed([world.place(topic)], 30))


def watermarks_and_times(world: World) -> object:
    """Ends of partitions, also from the cache, and offsets of times: of a record, between two, behind all."""
    topic, consumer = world.topic(2), world.consumer()
    world.fill(topic, 5, first_ms=FIRST_MS)
    consumer.assign([world.place(topic, 0, 0)])
    _polled(consumer, 5)
    place = world.place(topic)
    found: list[object] = [
        consumer.get_watermark_offsets(place),
        consumer.get_watermark_offsets(place, 30),
        consumer.get_watermark_offsets(place, timeout=30, cached=True),
        consumer.get_watermark_offsets(world.place(topic, 1), 30),
    ]
    times = (0, FIRST_MS, FIRST_MS + 1, FIRST_MS + 4000, FIRST_MS + 4001)
    found += [_offsets(consumer.offsets_for_times([world.place(topic, 0, each)], timeout=30)) for each in times]
    found.append(world.caught(lambda: consumer.get_watermark_offsets(world.place(topic, 9), 30)))
    return found


def partitions_as_keys(world: World) -> object:
    """Partitions are equal, hash and sort by topic and partition alone, and can be changed."""
    first, second = world.place("t", 1, 5), world.place("t", 1, 7)
    found = [first == second, first != second, hash(first) == hash(second), len({first, second}), first < second]
    found += [world.place("t", 0, 9) < first, first in [second], sorted([first, world.place("s", 3)])[0].topic]
    first.offset = 8
    plain = world.api.TopicPartition("t")
    return found, first.offset, plain.partition, plain.offset, plain.error, plain.leader_epoch


def one_member(world: World) -> object:
    """Callbacks of one that joins, reads, unsubscribes and closes."""
    topic, consumer, events = world.topic(2), world.consumer(), []
    world.fill(topic, 1)
    found: list[object] = [consumer.memberid()]
    _subscribe(consumer, [topic], events)
    message = consumer.poll(30)
    found.append((message.value(), bool(consumer.memberid()), len(consumer.assignment())))
    consumer.unsubscribe()
    _until(world, lambda: not consumer.assignment(), consumer)
    found.append(list(events))
    _subscribe(consumer, [topic], events)
    _until(world, lambda: len(consumer.assignment()) == 2, consumer)
    consumer.close()
    return found, events


def positions_in_on_assign(world: World) -> object:
    """Offsets that a callback changes: with each of the calls that assign, and not without them."""
    topic, found = world.topic(), []
    world.fill(topic, 5)
    for strategy, call in (("cooperative", "incremental_assign"), ("range", "assign"), ("cooperative", "")):

        def came(consumer: Any, partitions: Any, call: str = call) -> None:
            for each in partitions:
                each.offset = 3
            if call:
                getattr(consumer, call)(partitions)

        settings = {"partition_assignment_strategy": "range"} if strategy == "range" else {}
        consumer = world.consumer(**settings)
        consumer.subscribe([topic], on_assign=came)
        found.append(_polled(consumer, 2))
        consumer.close()
    consumer = world.consumer()
    consumer.subscribe([topic], on_assign=lambda who, partitions: who.incremental_assign([]))
    found.append([consumer.poll(1.5), consumer.assignment()])
    return found


def calls_in_on_revoke(world: World) -> object:
    """A callback that commits, and lets go of its partitions itself."""
    topic, group, found = world.topic(), world.name("group"), []
    world.fill(topic, 5)
    consumer = world.consumer(group)

    def goes(who: Any, partitions: Any) -> None:
        found.append(_offsets(who.position(partitions)))
        who.commit(offsets=who.position(partitions), asynchronous=False)
        who.incremental_unassign(partitions)

    consumer.subscribe([topic], on_revoke=goes)
    found.append(_polled(consumer, 3))
    consumer.close()
    return found, _offsets(world.consumer(group).committed([world.place(topic)], 30))


def rebalances(world: World) -> object:
    """Two members share, and one takes over again when the other leaves."""
    topic, group, events = world.topic(4), world.name("group"), []
    first, second = world.consumer(group), world.consumer(group)
    _subscribe(first, [topic], events, "first ")
    _until(world, lambda: len(first.assignment()) == 4, first)
    _subscribe(second, [topic], events, "second ")
    _until(world, lambda: len(second.assignment()) == 2, first, second)
    places = sorted((each.topic == topic, each.partition) for each in first.assignment() + second.assignment())
    second.close()
    _until(world, lambda: len(first.assignment()) == 4, first)
    first.close()
    return events, places


def patterns(world: World) -> object:
    """A subscription by a pattern finds topics that are made later, and none that do not match."""
    base = world.name("pattern")
    names = [f"{base}-a", f"{base}-b", f"{base}-cc"]
    world.topic(name=names[0])
    world.fill(names[0], 1)
    consumer = world.consumer()
    consumer.subscribe([f"^{base}-[a-z]$"])
    found = [consumer.poll(30).topic() == names[0]]
    for name in names[1:]:
        world.topic(name=name)
        world.fill(name, 1)
    seen: set[str] = set()

    def done() -> bool:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            seen.add(message.topic())
        return names[1] in seen

    _until(world, done)
    found.append(sorted(each.topic for each in consumer.assignment()) == names[:2])
    found.append(world.caught(lambda: world.consumer().subscribe([f"^{base}("])) is not None)
    return found


def more_partitions(world: World) -> object:
    """Partitions that a topic gets while it is read are read from their beginning."""
    topic, consumer, events = world.topic(), world.consumer(), []
    _subscribe(consumer, [topic], events, what=lambda partitions: sorted(each.partition for each in partitions))
    _until(world, lambda: len(consumer.assignment()) == 1, consumer)
    world.add_partitions(topic, 2)
    world.fill(topic, 1, partition=1)
    message = None
    until = time.monotonic() + 30
    while message is None and time.monotonic() < until:
        message = consumer.poll(0.2)
    return message.partition(), message.offset(), events


def a_member_that_does_not_poll(world: World) -> object:
    """Alone in its group too, it is out of it, hears of it at its next poll, and joins again by the one after."""
    topic, events = world.topic(), []
    world.fill(topic, 2)
    consumer = world.consumer(session_timeout_ms=1_000, max_poll_interval_ms=1_000)
    _subscribe(consumer, [topic], events)
    events.append(_polled(consumer, 1))
    time.sleep(2.5)
    errors: list[object] = []
    until = time.monotonic() + 30
    while time.monotonic() < until:
        # Kafka returns it, the log raises it.
        try:
            message = consumer.poll(1.0)
        except world.error as error:
            errors.append(flags(error))
            continue
        if message is not None and message.error() is None:
            events.append(message.offset())
            break
        if message is not None:
            errors.append(flags(message.error()))
    return errors, events


PROGRAMS = (
    positions,
    beginnings,
    seeks_and_pauses,
    incremental,
    commits,
    stored_offsets,
    stored_offsets_by_themselves,
    watermarks_and_times,
    partitions_as_keys,
    one_member,
    positions_in_on_assign,
    calls_in_on_revoke,
    rebalances,
    patterns,
    more_partitions,
    a_member_that_does_not_poll,
)
