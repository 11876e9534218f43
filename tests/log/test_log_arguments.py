"""Arguments of calls that cannot be: a typed error that names call and argument and says what to give. They were bare
TypeErrors and AttributeErrors from within, or were found out later."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onceflow.exceptions import ConfigurationError, OnceflowError, TypeMismatchError
from onceflow.log import Consumer, Log, Producer, TopicPartition

NO_PARTITIONS = [None, 5, 1.5, "t", b"t", [None], [5], ["t"], [("t", 0)], {"t": 0}, [[]], TopicPartition("t", 0)]
NO_TIMES = ["x", b"1", [], {}, True, float("nan"), 2**64, 10**400]


@pytest.mark.parametrize("given", NO_PARTITIONS, ids=repr)
@pytest.mark.parametrize(
    "method", ["assign", "pause", "resume", "position", "committed", "offsets_for_times", "subscribe", "commit"]
)
def test_what_is_no_list_of_partitions_is_refused(log, method, given):
    with Consumer(log, "g") as consumer:
        if method == "subscribe" and given in ("t", ["t"], {"t": 0}):
            consumer.subscribe(given)
            return
        if method == "commit" and given is None:
            return
        name = "topics" if method == "subscribe" else "message" if method == "commit" else "partitions"
        with pytest.raises(ConfigurationError, match=f"{method}: {name} .*give "):
            getattr(consumer, method)(given)
        if method == "commit":
            with pytest.raises(ConfigurationError, match=r"commit: offsets .*give "):
                consumer.commit(offsets=given)
        assert not consumer.assignment()


@pytest.mark.parametrize("given", [None, 5, "t", [TopicPartition("t", 0)], ("t", 0)], ids=repr)
@pytest.mark.parametrize("method", ["seek", "get_watermark_offsets"])
def test_what_is_no_partition_is_refused(log, method, given):
    with Consumer(log, "g") as consumer, pytest.raises(ConfigurationError, match=f"{method}: partition is .*give "):
        getattr(consumer, method)(given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("topic", given) for given in (None, 5, b"t", [])),
        *(("partition", given) for given in (None, "0", 1.0, True, [])),
        *(("offset", given) for given in (None, "0", 1.0, True, [], float("nan"))),
        *(("metadata", given) for given in (None, 5, b"m")),
    ],
)
def test_a_partition_that_cannot_be_is_refused_when_it_is_made(name, given):
    with pytest.raises(ConfigurationError, match=f"TopicPartition: {name} is {re.escape(repr(given))}; give"):
        TopicPartition(**{"topic": "t", "partition": 0, name: given})


def test_numbers_of_numpy_are_numbers(log):
    log.create_topic("five", partitions=np.int64(5))
    assert log.topic("five").partitions == 5
    with Producer(log) as producer, Consumer(log, "g") as consumer:
        producer.produce("five", b"1", partition=np.int64(3))
        producer.flush(np.float64(60))
        consumer.assign([TopicPartition("five", np.int64(3), np.int64(0))])
        message = consumer.poll(np.int64(60))
        assert (message.value(), message.partition()) == (b"1", 3)
        assert [(each.place, each.offset) for each in consumer.commit()] == [(("five", 3), 1)]


@pytest.mark.parametrize("given", NO_TIMES, ids=repr)
def test_times_to_wait_that_cannot_be_are_refused(log, given):
    with Consumer(log) as consumer, Producer(log) as producer, Producer(log, transactional_id="t") as transactional:
        consumer.assign([TopicPartition("one", 0)])
        for call in (consumer.poll, consumer.consume, consumer.consume_batch, producer.poll, producer.flush):
            with pytest.raises(ConfigurationError, match=f"{call.__name__}: timeout is .*seconds"):
                call(timeout=given)
        # They are refused before anything has happened: what was taken is still there.
        producer.produce("one", b"1")
        with pytest.raises(ConfigurationError, match="close: timeout"):
            producer.close(given)
        with pytest.raises(ConfigurationError, match="init_transactions: timeout"):
            transactional.init_transactions(given)
        transactional.init_transactions()
        transactional.begin_transaction()
        reports = []
        transactional.produce("one", b"2", on_delivery=lambda error, message: reports.append(error))
        for call in (transactional.commit_transaction, transactional.abort_transaction):
            with pytest.raises(ConfigurationError, match=f"{call.__name__}: timeout"):
                call(given)
        transactional.commit_transaction()
        assert reports == [None]
        assert producer.flush(None) == 0
        with pytest.raises(ConfigurationError, match="poll: timeout is None"):
            producer.poll(None)
        assert len(consumer.consume(10, timeout=60)) == 2


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        *(("topic", given) for given in (None, 5, b"one", [], {})),
        *(("partition", given) for given in (None, "0", 1.0, True, [])),
        *(("on_delivery", given) for given in (5, 0, "print", [])),
    ],
)
def test_arguments_of_produce_that_cannot_be_are_refused(log, producer, argument, given):
    with pytest.raises(ConfigurationError, match=f"produce: {argument} is {re.escape(repr(given))}; give"):
        producer.produce(**{"topic": "one", "value": b"1", argument: given})
    producer.flush()
    assert log.partition("one", 0).end == 0


@pytest.mark.parametrize("argument", ["value", "key"])
def test_text_that_cannot_be_utf_8_is_refused(log, producer, argument):
    with pytest.raises(TypeMismatchError, match=f"{argument} cannot be UTF-8"):
        producer.produce("one", **{argument: "\ud800"})
    with pytest.raises(TypeMismatchError, match="produce_many"):
        producer.produce_many("one", **{"values": [b"1"], argument + "s": ["\ud800"]})
    with pytest.raises(TypeMismatchError):
        producer.produce("one", b"1", headers={"name": "\ud800"})
    producer.flush()
    assert log.partition("one", 0).end == 0


@pytest.mark.parametrize("given", [5, 1.5, True, object(), len])
@pytest.mark.parametrize("argument", ["values", "keys", "headers"])
def test_columns_of_produce_many_that_cannot_be_are_refused(log, producer, argument, given):
    with pytest.raises(TypeMismatchError, match=f"produce_many: {argument} is "):
        producer.produce_many("one", **{"values": [b"1"], argument: given})
    assert log.partition("one", 0).end == 0


@pytest.mark.parametrize("given", [5, 0, "now", object(), [1], len])
def test_what_is_no_clock_or_function_is_refused(directory, log, given):
    for make in (Producer, Consumer):
        with pytest.raises(ConfigurationError, match=r"clock is .*give a Clock"):
            make(log, clock=given)
    with pytest.raises(ConfigurationError, match=r"clock is .*give a Clock"):
        Log.open(directory, clock=given)
    if not callable(given):
        with pytest.raises(ConfigurationError, match=r"on_commit is .*give a function"):
            Consumer(log, "g", on_commit=given)
        with Consumer(log, "g") as consumer:
            for name in ("on_assign", "on_revoke", "on_lost"):
                with pytest.raises(ConfigurationError, match=f"subscribe: {name} is .*give a function"):
                    consumer.subscribe(["one"], **{name: given})


@pytest.mark.parametrize("given", [None, 5, "t", [None], [("t", 0)]], ids=repr)
def test_positions_of_a_transaction_that_cannot_be_are_refused(transactional, given):
    transactional.begin_transaction()
    with pytest.raises(ConfigurationError, match="send_offsets_to_transaction: positions"):
        transactional.send_offsets_to_transaction(given, group_id="g")
    with pytest.raises(OnceflowError, match="group_metadata is 5"):
        transactional.send_offsets_to_transaction([TopicPartition("one", 0, 1)], 5)
