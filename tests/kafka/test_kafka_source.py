"""A topic of a real Kafka as a source: what it hands out, where it begins and ends."""

from __future__ import annotations

import json
import pickle
import time
from datetime import UTC, datetime

import pytest
from confluent_kafka import Consumer, TopicPartition
from kafka_reading import read, written
from topics import Topics

import onceflow as of
from onceflow._native import Log, LogProducer
from onceflow.checks import CheckContext
from onceflow.connectors.files import JsonLinesSink
from onceflow.connectors.kafka import KafkaSource
from onceflow.connectors.log import LogSource
from onceflow.exceptions import ConfigurationError, MalformedRecordError, SinkError
from onceflow.sources import SourceContext
from onceflow.testing import SourceContract
from onceflow.windows import Tumbling

NOW_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def topics(kafka):
    return Topics(kafka.bootstrap)


def rest(source, partition="0", position=None, until="end"):
    """What a reader hands out up to its end, and its last position."""
    reader = source.open_with_context(partition, position, SourceContext(until=until))
    found = []
    try:
        while (batch := reader.read(1000)) is not None:
            found += batch.records
        return found, reader.position()
    finally:
        reader.close()


class TestContract(SourceContract):
    """The promises of sources: control records between and behind records, malformed records, event times."""

    # What has arrived by then is a batch.
    cuts_alike = False
    topic = ""

    @pytest.fixture(autouse=True)
    def _made(self, topics):
        cls = type(self)
        cls.bootstrap = topics.bootstrap
        if not cls.topic:
            cls.topic = topics.create()
            producer = topics.producer(cls.topic)
            for first, last in ((0, 5), (5, 6), (6, 20)):
                producer.begin_transaction()
                for n in range(first, last):
                    producer.produce(cls.topic, b'{"n": %d}' % n, key=b"%d" % n, timestamp=NOW_MS + n)
                producer.commit_transaction()
                producer.begin_transaction()
                producer.produce(cls.topic, b"aborted")
                producer.flush()
                producer.abort_transaction()

    def make_source(self, directory):
        def decode(message):
            record = json.loads(message["value"])
            if record["n"] % 5 == 3:
                raise ValueError("three")
            return record["n"]

        return KafkaSource(
            self.bootstrap, self.topic, decode=decode, event_time=lambda n: NOW_MS + n, on_malformed="dead_letter"
        )


# -- the same as the embedded log ------------------------------------------------------------------


def orders():
    for n in range(300):
        yield {"n": n, "user": f"u{n % 7}", "amount": n * 3 % 11}, f"u{n % 7}".encode(), NOW_MS + n * 250


def job(source, out):
    flow = of.Dataflow("moved")
    rows = flow.source("orders", source)
    rows.key_by("user").window("spans", Tumbling(seconds=10)).aggregate(n=of.count(), total=of.sum("amount")).sink(
        "out", JsonLinesSink(out)
    )
    return flow


def test_a_job_moves_from_the_embedded_log_by_two_lines(topics, tmp_path):
    """The same records give the same results on both: only the import and the address differ."""
    name = topics.create(3)
    producer = topics.producer()
    with Log.open(tmp_path / "events") as log:
        log.create_topic(name, partitions=3)
        embedded = LogProducer(log, now_ms=NOW_MS)
        for number, (record, key, timestamp) in enumerate(orders()):
            value, place = json.dumps(record).encode(), number % 3
            producer.produce(name, value, key, partition=place, timestamp=timestamp)
            embedded.produce(name, [value], keys=[key], timestamps=[timestamp], partition=[place], now_ms=NOW_MS)
    producer.flush()
    sources = {
        "log": LogSource(tmp_path / "events", name, decode="json", event_time="timestamp"),
        "kafka": KafkaSource(topics.bootstrap, name, decode="json", event_time="timestamp"),
    }
    results = {}
    for where, source in sources.items():
        of.run(job(source, tmp_path / f"{where}-out"), state=tmp_path / where)
        results[where] = sorted(map(json.dumps, written(tmp_path / f"{where}-out")))
    assert results["kafka"] == results["log"]
    assert len(results["kafka"]) == 56


