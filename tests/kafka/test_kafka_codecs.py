"""What the bytes of keys and values mean, read from a real broker; schemas lie in the client's test registry."""

from __future__ import annotations

import socket

import msgspec
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from kafka_reading import read
from topics import Topics

from onceflow.connectors.kafka import AvroCodec, KafkaSource, ProtobufCodec
from onceflow.exceptions import ConfigurationError, SourceError

SCHEMA = (
    '{"type": "record", "name": "Click", "fields": [{"name": "user", "type": "string"}, {"name": "n", "type": "int"}]}'
)


@pytest.fixture(scope="module")
def topics(kafka):
    return Topics(kafka.bootstrap)


def click_class():
    """What protoc would generate for a message with a number."""
    file = descriptor_pb2.FileDescriptorProto(name="click.proto", package="clicks", syntax="proto3")
    file.message_type.add(name="Click").field.add(name="n", number=1, type=5, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("clicks.Click"))


def values(source):
    reader = source.open("0", None)
    found = []
    while (batch := reader.read(100)) is not None:
        found += batch.records
    reader.close()
    return found


@pytest.mark.parametrize(
    ("codec", "data", "value"),
    [
        ("bytes", b"\xff", b"\xff"),
        ("str", "grün".encode(), "grün"),
        ("json", b'{"n": 1}', {"n": 1}),
        ("msgpack", msgspec.msgpack.encode({"n": 1}), {"n": 1}),
    ],
    ids=["bytes", "str", "json", "msgpack"],
)
def test_named_codecs(topics, codec, data, value):
    """Keys and values each by their own codec; null is None for all."""
    name = topics.create()
    topics.write(name, [data, None], key=b"k")
    source = KafkaSource(topics.bootstrap, name, key_codec="str", value_codec=codec)
    assert [(record["key"], record["value"]) for record in values(source)] == [("k", value), ("k", None)]
    assert values(KafkaSource(topics.bootstrap, name, decode="value", value_codec=codec)) == [value, None]


def test_avro(topics):
    """With the schema that the record was written with; bytes without one are malformed, and shown as they are."""
    registry = SchemaRegistryClient.new_client({"url": "mock://"})
    name = topics.create()
    write = AvroSerializer(registry, SCHEMA)
    record = {"user": "ada", "n": 3}
    topics.write(name, [write(record, SerializationContext(name, MessageField.VALUE))])
    assert values(KafkaSource(topics.bootstrap, name, decode="value", value_codec=AvroCodec(registry))) == [record]
    topics.write(name, [b"no avro"])
    source = KafkaSource(
        topics.bootstrap, name, decode="value", value_codec=AvroCodec(registry), on_malformed="dead_letter"
    )
    reader = source.open("0", None)
    rejected = []
    while (batch := reader.read(100)) is not None:
        rejected += batch.rejected
    reader.close()
    assert [(one.position, one.text) for one in rejected] == [("0:1", "no avro")]


def test_protobuf(topics):
    """By its generated class."""
    registry = SchemaRegistryClient.new_client({"url": "mock://"})
    name = topics.create()
    click = click_class()
    write = ProtobufSerializer(click, registry, {"use.deprecated.format": False})
    topics.write(name, [write(click(n=7), SerializationContext(name, MessageField.VALUE))])
    source = KafkaSource(topics.bootstrap, name, decode="value", value_codec=ProtobufCodec(click, registry))
    assert [message.n for message in values(source)] == [7]


def test_fields_of_values_as_columns(topics):
    """Of Avro, Protobuf and msgpack alike: typed columns, and nulls for a null value."""
    registry = SchemaRegistryClient.new_client({"url": "mock://"})
    click = click_class()
    cases = {
        "avro": (AvroCodec(registry), AvroSerializer(registry, SCHEMA), {"user": "ada", "n": 3}),
        "protobuf": (
            ProtobufCodec(click, registry),
            ProtobufSerializer(click, registry, {"use.deprecated.format": False}),
            click(n=3),
        ),
        "msgpack": ("msgpack", lambda record, _: msgspec.msgpack.encode(record), {"n": 3}),
    }
    for codec, write, record in cases.values():
        name = topics.create()
        topics.write(name, [write(record, SerializationContext(name, MessageField.VALUE)), None], key=b"k")
        source = KafkaSource(
            topics.bootstrap, name, as_columns=True, types={"n": "int"}, key_codec="str", value_codec=codec
        )
        reader = source.open("0", None)
        while not len(batch := reader.read(100).records):
            pass
        reader.close()
        assert batch.names == ("partition", "offset", "timestamp_ms", "key", "n")
        assert (batch["key"].to_pylist(), batch["n"].to_pylist()) == (["k", "k"], [3, None])
        assert str(batch["n"].type) == "int64"


def test_registry_that_does_not_answer(topics):
    """Records are sound and nobody says what they are: passing them by as malformed ones would lose them."""
    name = topics.create()
    write = AvroSerializer(SchemaRegistryClient.new_client({"url": "mock://"}), SCHEMA)
    topics.write(name, [write({"user": "ada", "n": 3}, SerializationContext(name, MessageField.VALUE))])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    registry = SchemaRegistryClient({"url": f"http://127.0.0.1:{port}", "max.retries": 0})
    source = KafkaSource(topics.bootstrap, name, value_codec=AvroCodec(registry), on_malformed="skip")
    with pytest.raises(SourceError, match="the schema registry does not say what a value"):
        values(source)


def test_text_that_is_none(topics, tmp_path):
    """Bytes that are no UTF-8 are counted, not replaced."""
    name = topics.create()
    topics.write(name, [b"a", b"\xff", b"b"])
    source = KafkaSource(topics.bootstrap, name, decode="value", value_codec="str", on_malformed="skip")
    found, result = read(source, tmp_path / "state")
    assert (found, result.skipped) == (["a", "b"], 1)


@pytest.mark.parametrize(
    "arguments",
    [{"value_codec": "xml"}, {"key_codec": AvroCodec}, {"value_codec": "json", "as_columns": True}],
    ids=["unknown", "class", "columns"],
)
def test_codecs_that_cannot_be(arguments):
    """Refused when the source is made."""
    with pytest.raises(ConfigurationError, match="codec"):
        KafkaSource("localhost:9092", "t", **arguments)
