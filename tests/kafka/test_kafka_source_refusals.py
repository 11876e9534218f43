"""A topic of Kafka that is not what it was, or not to be had: refused with what to do, never guessed."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest
from confluent_kafka import Consumer
from kafka_reading import read
from services.kafka import KafkaBroker
from topics import Topics

from onceflow.connectors import waiting
from onceflow.connectors.kafka import KafkaSource, feed
from onceflow.connectors.kafka import reader as kafka_reader
from onceflow.exceptions import (
    GroupOffsetsWarning,
    NewPartitionsWarning,
    SourceChangedError,
    SourceError,
    SourceWaitingWarning,
)
from onceflow.sources import SourceContext

SECRET = "swordfish-4711"


@pytest.fixture(scope="module")
def topics(kafka):
    return Topics(kafka.bootstrap)


def followed(topics, name, **arguments):
    """A reader without end, and its next records."""
    reader = KafkaSource(topics.bootstrap, name, decode="value", stop_at_end=False, **arguments).open("0", None)

    def take(count, within_s=30):
        found = []
        deadline = time.monotonic() + within_s
        while len(found) < count:
            assert time.monotonic() < deadline, f"only {found} came"
            found += reader.read(100).records
            time.sleep(0.002)
        return found

    return reader, take


def test_k02_hanging_transaction_is_told(topics, monkeypatch):
    """A bounded read waits for a transaction before its end; for how long nobody knows, so it is said."""
    monkeypatch.setattr(kafka_reader, "_PATIENCE_S", 0.3)
    name = topics.create()
    producer = topics.producer(name)
    producer.begin_transaction()
    producer.produce(name, b"open")
    producer.flush()
    reader = KafkaSource(topics.bootstrap, name, decode="value").open("0", None)
    with pytest.warns(SourceWaitingWarning, match=r"read to its end, 1, and at offset 0 a transaction is open"):
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert reader.read(10).records == []
            time.sleep(0.02)
    producer.abort_transaction()
    _read_to_the_end(reader)
    reader.close()


# -- a log that is another one -----------------------------------------------------------------------


def test_k23_recreated_topic_is_refused_at_a_start(topics, tmp_path):
    """Deleted and made anew with as many records: offsets fit, and mean nothing."""
    name = topics.create()
    topics.write(name, [b"old"])
    source = KafkaSource(topics.bootstrap, name, decode="value")
    read(source, tmp_path / "state", until="caught_up")
    topics.recreate(name)
    topics.write(name, [b"new", b"newer"])
    for _ in range(2):
        with pytest.raises(SourceChangedError, match=r"deleted and made again.*resume_from='none'"):
            read(source, tmp_path / "state", until="caught_up")
    (tmp_path / "state-out").rename(tmp_path / "moved")
    found, _ = read(source, tmp_path / "state", until="caught_up", resume_from="none")
    assert found == ["new", "newer"]


def test_k23_recreated_topic_is_refused_at_the_next_checkpoint(topics):
    """While a reader follows it: the client goes on at the same offset in the new topic, past what lies before. The
    position that would enter a checkpoint must not be had."""
    name = topics.create()
    topics.write(name, [b"old-0", b"old-1"])
    reader, take = followed(topics, name)
    assert take(2) == [b"old-0", b"old-1"]
    reader.position()
    topics.recreate(name)
    topics.write(name, [b"new-0", b"new-1", b"new-2"])
    with pytest.raises(SourceChangedError, match="made anew while it was read"):
        take(1)
        time.sleep(feed._VERIFY_EVERY_S)
        reader.position()
    reader.close()


def test_k23_recreated_topic_is_found_where_nothing_comes(topics, monkeypatch):
    """The new topic is empty: nothing would ever be read from it, and nobody told."""
    monkeypatch.setattr(feed, "LOOK_S", 0.2)
    name = topics.create()
    topics.write(name, [b"old"])
    reader, take = followed(topics, name)
    take(1)
    topics.recreate(name)
    with pytest.raises(SourceChangedError, match=r"made anew|has offsets 0 to 0"):
        take(1)
    reader.close()


def test_k23_retention_overtook(topics, tmp_path):
    """Records that were never read are gone: skipping them would be a silent loss."""
    name = topics.create()
    topics.write(name, [b"%d" % n for n in range(4)])
    source = KafkaSource(topics.bootstrap, name, decode="value", stop_at_end=False)
    read(source, tmp_path / "state", until="caught_up")
    topics.write(name, [b"4", b"5"])
    topics.delete_records(name, 5)
    with pytest.raises(SourceChangedError, match=r"has offsets 5 to 6.* is to be read at 4: retention has removed"):
        read(source, tmp_path / "state", until="caught_up")


def test_k23_retention_overtakes_a_reader(topics, monkeypatch):
    """The same while it runs: the client's own way would be to go on elsewhere."""
    monkeypatch.setattr(feed, "MAX_BUFFERED_BYTES", 1)
    monkeypatch.setattr(feed, "_LEAST_SHARE", 1)
    name = topics.create()
    topics.write(name, [b"x" * 1000] * 3000)
    small = dict.fromkeys(("fetch.max.bytes", "max.partition.fetch.bytes", "message.max.bytes"), 1000)
    reader, take = followed(topics, name, config={**small, "queued.max.messages.kbytes": 1})
    take(1)
    topics.delete_records(name, 2999)
    with pytest.raises(SourceChangedError, match=r"has offsets 2999 to 3000.*retention has removed"):
        take(3000)
    reader.close()