def test_messages_columns_and_values(topics):
    """What a message has must come through: null keys and values, headers, timestamps, also as columns."""
    name = topics.create()
    topics.write(name, [b"one"], key=b"k", timestamp=NOW_MS, headers=[("h", b"1"), ("h", None)])
    topics.write(name, [None], timestamp=NOW_MS + 1)
    first, second = rest(KafkaSource(topics.bootstrap, name))[0]
    assert first == {
        "partition": 0,
        "offset": 0,
        "timestamp_ms": NOW_MS,
        "key": b"k",
        "value": b"one",
        "headers": [("h", b"1"), ("h", None)],
    }
    assert second == {**first, "offset": 1, "timestamp_ms": NOW_MS + 1, "key": None, "value": None, "headers": None}
    assert rest(KafkaSource(topics.bootstrap, name, decode="value"))[0] == [b"one", None]
    reader = KafkaSource(topics.bootstrap, name, as_columns=True, event_time="timestamp").open("0", None)
    rows, times = [], []
    while (batch := reader.read(10)) is not None:
        rows += batch.records.to_rows()
        times += batch.event_times.tolist()
    reader.close()
    assert rows == [{k: v for k, v in row.items() if k != "headers"} for row in (first, second)]
    assert times == [NOW_MS * 1000, (NOW_MS + 1) * 1000]


# -- where it begins and ends ----------------------------------------------------------------------


def test_starts(topics):
    """Earliest, latest and a time, where records, and none, are there."""
    name = topics.create(2)
    for n in range(4):
        topics.write(name, [b"%d" % n], timestamp=NOW_MS + n)
    source = lambda start: KafkaSource(topics.bootstrap, name, decode="value", start=start)  # noqa: E731
    moment = datetime.fromtimestamp((NOW_MS + 2) / 1000, UTC)
    assert rest(source("earliest"))[0] == [b"0", b"1", b"2", b"3"]
    assert rest(source("latest"))[0] == []
    assert rest(source(moment))[0] == [b"2", b"3"]
    assert rest(source(moment.replace(tzinfo=None)))[0] == [b"2", b"3"]
    assert rest(source(moment.replace(year=2100)))[0] == []
    assert rest(source(moment), "1")[0] == []


def test_k02_latest_does_not_cut_a_transaction(topics):
    """Begun at the end while a transaction is open, all of it is read or nothing: not its second half."""
    name = topics.create()
    producer = topics.producer(name)
    producer.begin_transaction()
    producer.produce(name, b"first half")
    producer.flush()
    reader = KafkaSource(topics.bootstrap, name, decode="value", start="latest", stop_at_end=False).open("0", None)
    producer.produce(name, b"second half")
    producer.commit_transaction()
    found = []
    deadline = time.monotonic() + 20
    while len(found) < 2 and time.monotonic() < deadline:
        found += reader.read(10).records
    reader.close()
    assert found == [b"first half", b"second half"]


def test_k02_bounded_read_waits_for_open_transactions(topics):
    """Under read_committed the end must not be the last stable offset: what was written before, and behind an open
    transaction, would be left out without a word. A run until caught up ends there, and comes back."""
    name = topics.create()
    topics.write(name, [b"before"])
    producer = topics.producer(name)
    producer.begin_transaction()
    producer.produce(name, b"open")
    producer.flush()
    topics.write(name, [b"behind"])
    source = KafkaSource(topics.bootstrap, name, decode="value")
    found, position = rest(source, until="caught_up")
    assert found == [b"before"]
    reader = source.open("0", None)
    seen = []
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        seen += reader.read(10).records
    assert seen == [b"before"]
    topics.write(name, [b"after the reader was opened"])
    producer.commit_transaction()
    while (batch := reader.read(10)) is not None:
        seen += batch.records
    reader.close()
    assert seen == [b"before", b"open", b"behind"]
    assert rest(source, position=position)[0] == [b"open", b"behind", b"after the reader was opened"]


def test_k02_aborted_records_are_not_read(topics):
    """Read as committed nothing of an aborted transaction comes out; read as uncommitted everything does."""
    name = topics.create()
    producer = topics.producer(name)
    producer.begin_transaction()
    producer.produce(name, b"aborted")
    producer.flush()
    producer.abort_transaction()
    topics.write(name, [b"sound"])
    both = KafkaSource(topics.bootstrap, name, decode="value", isolation="read_uncommitted")
    assert rest(both)[0] == [b"aborted", b"sound"]
    assert rest(KafkaSource(topics.bootstrap, name, decode="value"))[0] == [b"sound"]


def test_k20_control_records_behind_the_last_one(topics):
    """Control records take offsets: an end must be reached by position, or a bounded read never ends."""
    name = topics.create()
    producer = topics.producer(name)
    producer.begin_transaction()
    producer.produce(name, b"one")
    producer.commit_transaction()
    found, position = rest(KafkaSource(topics.bootstrap, name, decode="value"))
    assert found == [b"one"]
    assert position["offset"] == 2


