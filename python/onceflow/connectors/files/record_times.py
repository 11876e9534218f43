"""Event times by a function of the user's, of records or of batches of columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onceflow.columns import Columns
from onceflow.connectors.event_time import EventTimeParser
from onceflow.exceptions import ConfigurationError, SourceError

__all__ = ["EventTime", "check_event_time", "times_of_columns", "times_of_records"]

#: The name of a column or member, or a function: of a record, that gives ISO text, a datetime, a date or seconds since
#: 1970; of ``Columns``, that gives an int64 array of microseconds since 1970, one a row.
EventTime: TypeAlias = str | Callable[[Any], Any]


def check_event_time(event_time: EventTime | None) -> EventTime | None:
    """The setting, if it is one."""
    if event_time is None or (isinstance(event_time, str) and event_time) or callable(event_time):
        return event_time
    raise ConfigurationError(f"event_time={event_time!r}: give a name, or a function of a record", setting="event_time")


def times_of_records(
    function: Callable[[Any], Any], records: Sequence[Any], parser: EventTimeParser
) -> npt.NDArray[np.int64]:
    """A time for each record.

    Raises:
        ValueError: The function raises, or gives no time.
    """
    try:
        return parser.parse(list(map(function, records)))
    except Exception as error:
        raise ValueError(f"its event_time: {type(error).__name__}: {error}") from error


def times_of_columns(function: Callable[[Any], Any], columns: Columns, where: str) -> npt.NDArray[np.int64]:
    """A time for each row; they may be out of range.

    Raises:
        SourceError: The function raises, or gives something else.
    """
    try:
        times = function(columns)
    except Exception as error:
        raise SourceError(f"{where}: event_time raised {type(error).__name__}: {error}") from error
    if not isinstance(times, np.ndarray) or times.dtype != np.int64 or times.shape != (len(columns),):
        raise SourceError(
            f"{where}: event_time must give an int64 array of {len(columns)} times in microseconds since 1970 for a "
            f"batch of columns, not {times!r}"
        )
    return times
