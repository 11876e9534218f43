"""What a Kafka sink refuses, and when: before the decision, or at the start, and at each attempt."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
import topics
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, ResourceType

from onceflow.checks import CheckContext
from onceflow.connectors.kafka import KafkaSink
from onceflow.connectors.kafka.markers import KEY, marker_topic_of
from onceflow.exceptions import SinkError
from onceflow.sinks import Committable, SinkContext


class Target:
    """A topic, and runs of a job that write to it."""

    def __init__(self, bootstrap, *, partitions=1, timeout_s=10, config=None, **options):
        self.bootstrap = bootstrap
        self.topic = topics.name("refusals")
        topics.create(bootstrap, self.topic, partitions, **(config or {}))
        self.markers = marker_topic_of(self.topic, "out")
        self.options = {"timeout_s": timeout_s, **options}
        self.epoch = 0
        self.decided: list[Committable] = []
        self.learnt = None

    def open(self, *, decided=None, **changes):
        """The next run, as far as its recovery; without ``decided``, with all that was decided."""
        self.epoch += 1
        decided = self.decided if decided is None else decided
        newest = decided[-1].checkpoint_id if decided else None
        context = {"restored_checkpoint": newest, "newest_decided": newest, "restored_state": self.learnt, **changes}
        sink = KafkaSink(self.bootstrap, self.topic, **self.options)
        writer = sink.open(SinkContext(self.topic, "out", self.epoch, 1, state_id="5" * 32, **context))
        writer.recover(decided)
        return writer

    def decide(self, writer, *records):
        """A checkpoint with these records, decided."""
        number = self.decided[-1].checkpoint_id + 1 if self.decided else 1
        writer.write(list(records))
        sealed = writer.seal(number)
        self.learnt = writer.snapshot()
        committable = Committable(number, writer.prepare(number, sealed))
        self.decided.append(committable)
        return committable

    def shown(self):
        return [json.loads(message.value()) for message in topics.read(self.bootstrap, self.topic)]

    def alter(self, topic, **config):
        resource = ConfigResource(ResourceType.TOPIC, topic)
        for name, value in config.items():
            entry = ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
            resource.add_incremental_config(entry)
        client = topics.admin(self.bootstrap)
        client.incremental_alter_configs([resource])[resource].result(30)


@pytest.fixture
def target(kafka):
    return Target(kafka.bootstrap)


def refused(call, *words):
    """Refused at the first attempt and at the third, in the same words."""
    for _ in range(3):
        with pytest.raises(SinkError) as caught:
            call()
        for word in words:
            assert word in str(caught.value)


# -- markers -------------------------------------------------------------------------------------


def test_a_strangers_open_transaction_hides_the_marker(kafka):
    """Kind (K1): readers of what is committed do not see our marker, so what is there would be written again."""
    target = Target(kafka.bootstrap)
    writer = target.open()
    writer.commit(target.decide(writer, 1))
    target.options["timeout_s"] = 1
    stranger = topics.producer(kafka.bootstrap, target.topic)
    stranger.init_transactions(30)
    stranger.begin_transaction()
    stranger.produce(target.markers, b"not ours", b"not ours", 0)
    assert stranger.flush(30) == 0
    # Our own commit is not disturbed; the next decision is.
    second = Committable(2, _prepared_before(target, writer, 2))
    refused(lambda: target.open(decided=[*target.decided, second]), "somebody's transaction is open", target.markers)
    stranger.abort_transaction(30)
    target.open(decided=[*target.decided, second]).close()
    assert target.shown() == [1, 2]


def _prepared_before(target, writer, record):
    """The handle of a checkpoint that was decided before the transaction was there."""
    import msgspec  # noqa: PLC0415

    first, part = map(msgspec.msgpack.decode, target.decided[0].handle)
    first[5] = 1
    part[0] = ["Rows", [json.dumps(record).encode()]]
    return [msgspec.msgpack.encode(first), msgspec.msgpack.encode(part)]


def test_the_topic_of_markers_is_deleted(target):
    """Kind (K3): without markers everything would be written again, and the client would make the topic anew."""
    writer = target.open()
    writer.commit(target.decide(writer, 1))
    target.decide(writer, 2)
    topics.delete(target.bootstrap, target.markers)
    with pytest.raises(SinkError, match="was deleted"):
        writer.prepare(3, writer.seal(3) or [])
    with pytest.raises(SinkError):
        writer.commit(target.decided[-1])
    writer.close()
    refused(target.open, "has none now", "Put the newest one")
    assert target.shown() == [1]


def test_the_topic_of_markers_is_made_anew_with_retention(target):
    """Kind (K3): markers that are removed after a while."""
    writer = target.open()
    writer.commit(target.decide(writer, 1))
    topics.delete(target.bootstrap, target.markers)
    topics.create(target.bootstrap, target.markers)
    with pytest.raises(SinkError, match="deleted and made anew"):
        target.decide(writer, 2)
    writer.close()
    refused(target.open, "cleanup.policy='delete'", target.markers)


def test_compaction_leaves_the_newest_marker(kafka):
    """Kind (K4): compaction that loses or revives a marker."""
    target = Target(kafka.bootstrap)
    writer = target.open()
    target.alter(target.markers, segment_ms=1, min_cleanable_dirty_ratio=0.01, delete_retention_ms=0)
    for number in range(30):
        writer.commit(target.decide(writer, number))
        writer.commit(target.decided[-1])
    time.sleep(0.1)
    for _ in range(3):
        target.open(decided=target.decided[-2:]).close()
    assert target.shown() == list(range(30))


def test_a_marker_that_went_back_is_refused(target):
    """Kind (K4, K18): an older marker than the state's last decision but one."""
    writer = target.open()
    writer.commit(target.decide(writer, 1))
    older = topics.read(target.bootstrap, target.markers)[-1].value()
    for record in (2, 3):
        writer.commit(target.decide(writer, record))
    target.decide(writer, 4)
    writer.close()
    stranger = topics.producer(target.bootstrap, target.topic)
    stranger.init_transactions(30)
    stranger.begin_transaction()
    stranger.produce(target.markers, older, KEY, 0)
    stranger.commit_transaction(30)
    refused(target.open, "had the output of checkpoint 2", "has it up to 1 now")
    assert target.shown() == [1, 2, 3]


