"""Messages of a topic as columns: what codecs and types make of them, and what is malformed."""

from __future__ import annotations

import msgspec
import pytest

from onceflow.connectors.log import LogSource
from onceflow.exceptions import ConfigurationError, MalformedRecordError
from onceflow.log import Log, Producer

TYPES = {"user": "str", "n": "int", "share": "float", "ok": "bool"}


@pytest.fixture
def log(tmp_path):
    with Log.open(tmp_path / "log") as log:
        log.create_topic("t")
        yield log


def write(log, *values, key=b"k"):
    with Producer(log) as producer:
        for value in values:
            producer.produce("t", value, key=key)


def read(log, **settings):
    reader = LogSource(log, "t", **settings).open("0", None)
    batch = reader.read(100)
    reader.close()
    return batch


def test_fields_of_json(log):
    """Types are those that were said, whatever the first batch holds; what has no name is passed over."""
    write(log, b'{"user": "ada", "n": 1, "share": 2, "ok": true, "more": [1]}', b'{"n": null}', None)
    batch = read(log, as_columns=True, types=TYPES, decode="json", key_codec="str", event_time="timestamp")
    columns = batch.records
    assert columns.names == ("partition", "offset", "timestamp_ms", "key", *TYPES)
    assert {name: columns[name].to_pylist() for name in ("key", *TYPES)} == {
        "key": ["k"] * 3,
        "user": ["ada", None, None],
        "n": [1, None, None],
        "share": [2.0, None, None],
        "ok": [True, None, None],
    }
    assert [str(columns[name].type) for name in TYPES] == ["large_string", "int64", "double", "bool"]
    assert len(batch.event_times) == 3


@pytest.mark.parametrize(
    "value",
    [
        b'{"n": 1.5}',
        b'{"n": true}',
        b'{"n": "1"}',
        b'{"n": 9223372036854775808}',
        b'{"share": "1"}',
        b'{"share": 1e400}',
        b'{"share": 9007199254740993}',
        b'{"user": 1}',
        b'{"user": "\xff"}',
        b'{"ok": 1}',
        b"[]",
        b"null",
        b"",
        b'{"n": 1},{"n": 2}',
    ],
    ids=lambda value: repr(value)[2:-1] or "empty",
)
def test_a_value_of_another_type_is_malformed(log, value):
    """None is converted, cut or taken for another: the row is named, and the rows beside it are kept."""
    write(log, b'{"n": 1}', value, b'{"n": 2}')
    settings = {"as_columns": True, "types": TYPES, "value_codec": "json", "event_time": "timestamp"}
    with pytest.raises(MalformedRecordError, match=r"^0:1: "):
        read(log, **settings)
    batch = read(log, **settings, on_malformed="dead_letter")
    assert batch.records["n"].to_pylist() == [1, 2]
    assert batch.records["offset"].tolist() == [0, 2]
    assert [record.position for record in batch.rejected] == ["0:1"]
    assert len(batch.event_times) == 2
    batch = read(log, **settings, on_malformed="skip")
    assert (len(batch.records), batch.skipped) == (2, 1)


def test_text(log):
    """By the codec of either; bytes that are none are malformed."""
    write(log, "grün".encode(), b"\xff", None)
    batch = read(log, as_columns=True, key_codec="str", value_codec="str", on_malformed="skip")
    assert batch.records["value"].to_pylist() == ["grün", None]
    assert batch.skipped == 1
    assert read(log, as_columns=True, key_codec="str").records["value"].to_pylist() == ["grün".encode(), b"\xff", None]


def test_codecs_without_columns(log):
    """As of a topic of Kafka."""
    write(log, msgspec.msgpack.encode({"n": 1}))
    assert read(log, decode="value", value_codec="msgpack").records == [{"n": 1}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"types": TYPES}, "as_columns=True"),
        ({"types": TYPES, "as_columns": True}, "value_codec='json'"),
        ({"types": TYPES, "as_columns": True, "value_codec": "str"}, "value_codec='json'"),
        ({"types": TYPES, "as_columns": True, "decode": len}, "value_codec='json'"),
        ({"types": TYPES, "as_columns": True, "decode": "json", "value_codec": "json"}, "value_codec='json'"),
        ({"types": {"n": "int64"}, "as_columns": True, "decode": "json"}, "choose from int, float"),
        ({"types": {"key": "str"}, "as_columns": True, "decode": "json"}, "columns of every message"),
        ({"types": {"data": "bytes"}, "as_columns": True, "decode": "json"}, "give 'str'"),
        ({"types": {}, "as_columns": True, "decode": "json"}, "names of fields"),
        ({"value_codec": "json", "as_columns": True}, "give types="),
        ({"key_codec": "json", "as_columns": True}, "'bytes' or 'str'"),
        ({"key_codec": "xml"}, "give 'bytes', 'str'"),
        ({"value_codec": "json", "decode": "json"}, "leave out key_codec"),
    ],
    ids=lambda value: None,
)
def test_settings_that_do_not_go_together(log, settings, message):
    """What a message advises is what is taken."""
    with pytest.raises(ConfigurationError, match=message):
        read(log, **settings)