def test_k18_log_that_was_cut_and_written_to_again(topics):
    """After an unclean election other records lie at offsets that were read: a digest of the last one tells."""
    name = topics.create()
    topics.write(name, [b"a", b"b"])
    source = KafkaSource(topics.bootstrap, name, decode="value", stop_at_end=False)
    reader, take = followed(topics, name)
    take(2)
    position = json.loads(json.dumps(reader.position()))
    reader.close()
    position["last"][1] = "0" * 16
    reader = source.open("0", position)
    with pytest.raises(SourceChangedError, match=r"offset 1 .* has another record than the one that was read"):
        _read_until_raised(reader)
    reader.close()
    with pytest.raises(SourceChangedError, match="is to be read at 7: the log was cut"):
        source.open("0", {**position, "offset": 7})


def test_k23_fewer_partitions(topics):
    """A checkpoint with positions of partitions that are not there: their records would be left out."""
    name = topics.create(2)
    source = KafkaSource(topics.bootstrap, name)
    source.partitions()
    with pytest.raises(SourceChangedError, match="has 2 partitions, and the checkpoint has positions of others"):
        source.restore({"0": None, "2": None})


def test_k23_position_of_something_else(topics):
    """A checkpoint of another source under the same step must not be read as one."""
    source = KafkaSource(topics.bootstrap, topics.create())
    with pytest.raises(SourceError, match="not a position in a topic of Kafka"):
        source.open("0", {"offset": "17"})


def test_k23_partitions_that_come_in_a_run_to_the_end(topics, tmp_path, monkeypatch):
    """What a run to the end does not read, since it was not there at its beginning, must be told."""
    monkeypatch.setattr(feed, "LOOK_S", 0.1)
    name = topics.create()
    producer = topics.producer(name)
    producer.begin_transaction()
    producer.produce(name, b"waited for", partition=0)
    producer.flush()
    source = KafkaSource(topics.bootstrap, name, decode="value")
    (partition,) = source.partitions()
    reader = source.open(partition, None)
    topics.grow(name, 3)
    with pytest.warns(NewPartitionsWarning, match="has got 2 more partitions, and now has 3"):
        until = time.monotonic() + 30
        while reader._feed._told == 1:
            assert time.monotonic() < until
            assert reader.read(1).records == []
            time.sleep(0.02)
    producer.commit_transaction(30)
    reader.close()


# -- what is not to be had ---------------------------------------------------------------------------


def test_missing_topic(topics):
    """It must not be made by looking for it."""
    with pytest.raises(SourceError, match=r"there is no topic 'nobody-made-it'.*create it"):
        KafkaSource(topics.bootstrap, "nobody-made-it").partitions()
    assert "nobody-made-it" not in topics.admin.list_topics(timeout=10).topics


