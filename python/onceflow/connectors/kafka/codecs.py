"""What bytes of keys and values mean that a schema registry knows: Avro and Protobuf.

The client of the registry, and what it makes of bytes, are confluent-kafka's (extra ``schema-registry``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onceflow.connectors.extras import require
from onceflow.connectors.topics.codecs import Field
from onceflow.connectors.topics.messages import FromBytes
from onceflow.exceptions import SourceError

__all__ = ["AvroCodec", "ProtobufCodec"]


class AvroCodec:
    """Avro with the schema that a registry has of each record.

    Args:
        registry: A ``SchemaRegistryClient`` of confluent-kafka.
        schema: What records are read as, as JSON text; None: what each was written with.
        from_dict: Makes an object of a dict: a function of the dict and confluent-kafka's ``SerializationContext``.

    Raises:
        MissingExtraError: confluent-kafka's Avro parts are not installed.
    """

    def __init__(
        self, registry: Any, schema: str | None = None, *, from_dict: Callable[[dict[str, Any], Any], Any] | None = None
    ) -> None:
        avro = _part("avro")
        self._deserializer = avro.AvroDeserializer(registry, schema, from_dict)

    def decoder(self, topic: str, field: Field) -> FromBytes:
        """See ``Codec``."""
        return _with_context(self._deserializer, topic, field)


class ProtobufCodec:
    """Protobuf as a registry frames it.

    Args:
        message: The generated class of the messages.
        registry: A ``SchemaRegistryClient`` of confluent-kafka; None: the class alone says what bytes mean.

    Raises:
        MissingExtraError: confluent-kafka's Protobuf parts are not installed.
    """

    def __init__(self, message: Any, registry: Any = None) -> None:
        protobuf = _part("protobuf")
        self._deserializer = protobuf.ProtobufDeserializer(
            message, {"use.deprecated.format": False}, schema_registry_client=registry
        )

    def decoder(self, topic: str, field: Field) -> FromBytes:
        """See ``Codec``."""
        return _with_context(self._deserializer, topic, field)


def _part(name: str) -> Any:
    return require(f"confluent_kafka.schema_registry.{name}", extra="schema-registry", purpose=f"a codec of {name}")


def _with_context(deserializer: Callable[[bytes, Any], Any], topic: str, field: Field) -> FromBytes:
    kinds = require("confluent_kafka.serialization", extra="kafka", purpose="a codec")
    context = kinds.SerializationContext(topic, getattr(kinds.MessageField, field.upper()))
    unanswered = (_registry().SchemaRegistryError, OSError)

    def decode(data: bytes) -> Any:
        try:
            return deserializer(data, context)
        except Exception as error:
            # The record may be sound: whoever passes malformed ones by must not lose it.
            if isinstance(error, unanswered) or type(error).__module__.startswith(("httpx", "httpcore", "requests")):
                raise SourceError(
                    f"the schema registry does not say what a {field} of topic {topic!r} is: {type(error).__name__}. "
                    "Check that it runs and may be asked; nothing is lost, the job can be run again"
                ) from error
            raise

    return decode


def _registry() -> Any:
    return require("confluent_kafka.schema_registry", extra="schema-registry", purpose="a codec with schemas")
