"""What the bytes of keys and values mean, as records and as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from onceflow.connectors.files.malformed import MalformedPolicy
from onceflow.connectors.topics.messages import Decode, EventTime, FromBytes, MessageReading
from onceflow.connectors.topics.typed import FieldType, Format, TypedFields
from onceflow.exceptions import ConfigurationError

__all__ = ["Codec", "CodecName", "Field", "reading_of"]

Field: TypeAlias = Literal["key", "value"]
CodecName: TypeAlias = Literal["bytes", "str", "json", "msgpack"]


@runtime_checkable
class Codec(Protocol):
    """Anything that decodes the keys or the values of a topic."""

    def decoder(self, topic: str, field: Field) -> FromBytes:
        """What makes a value of bytes; it raises for what it cannot read."""


_NAMED: dict[str, FromBytes | None] = {
    "bytes": None,
    "str": lambda data: data.decode("utf-8"),
    "json": msgspec.json.Decoder().decode,
    "msgpack": msgspec.msgpack.Decoder().decode,
}


def reading_of(
    topic: str,
    *,
    decode: Literal["json", "value"] | Decode | None,
    as_columns: bool,
    types: Mapping[str, FieldType] | None,
    event_time: Literal["timestamp"] | EventTime | None,
    on_malformed: MalformedPolicy,
    key_codec: CodecName | Codec,
    value_codec: CodecName | Codec,
) -> MessageReading:
    """How messages of a topic become records; ``KafkaSource`` says what the arguments mean.

    Raises:
        ConfigurationError: Settings that cannot be, or not together.
        MissingExtraError: Columns need pyarrow.
    """
    key_of, value_of = _decoder(key_codec, topic, "key"), _decoder(value_codec, topic, "value")
    fields = None
    if not as_columns:
        if types is not None:
            raise ConfigurationError("types= are of columns: give as_columns=True, or leave them out")
        if decode == "json" and not key_of is value_of is None:
            raise ConfigurationError(
                "decode='json' takes keys and values as bytes: leave out key_codec and value_codec"
            )
    else:
        if key_codec not in ("bytes", "str"):
            raise ConfigurationError(
                f"key_codec={key_codec!r}: as a column keys are 'bytes' or 'str'", setting="key_codec"
            )
        if types is not None:
            fields, decode = TypedFields(types, _format(decode, value_codec, value_of)), None
            value_of = fields.row_of
        elif value_codec not in ("bytes", "str"):
            raise ConfigurationError(
                f"value_codec={value_codec!r}: as one column values are 'bytes' or 'str'; for columns of their fields "
                "give types=, such as types={'user': 'str', 'amount': 'float'}",
                setting="value_codec",
            )
    return MessageReading(topic, decode, as_columns, event_time, on_malformed, key_of, value_of, fields)


def _decoder(codec: CodecName | Codec, topic: str, field: Field) -> FromBytes | None:
    """What makes a value of bytes; None: they stay bytes."""
    if isinstance(codec, str) and codec in _NAMED:
        return _NAMED[codec]
    if isinstance(codec, Codec) and not isinstance(codec, type):
        return codec.decoder(topic, field)
    raise ConfigurationError(
        f"{field}_codec={codec!r}: give {', '.join(map(repr, _NAMED))}, or an AvroCodec or ProtobufCodec of "
        "onceflow.connectors.kafka"
    )


def _format(decode: object, codec: CodecName | Codec, value_of: FromBytes | None) -> Format | Callable[[bytes], Any]:
    """What values are whose fields become columns."""
    if (decode == "json" and codec == "bytes") or (decode is None and codec == "json"):
        return "json"
    if decode is None and codec == "msgpack":
        return "msgpack"
    if decode is None and value_of is not None and codec != "str":
        return value_of
    raise ConfigurationError(
        f"types= with decode={decode!r} and value_codec={codec!r}: of bytes and text there are no fields, and records "
        "that a function makes are no columns; give value_codec='json', 'msgpack', an AvroCodec or a ProtobufCodec"
    )