def test_a_state_that_went_back_is_refused(target):
    """Kind (Q4): a state that was put back from an older copy, which would write again what is there."""
    writer = target.open()
    first = target.decide(writer, 1)
    writer.commit(first)
    writer.commit(target.decide(writer, 2))
    writer.close()
    refused(lambda: target.open(decided=[first]), "holds the output of checkpoint 2", "resume_from=1")


def test_two_copies_of_a_state_that_decide_the_same_number(target):
    """Kind: a marker of the right number, and of another output."""
    writer = target.open()
    writer.commit(target.decide(writer, 1))
    copy = list(target.decided)
    writer.commit(target.decide(writer, 2))
    writer.close()
    other = Target(target.bootstrap)
    elsewhere = other.open()
    other.decide(elsewhere, 1)
    theirs = other.decide(elsewhere, 3)
    elsewhere.close()
    import msgspec  # noqa: PLC0415

    heads, *frames = theirs.handle
    forged_heads = [target.topic, *msgspec.msgpack.decode(heads)[1:]]
    forged = Committable(2, [msgspec.msgpack.encode(forged_heads), *frames])
    refused(lambda: target.open(decided=[*copy, forged]), "two copies of the job's state")
    assert target.shown() == [1, 2]


# -- the topic -----------------------------------------------------------------------------------


