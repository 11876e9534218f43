"""What is said of records that come too late for their windows where nothing takes them."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta

from onceflow.exceptions import LateRecordsWarning
from onceflow.runtime.pipeline import FirstLate
from onceflow.types import FIRST_MICROS, LAST_MICROS, Micros

__all__ = ["warn_of_late"]

#: From where the warning is raised up to who called ``run``.
_STACK_OF_RUN = 9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def warn_of_late(step_id: str, first: FirstLate) -> None:
    """Records of a window step are lost: said once, with the first of them and what can be done."""
    if first.watermark > LAST_MICROS:
        when, more = "when the input had come to its end already", ""
    else:
        when = f"when event time had come to {_text(first.watermark)} already"
        more = f", here by {(first.watermark - first.time) * _MICROSECOND} or more"
    warnings.warn(
        LateRecordsWarning(
            f"step {step_id!r}: records come too late for their windows and are left out; the first one is of "
            f"{_text(first.time)}, {when}. JobResult.late counts them. To take them, add flow.late({step_id!r})"
            f".sink(...); to wait for them, raise max_out_of_orderness{more}, or the window's "
            "allowed_lateness"
        ),
        stacklevel=_STACK_OF_RUN,
    )


def _text(moment: Micros) -> str:
    # A watermark may lie before the first year.
    return (_EPOCH + max(moment, FIRST_MICROS) * _MICROSECOND).isoformat().replace("+00:00", "Z")