def test_k22_empty_partitions(topics, tmp_path):
    """An empty partition has numbers in the first checkpoint, so what comes later is not taken for old."""
    name = topics.create(2)
    source = KafkaSource(topics.bootstrap, name, decode="value", start="latest")
    found, _ = read(source, tmp_path / "state", until="caught_up")
    assert found == []
    topics.write(name, [b"1"], partition=1)
    found, _ = read(source, tmp_path / "state", until="caught_up")
    assert found == ["1"]


def test_k23_partitions_that_come_are_read_from_their_beginning(topics, tmp_path):
    """A topic that grows between two runs: what the new partition has got meanwhile must not be skipped as old."""
    name = topics.create(1)
    topics.write(name, [b"old"])
    source = KafkaSource(topics.bootstrap, name, decode="value", start="latest")
    read(source, tmp_path / "state", until="caught_up")
    topics.grow(name, 2)
    topics.write(name, [b"new"], partition=1)
    found, _ = read(source, tmp_path / "state", until="caught_up")
    assert found == ["new"]


def test_malformed_records(topics, tmp_path):
    """A record that does not decode stops the job and says where it lies, or is counted."""
    name = topics.create()
    topics.write(name, [b'{"n": 1}', b"{", b'{"n": 2}'])
    with pytest.raises(MalformedRecordError, match=r"0:1: .*Correct the input"):
        read(KafkaSource(topics.bootstrap, name, decode="json"), tmp_path / "fails")
    found, result = read(KafkaSource(topics.bootstrap, name, decode="json", on_malformed="skip"), tmp_path / "skips")
    assert (found, result.skipped) == ([{"n": 1}, {"n": 2}], 1)


# -- groups ----------------------------------------------------------------------------------------


def test_k21_group_offsets_follow_the_checkpoints(topics, tmp_path):
    """Lag tools see the offsets of complete checkpoints; a run never begins from there."""
    name = topics.create(2)
    topics.write(name, [b"%d" % n for n in range(5)])
    source = KafkaSource(topics.bootstrap, name, decode="value", group=name)
    read(source, tmp_path / "state", until="caught_up")
    places = [TopicPartition(name, number) for number in range(2)]
    consumer = Consumer({"bootstrap.servers": topics.bootstrap, "group.id": name})
    assert [place.offset for place in consumer.committed(places, timeout=10)] == [5, 0]
    # Somebody sets them elsewhere.
    consumer.commit(offsets=[TopicPartition(name, 0, 1)], asynchronous=False)
    consumer.close()
    topics.write(name, [b"5"])
    found, _ = read(source, tmp_path / "state", until="caught_up")
    assert found == [str(n) for n in range(6)]


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"start": "now"}, "start='now'"),
        ({"isolation": "serializable"}, "isolation="),
        ({"group": ""}, "group="),
        ({"decode": "xml"}, "decode='xml'"),
        ({"on_malformed": "ignore"}, "on_malformed"),
        ({"max_unavailable_s": 0}, "max_unavailable_s is 0; give seconds, above 0"),
        ({"config": {"auto.offset.reset": "latest"}}, "give start="),
        ({"config": {"group.id": "g"}}, "give group="),
    ],
    ids=["start", "isolation", "group", "decode", "malformed", "seconds", "reset", "group-id"],
)
def test_settings_that_cannot_be(arguments, match):
    """Refused when the source is made, before anything is opened."""
    with pytest.raises(ConfigurationError, match=match):
        KafkaSource("localhost:9092", "t", **arguments)


def test_a_source_travels_with_its_dataflow(topics):
    """Pickled after it was used: connections stay behind."""
    name = topics.create()
    topics.write(name, [b"1"])
    source = KafkaSource(topics.bootstrap, name, decode="value")
    rest(source)
    assert rest(pickle.loads(pickle.dumps(source)))[0] == [b"1"]


def test_a_look_holds_no_secret(topics):
    """What explain --check shows of a cluster that cannot be reached has its address, and no secret of the settings."""
    settings = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "me"}
    config = {**settings, "sasl.password": "swordfish"}
    source = KafkaSource("127.0.0.1:1", "t", config=config, connect_timeout_s=1)
    with pytest.raises(SinkError, match=r"127\.0\.0\.1:1") as refused:
        list(source.check(CheckContext("job", "in")))
    assert "swordfish" not in str(refused.value)