def test_a_topic_that_was_made_anew(target):
    """Kind (K23): output that is gone, and a job that goes on behind it as if nothing were missing."""
    writer = target.open()
    writer.commit(target.decide(writer, 1))
    target.decide(writer, 2)
    topics.delete(target.bootstrap, target.topic)
    with pytest.raises(SinkError, match="was deleted"):
        writer.prepare(3, writer.seal(3) or [])
    writer.close()
    refused(target.open, "was deleted since", "resume_from='none'")
    topics.create(target.bootstrap, target.topic)
    refused(target.open, "was deleted and made anew", target.markers)
    assert target.shown() == []
    # The advice: both topics deleted, and started over.
    for topic in (target.topic, target.markers):
        topics.delete(target.bootstrap, topic)
    topics.create(target.bootstrap, target.topic)
    target.decided, target.learnt = [], None
    writer = target.open()
    writer.commit(target.decide(writer, 1))
    writer.close()
    assert target.shown() == [1]


def test_a_topic_that_has_grown_since_the_decision(kafka):
    """Kind (K23): a record that is sent again to another partition, behind younger ones of its key."""
    target = Target(kafka.bootstrap, partitions=2, key=str)
    writer = target.open()
    target.decide(writer, *range(40))
    client = topics.admin(target.bootstrap)
    client.create_partitions([NewPartitions(target.topic, 7)])[target.topic].result(30)
    writer.close()
    target.open().close()
    found = topics.read(target.bootstrap, target.topic)
    assert sorted(json.loads(message.value()) for message in found) == list(range(40))
    assert {message.partition() for message in found} == {0, 1}


def test_keys_lie_where_other_clients_look_for_them(kafka):
    """Kind: a table in another program that is joined by partition."""
    target = Target(kafka.bootstrap, partitions=5, key=lambda record: f"key {record}")
    writer = target.open()
    writer.commit(target.decide(writer, *range(100)))
    writer.close()
    theirs = topics.name("theirs")
    topics.create(target.bootstrap, theirs, 5)
    producer = topics.producer(target.bootstrap, None, partitioner="murmur2_random")
    for number in range(100):
        producer.produce(theirs, None, f"key {number}")
    assert producer.flush(30) == 0

    def by_key(topic):
        return {message.key(): message.partition() for message in topics.read(target.bootstrap, topic)}

    assert by_key(target.topic) == by_key(theirs)


def test_no_topic(kafka):
    """Kind: a misspelt name that makes a topic."""
    with pytest.raises(SinkError, match=r"there is no topic 'nowhere'.*partitions=N"):
        KafkaSink(kafka.bootstrap, "nowhere").open(SinkContext("nowhere", "out", 1, 1))
    assert topics.read(kafka.bootstrap, "nowhere") == []


# -- records -------------------------------------------------------------------------------------

