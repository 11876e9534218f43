"""Several runs that divide a topic of a real Kafka among them."""

from __future__ import annotations

import re
import time

import msgspec
import pytest
import topics as real
from numbered import check_totals, key_of, value_of
from topics import Topics

import onceflow as of
from onceflow.checks import CheckContext
from onceflow.connectors.kafka import KafkaSink, KafkaSource, feed, source
from onceflow.exceptions import SinkError, SourceChangedError, SourceError
from onceflow.graph.division import divided
from onceflow.instances import Instance
from onceflow.runtime import growth

COUNT, PARTITIONS, KEYS, RECORDS = 2, 3, 20, 400


@pytest.fixture
def topics(kafka):
    return Topics(kafka.bootstrap)


def fill(topics: Topics, first: int = 0, last: int = RECORDS, name: str | None = None, **config: str) -> str:
    """Numbers, each in the partition that a client chooses by its key."""
    name = name or topics.create(PARTITIONS)
    producer = topics.producer(**config)
    for n in range(first, last):
        producer.produce(name, value_of(n, KEYS), key=key_of(n, KEYS))
    assert producer.flush(30) == 0
    return name


def flow_of(topics: Topics, name: str, *, keyed: bool = True, to: str = "out", **arguments: object) -> of.Dataflow:
    # In one cluster a name belongs to one job.
    flow = of.Dataflow(name)
    arguments = {"decode": "json", "partitioned_by": "key", **arguments}
    numbers = flow.source("in", KafkaSource(topics.bootstrap, name, **arguments))
    if keyed:
        numbers = numbers.key_by("key").aggregate("totals", total=of.sum("n"), count=of.count())
    numbers.sink("out", KafkaSink(topics.bootstrap, f"{name}-{to}", partitions=1))
    return flow


def out(topics: Topics, name: str) -> list[dict[str, object]]:
    return [msgspec.json.decode(message.value()) for message in real.read(topics.bootstrap, f"{name}-out")]


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
def test_by_key_whatever_client_has_written(topics, tmp_path, partitioner):
    """Kind: the partition of a key is another one than the client chose. librdkafka's own way is crc32."""
    config = {"partitioner": "murmur2_random"} if partitioner == "murmur2" else {}
    name = fill(topics, **config)
    flow = flow_of(topics, name, partitioner=partitioner)
    for index in range(COUNT):
        of.run(flow, state=tmp_path / f"{index}", instance=(index, COUNT), until="caught_up")
    fill(topics, RECORDS, 2 * RECORDS, name, **config)
    for index in range(COUNT):
        of.run(flow, state=tmp_path / f"{index}", instance=(index, COUNT))
    check_totals(out(topics, name), 2 * RECORDS, KEYS)
    other = "crc32" if partitioner == "murmur2" else "murmur2"
    with pytest.raises(SourceError, match=rf"(?s)whose key is b'k.*{other} puts that into partition"):
        of.run(flow_of(topics, name, partitioner=other, to="other"), state=tmp_path / "other", instance=(0, 1))