def test_no_broker():
    """Nobody listens: an error that names the address, soon."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = KafkaSource(f"127.0.0.1:{port}", "t", connect_timeout_s=0.5)
    with pytest.raises(SourceError, match=rf"no broker at '127.0.0.1:{port}'.*Check bootstrap="):
        source.partitions()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, kafka):
    """A broker that wants a password. (``kafka`` says whether brokers can run here.)"""
    jaas = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="alice-secret";'
    properties = {
        "listener.security.protocol.map": "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.plaintext.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.plaintext.plain.sasl.jaas.config": (
            jaas.replace("required", 'required username="alice" password="alice-secret"')
        ),
    }
    with KafkaBroker(tmp_path_factory.mktemp("guarded"), properties=properties) as broker:
        yield broker


def test_wrong_credentials(guarded):
    """A wrong password is an error at once, however long the deadline, and stands in no text."""
    config = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "alice"}
    source = KafkaSource(guarded.bootstrap, "t", config={**config, "sasl.password": SECRET}, connect_timeout_s=60)
    began = time.monotonic()
    with pytest.raises(SourceError, match="AUTHENTICATION") as caught:
        source.partitions()
    assert time.monotonic() - began < 40
    assert SECRET not in str(caught.value)
    right = KafkaSource(guarded.bootstrap, "t", config={**config, "sasl.password": "alice-secret"})
    with pytest.raises(SourceError, match=r"there is no topic"):
        right.partitions()


# -- a broker that goes away -------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path, kafka):
    """One that may be killed."""
    with KafkaBroker(tmp_path / "broker") as broker:
        yield broker


def test_broker_goes_and_comes_back(broker, monkeypatch):
    """Killed while it is read: the reader waits, says so once, and once that it goes on, where it was; meanwhile it
    does not spin."""
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.5)
    topics = Topics(broker.bootstrap)
    name = topics.create()
    topics.write(name, [b"before"])
    reader, take = followed(topics, name)
    assert take(1) == [b"before"]
    broker.kill()
    with pytest.warns(SourceWaitingWarning, match=r"waits for Kafka at .*The bound is max_unavailable_s=600"):
        deadline = time.monotonic() + 30
        while reader._feed.check() or time.monotonic() - reader._feed._away_since_s < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    spent = time.process_time()
    time.sleep(2)
    assert time.process_time() - spent < 0.5
    broker.start()
    with pytest.warns(SourceWaitingWarning, match=r"goes on: Kafka at .* answers again, after \d+ s") as told:
        deadline = time.monotonic() + 30
        while not told.list:
            assert time.monotonic() < deadline
            reader._feed.check()
            time.sleep(0.05)
    topics.write(name, [b"after"])
    assert take(1) == [b"after"]
    reader.position()
    reader.close()


def test_broker_goes_for_good(broker, monkeypatch):
    """Past the deadline it is an error that says what to do, whatever the job has read."""
    monkeypatch.setattr(waiting, "_PATIENCE_S", 100)
    topics = Topics(broker.bootstrap)
    name = topics.create()
    reader, _ = followed(topics, name, max_unavailable_s=1)
    broker.kill()
    with pytest.raises(SourceError, match=r"no broker at .* has answered .*Nothing is lost: run the job again"):
        _read_until_raised(reader)
    reader.close()


def test_k21_group_with_members_is_a_warning(topics, tmp_path):
    """Offsets that cannot be committed concern lag tools only: told, and the job's output is whole."""
    name = topics.create()
    topics.write(name, [b"1"])
    consumer = Consumer({"bootstrap.servers": topics.bootstrap, "group.id": name})
    consumer.subscribe([name])
    deadline = time.monotonic() + 30
    while not consumer.assignment() and time.monotonic() < deadline:
        consumer.poll(0.1)
    source = KafkaSource(topics.bootstrap, name, decode="value", group=name)
    with pytest.warns(GroupOffsetsWarning, match="could not be committed"):
        found, _ = read(source, tmp_path / "state", until="caught_up")
    consumer.close()
    assert found == ["1"]


# -- memory ------------------------------------------------------------------------------------------


def test_k24_partitions_that_nobody_reads_take_little(topics, monkeypatch):
    """One partition of many is read, as where it is behind in event time: the others wait within the bound."""
    monkeypatch.setattr(feed, "MAX_BUFFERED_BYTES", 2 << 20)
    monkeypatch.setattr(feed, "_LEAST_SHARE", 64 << 10)
    partitions = 8
    name = topics.create(partitions)
    for partition in range(partitions):
        topics.write(name, [b"x" * 1000] * 3000, partition=partition)
    source = KafkaSource(topics.bootstrap, name, decode="value")
    context = SourceContext()
    readers = [source.open_with_context(str(partition), None, context) for partition in range(partitions)]
    most, found = 0, 0
    while (batch := readers[0].read(100)) is not None:
        found += len(batch.records)
        most = max(most, readers[0]._feed._nbytes)
        time.sleep(0.001)
    assert found == 3000
    # Each may have half its share on top, of 31 MB that are there.
    assert most < 2 * (2 << 20)
    rest = 0
    for reader in readers[1:]:
        while (batch := reader.read(1000)) is not None:
            rest += len(batch.records)
    assert rest == 3000 * (partitions - 1)
    for reader in readers:
        reader.close()
    assert not [thread for thread in threading.enumerate() if name in thread.name]


def _read_until_raised(reader):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        reader.read(100)
        time.sleep(0.02)


def _read_to_the_end(reader):
    deadline = time.monotonic() + 60
    while reader.read(100) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
