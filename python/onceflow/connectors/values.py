"""Values as formats of text hold them: times are ISO 8601 in UTC, in rows and in columns alike."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow.columns import Columns

__all__ = ["iso_text", "plain_columns"]


def iso_text(moment: datetime) -> str:
    """``2024-01-01T00:00:00Z``, with microseconds if there are any; without a zone it is UTC."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat().removesuffix("+00:00") + "Z"


def plain_columns(columns: Columns) -> Columns:
    """The columns with times as ISO text, None where there is none."""
    arrays = columns.arrays
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) and str(array.type).startswith("timestamp"):
            arrays[name] = _iso_texts(array.to_numpy(zero_copy_only=False))
        elif isinstance(array, np.ndarray) and array.dtype.kind == "M":
            arrays[name] = _iso_texts(array)
    return Columns(arrays)


def _iso_texts(moments: npt.NDArray[np.datetime64]) -> Any:
    texts = np.datetime_as_string(moments.astype("M8[us]"), unit="us").tolist()
    plain = np.empty(len(texts), dtype=object)
    plain[:] = [None if text == "NaT" else text.removesuffix(".000000") + "Z" for text in texts]
    return plain