@pytest.mark.parametrize("form", ["dicts", "columns"])
def test_by_the_key_of_the_message(topics, tmp_path, form):
    """Kind: a key that is bytes, of which nobody has to say anything."""
    name = fill(topics, partitioner="murmur2")
    arguments = {"decode": None, "partitioned_by": None, "as_columns": form == "columns"}
    for index in range(COUNT):
        flow = of.Dataflow(name)
        numbers = flow.source("in", KafkaSource(topics.bootstrap, name, **arguments))
        counts = numbers.key_by("key").aggregate("counts", count=of.count())
        counts.map(lambda row: {**row, "key": bytes(row["key"]).decode()}).sink(
            "out", KafkaSink(topics.bootstrap, f"{name}-out", partitions=1)
        )
        of.run(flow, state=tmp_path / f"{index}", instance=(index, COUNT))
    newest = {row["key"]: row["count"] for row in out(topics, name)}
    assert newest == {f"k{key}": RECORDS // KEYS for key in range(KEYS)}


def test_other_counts_at_one_topic(topics, tmp_path):
    """Kind: the number of instances is changed with new states, and each record comes twice."""
    name = fill(topics)
    flow = flow_of(topics, name, keyed=False)
    of.run(flow, state=tmp_path / "a", instance=(0, 2), until="caught_up")
    for instance in ((0, 3), None):
        with pytest.raises(SinkError, match=f"is written by instance 0/2 of job '{name}'"):
            of.run(flow, state=tmp_path / f"b-{instance}", instance=instance, until="caught_up")
    with pytest.raises(SinkError, match=f"'{name}@0of2' with another state directory"):
        of.run(flow, state=tmp_path / "c", instance=(0, 2), until="caught_up")
    of.run(flow, state=tmp_path / "d", instance=(1, 2), until="caught_up")
    of.run(flow, state=tmp_path / "a", instance=(0, 2), until="caught_up")
    assert sorted(record["n"] for record in out(topics, name)) == list(range(RECORDS))


def test_a_topic_by_key_that_has_grown(topics, tmp_path):
    """Kind: keys come to instances that do not have their state; nobody reads on, whose share has changed or not."""
    name = fill(topics, partitioner="murmur2")
    flow = flow_of(topics, name)
    for index in range(COUNT):
        of.run(flow, state=tmp_path / f"{index}", instance=(index, COUNT), until="caught_up")
    topics.grow(name, PARTITIONS + 1)
    until = time.monotonic() + 30
    while len(KafkaSource(topics.bootstrap, name).partitions()) == PARTITIONS:
        assert time.monotonic() < until
    for index in range(COUNT):
        with pytest.raises(SourceChangedError, match=r"(?s)had 3 before|had fewer.*repartition"):
            of.run(flow, state=tmp_path / f"{index}", instance=(index, COUNT), until="caught_up")


def test_what_a_look_says(topics):
    """Kind: an instance that reads nothing, and nobody says so."""
    name = fill(topics)
    flow = flow_of(topics, name)

    def looked(index, count):
        own = divided(flow.graph, Instance(index, count)).sources()[0].source
        return [f for f in own.check(CheckContext("numbers", "in")) if f.subject.startswith("instance")]

    assert looked(0, 2)[0].text.startswith(f"reads 2 of 3 partitions of topic '{name}': 0, 2; that murmur2 puts")
    assert looked(4, 5)[0].level == "warning"
    # It was written by a client that chooses partitions in another way than the source says.
    own = divided(flow.graph, Instance(0, 1)).sources()[0].source
    last = list(own.check(CheckContext("numbers", "in")))[-1]
    assert last.level == "error" and "murmur2 puts that into partition" in last.text
    own = divided(flow_of(topics, name, partitioner="crc32").graph, Instance(0, 1)).sources()[0].source
    last = list(own.check(CheckContext("numbers", "in")))[-1]
    assert last.level == "ok" and re.match(r"[1-9]\d* records that were read lie where crc32 puts them", last.text)


def test_a_share_of_nothing_gets_a_partition(topics, tmp_path, monkeypatch):
    """Kind: an instance without partitions ends, or takes a new one from its end and not from its beginning."""
    monkeypatch.setattr(source, "LOOK_S", 0.2)
    monkeypatch.setattr(feed, "LOOK_S", 0.2)
    monkeypatch.setattr(growth, "_EVERY_S", 0.05)
    name = topics.create(1)
    seen: list[object] = []

    def stop(record: object) -> object:
        seen.append(record)
        if len(seen) == 10:
            raise RuntimeError("enough")
        return record

    def event(_: object) -> None:
        if not grown:
            grown.append(True)
            topics.grow(name, 2)
            topics.write(name, [{"n": n} for n in range(10)], partition=1)

    grown: list[bool] = []
    flow = of.Dataflow(name)
    follows = KafkaSource(topics.bootstrap, name, decode="json", stop_at_end=False, start="latest")
    flow.source("in", follows).map(stop).sink("out", KafkaSink(topics.bootstrap, f"{name}-out", partitions=1))
    with pytest.raises(of.exceptions.UserFunctionError, match="enough"):
        of.run(flow, state=tmp_path / "state", instance=(1, 2), on_event=event)
    assert seen == [{"n": n} for n in range(10)]
