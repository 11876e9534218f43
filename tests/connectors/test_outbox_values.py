"""Faults of values that an outbox refuses though other sinks take them, and of advice that is refused when followed."""

import enum
import functools
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from onceflow import Dataflow, run
from onceflow.connectors.outbox import OutboxSink, OutboxTarget
from onceflow.exceptions import SinkError
from onceflow.testing import TestingSource


class Memory(OutboxTarget):
    """What a dict keeps."""

    def __init__(self, kept):
        self._kept = kept

    def read_markers(self, owner):
        return dict(self._kept.get(owner, {}))

    def fence(self, marker):
        self._kept.setdefault(marker.owner, {})[marker.key] = marker.text

    def apply(self, records, marker):
        self._kept.setdefault("records", []).extend(records)
        self.fence(marker)

    def close(self):
        pass


class Colour(enum.Enum):
    RED = "red"


class Moment(datetime):
    """A datetime of another library."""


class Text(str):
    __slots__ = ()


ID = UUID("12345678-1234-5678-1234-567812345678")

VALUES = [
    (time(1, 2, 3, 4), time(1, 2, 3, 4)),
    (time(1, 2, tzinfo=UTC), time(1, 2, tzinfo=UTC)),
    (time(1, 2, fold=1, tzinfo=ZoneInfo("Europe/Berlin")), time(1, 2, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))),
    (time(1, 2, tzinfo=timezone(timedelta(hours=1))), time(1, 2, tzinfo=timezone(timedelta(hours=1)))),
    (ID, ID),
    (Colour.RED, "red"),
    (Text("a"), "a"),
    (np.int64(5), 5),
    (np.float32(0.5), 0.5),
    (np.datetime64("2024-01-01T00:00:00"), datetime(2024, 1, 1, tzinfo=UTC)),
    (Moment(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)),
    (bytearray(b"a"), b"a"),
    (np.array([1, 2]), [1, 2]),
    (MappingProxyType({"a": 1}), {"a": 1}),
    ((1, {2, 3}, frozenset([4])), (1, {2, 3}, frozenset([4]))),
    (Decimal("1.10"), Decimal("1.10")),
    (date(2024, 1, 1), date(2024, 1, 1)),
]


def written(root, records):
    kept = {}
    flow = Dataflow("flow")
    flow.source("in", TestingSource(records)).sink("out", OutboxSink(functools.partial(Memory, kept)))
    run(flow, root / "state")
    return kept["records"]


@pytest.mark.parametrize(("value", "wanted"), VALUES, ids=lambda value: type(value).__name__)
def test_an_outbox_takes_what_all_sinks_take(tmp_path, value, wanted):
    """A value that comes as another one, or not at all."""
    [record, alone] = written(tmp_path, [{"v": value, "in": [value]}, value])
    assert record == {"v": wanted, "in": [wanted]} and alone == wanted
    assert type(alone) is type(wanted)
    if isinstance(wanted, time):
        assert (alone.fold, alone.tzinfo) == (wanted.fold, wanted.tzinfo)


@pytest.mark.parametrize("value", [object(), np.datetime64("2024-01-01T00:00:00.000000001")], ids=["object", "ns"])
def test_what_is_refused_is_told_without_advice_that_does_not_help(tmp_path, value):
    """A message that names the batch in place of the record, and a codec that an outbox does not have."""
    with pytest.raises(
        SinkError, match=r"a record cannot be staged: .* It is a dict; map it to plain values"
    ) as caught:
        written(tmp_path, [{"v": value}])
    assert "pickle" not in str(caught.value) and "list:" not in str(caught.value)