SOON = datetime.now(UTC) + timedelta(hours=2)
RECORDS = {
    "too large": ({"max_message_bytes": 2_000}, {}, ["x" * 5_000], "max.message.bytes=2,000"),
    "too large with its headers": (
        {"max_message_bytes": 2_000},
        {"headers": lambda _: {"a": b"h" * 1_500}},
        ["x" * 500],
        "max.message.bytes=2,000",
    ),
    "from the future": ({}, {"timestamp": lambda _: SOON}, ["x"], "message.timestamp.after.max.ms"),
    "from the past": (
        {"message_timestamp_before_max_ms": 1_000},
        {"timestamp": lambda _: 1_000},
        ["x"],
        "message.timestamp.before.max.ms",
    ),
    "before 1970": ({}, {"timestamp": lambda _: -1}, ["x"], "from 1 on"),
    "no key in a compacted topic": ({"cleanup_policy": "compact"}, {}, ["x"], "is compacted"),
    "a partition that is not there": ({}, {"partition": 3}, ["x"], "goes to partition 3"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_record_that_the_broker_would_refuse(kafka, case):
    """Kind (K9, K27): refused after the decision, it would stop the job for good."""
    config, options, records, words = RECORDS[case]
    target = Target(kafka.bootstrap, config=config, **options)
    writer = target.open()
    writer.write(records)
    with pytest.raises(SinkError, match=words):
        writer.prepare(1, writer.seal(1))
    writer.close()
    assert target.shown() == []


def test_many_records_that_together_are_larger_than_a_message(kafka):
    """Kind (K9): batches of the client that are larger than the topic takes."""
    target = Target(kafka.bootstrap, config={"max_message_bytes": 2_000})
    writer = target.open()
    # The last fits by a byte.
    records = ["x" * 900] * 50 + ["x" * (2_000 - 84)]
    writer.write(records)
    sealed = writer.seal(1)
    writer.commit(Committable(1, writer.prepare(1, sealed)))
    writer.close()
    assert [message.value().decode() for message in topics.read(kafka.bootstrap, target.topic)] == records


def test_a_transaction_timeout_above_the_brokers(kafka):
    """Kind (K14): a fatal error that names neither of the two settings."""
    target = Target(kafka.bootstrap)
    target.options["config"] = {"transaction.timeout.ms": 3_600_000}
    refused(target.open, "transaction.timeout.ms=3600000", "transaction.max.timeout.ms")


def test_a_checkpoint_without_output_writes_nothing(target):
    """Kind (K28): a marker that nobody needs, or one that is missed."""
    writer = target.open()
    writer.commit(target.decide(writer, 1))
    before = len(topics.read(target.bootstrap, target.markers))
    assert writer.seal(2) is None
    writer.close()
    assert len(topics.read(target.bootstrap, target.markers)) == before
    context = {"restored_checkpoint": 2, "newest_decided": 2}
    target.open(**context).close()
    assert target.shown() == [1]


def test_columns_of_arrow(kafka):
    """Kind: bytes that change on the way through the decision record."""
    pa = pytest.importorskip("pyarrow")
    from onceflow import Columns  # noqa: PLC0415

    target = Target(kafka.bootstrap, partitions=3, key="k", value="v")
    writer = target.open()
    batch = Columns({"k": pa.array(["a", None, "c"]), "v": pa.array([b"1", b"", None], pa.binary())})
    writer.write(batch)
    sealed = writer.seal(1)
    writer.commit(Committable(1, writer.prepare(1, sealed)))
    writer.close()
    found = {(message.key(), message.value()) for message in topics.read(kafka.bootstrap, target.topic)}
    assert found == {(b"a", b"1"), (None, b""), (b"c", None)}


def test_a_look_before_a_start(kafka):
    """Kind (K18, Q11): settings by which the broker loses what it has confirmed, and nobody is told."""
    target = Target(kafka.bootstrap, config={"unclean_leader_election_enable": "true"}, partitions=2)

    def levels(**options):
        sink = KafkaSink(kafka.bootstrap, target.topic, **options)
        return {(each.level, each.text) for each in sink.check(CheckContext(target.topic, "out"))}

    found = levels()
    assert {level for level, _ in found} == {"ok", "warning"}
    assert any("unclean.leader.election.enable=true" in text for _, text in found)
    assert any("has one replica" in text for _, text in found)
    assert ("warning", "has 2 partitions, and the sink would have made 3") in levels(partitions=3)
    target.open().close()
    assert ("ok", "tells of no output of this sink") in levels()
    target.alter(target.markers, cleanup_policy="delete")
    assert any(level == "error" and "cleanup.policy='delete'" in text for level, text in levels())
    missing = KafkaSink(kafka.bootstrap, "nowhere").check(CheckContext("nowhere", "out"))
    assert [each.level for each in missing if "there is none" in each.text] == ["error"]
    made = KafkaSink(kafka.bootstrap, "nowhere", partitions=1).check(CheckContext("nowhere", "out"))
    assert "error" not in {each.level for each in made}
    assert topics.read(kafka.bootstrap, "nowhere") == []
