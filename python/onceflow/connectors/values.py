"""Values as sinks hold them: one set of types for all, in rows and in columns alike.

None, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID, members of enumerations (as their
values), and numpy's scalars (as Python's); in JSON and Parquet also lists and mappings of them. Times are instants:
formats of text get them as ISO 8601 in UTC, and one without a zone is UTC. CSV has no text for bytes and containers.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow.columns import Columns, to_list
from onceflow.types import Batch

__all__ = [
    "arrow_arrays",
    "csv_value",
    "has_csv_text",
    "iso_text",
    "json_line",
    "json_lines",
    "plain_columns",
    "plain_value",
]

#: A time as JSON has it that is not known to be in UTC: of a datetime with another zone or none, or a text like that.
_NO_UTC = re.compile(rb'T\d\d:\d\d:\d\d(?:\.\d{6})?(?:[+-]\d\d:\d\d(?::\d\d(?:\.\d{6})?)?)?"')
_SCALARS = frozenset({NoneType, bool, int, float, str, bytes, date, time, timedelta, Decimal, UUID})
_PLAIN = _SCALARS | {dict, list}
_DATES = ("Y", "M", "W", "D")
_FIRST, _LAST = np.datetime64(datetime.min, "us"), np.datetime64(datetime.max, "us")
#: Kinds whose ``str`` is their text.
_CSV_KINDS = (NoneType, str, bool, int, float, Decimal, date, time, timedelta, UUID)


def iso_text(moment: datetime) -> str:
    """``2024-01-01T00:00:00Z``, with microseconds if there are any; without a zone it is UTC."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat().removesuffix("+00:00") + "Z"


def plain_value(value: Any) -> Any:
    """A numpy scalar or array, or a member of an enumeration, as Python's value; anything else raises ``TypeError``."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain_value(item) for item in value]
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return to_list(np.array([value]))[0]
    plain = value.item() if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biufSUO" else value
    if plain is value or isinstance(plain, (np.generic, np.ndarray)):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    return plain


_encoder = msgspec.json.Encoder(enc_hook=plain_value)


def json_lines(records: Batch) -> bytes:
    """Records as JSON, one a line.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: JSON cannot hold one.
    """
    rows = plain_columns(records).to_rows() if isinstance(records, Columns) else records
    data = _encoder.encode_lines(rows)
    if _NO_UTC.search(data) and not _are_plain(rows):
        data = _encoder.encode_lines([_in_utc(row) for row in rows])
    return data


def json_line(record: Any) -> bytes:
    """One record as JSON, without the end of the line; raises as ``json_lines``."""
    data = _encoder.encode(record)
    return _encoder.encode(_in_utc(record)) if _NO_UTC.search(data) else data


def _are_plain(rows: Sequence[Any]) -> bool:
    """Whether there is no time in rows, in lists and dicts of them either: what looked like one is text."""
    while True:
        kinds = set(map(type, rows))
        if not kinds <= _PLAIN:
            return False
        dicts = [row for row in rows if type(row) is dict] if dict in kinds else []
        lists = [row for row in rows if type(row) is list] if list in kinds else []
        if not dicts and not lists:
            return True
        if not set(map(type, chain.from_iterable(dicts))) <= _SCALARS:
            return False
        rows = [*chain.from_iterable(map(dict.values, dicts)), *chain.from_iterable(lists)]


def _in_utc(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, datetime):
        return iso_text(value)
    if isinstance(value, Mapping):
        return {_in_utc(key): _in_utc(item) for key, item in value.items()}
    if kind in (list, tuple, set, frozenset):
        return [_in_utc(item) for item in value]
    plain = msgspec.to_builtins(value, builtin_types=(datetime,), enc_hook=plain_value)
    return plain if type(plain) is kind else _in_utc(plain)


def has_csv_text(kinds: Iterable[type]) -> bool:
    """Whether ``str`` of values of these types is their text in CSV."""
    return all(
        issubclass(kind, _CSV_KINDS) and not issubclass(kind, (datetime, np.generic, enum.Enum)) for kind in kinds
    )


def csv_value(value: Any) -> Any:
    """A value whose ``str`` is its text.

    Raises:
        TypeError: It has none.
    """
    if isinstance(value, (np.generic, enum.Enum)):
        value = plain_value(value)
    if isinstance(value, datetime):
        return iso_text(value)
    if not isinstance(value, _CSV_KINDS):
        raise TypeError(f"CSV cannot hold {type(value).__name__}")
    return value


def plain_columns(columns: Columns) -> Columns:
    """The columns with times as ISO text, None where there is none."""
    arrays = columns.arrays
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) and str(array.type).startswith("timestamp"):
            arrays[name] = _iso_texts(array.to_numpy(zero_copy_only=False))
        elif isinstance(array, np.ndarray) and array.dtype.kind == "M" and not _holds_dates(array):
            arrays[name] = _iso_texts(array)
    return Columns(arrays)


def _holds_dates(array: npt.NDArray[Any]) -> bool:
    """Whole days, which are dates in rows too."""
    return np.datetime_data(array.dtype)[0] in _DATES


def arrow_arrays(columns: Columns) -> dict[str, Any]:
    """The columns for Arrow, with numpy's times as instants in UTC, which they are as objects, too."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    arrays = columns.arrays
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and array.dtype.kind == "M" and not _holds_dates(array):
            known = np.datetime_data(array.dtype)[0] in ("s", "ms", "us", "ns")
            times = pa.array(array if known else array.astype("M8[us]"))
            arrays[name] = times.cast(pa.timestamp(times.type.unit, "UTC"))
    return arrays


def _iso_texts(moments: npt.NDArray[np.datetime64]) -> Any:
    """Raises ``TypeMismatchError`` for times that Python does not have, as making objects of them does."""
    micros = moments.astype("M8[us]")
    known = ~np.isnat(moments)
    if not ((micros.astype(moments.dtype) == moments) & (micros >= _FIRST) & (micros <= _LAST))[known].all():
        to_list(moments)
    texts = np.datetime_as_string(micros, unit="us").tolist()
    plain = np.empty(len(texts), dtype=object)
    plain[:] = [None if text == "NaT" else text.removesuffix(".000000") + "Z" for text in texts]
    return plain
