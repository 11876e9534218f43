"""The settings of one run, checked before anything is opened."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

from onceflow.clock import Clock
from onceflow.codec import Codec, codec_by_name
from onceflow.events import JobEvent
from onceflow.exceptions import ConfigurationError
from onceflow.graph.compatibility import OnChange, checked_on_change
from onceflow.restart import ExponentialBackoff, FixedDelay, RestartPolicy
from onceflow.runtime.resume_from import RESUME_WORDS
from onceflow.types import Guarantee, Until

__all__ = ["JobOptions"]

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """See ``run``, which says what each setting means.

    Raises:
        ConfigurationError: A setting that cannot be, by its name, with what it was and what can be.
    """

    checkpoint_interval_s: float
    guarantee: Guarantee
    batch_size: int
    codec: Codec
    retain: int
    savepoint: str | None
    resume_from: int | str
    take_over: bool
    on_change: OnChange
    on_event: Callable[[JobEvent], None] | None
    clock: Clock
    until: Until
    max_drift_us: int | None
    restart: RestartPolicy | None
    checkpoint_timeout_s: float
    checkpoint_min_pause_s: float
    workers: int

    def next_checkpoint_s(self, *, last_start_s: float, last_end_s: float) -> float:
        """When the next checkpoint begins, if there is something new by then.

        Args:
            last_start_s, last_end_s: Of the one before, by the job's clock.
        """
        return max(last_start_s + self.checkpoint_interval_s, last_end_s + self.checkpoint_min_pause_s)

    @classmethod
    def checked(
        cls,
        *,
        checkpoint_interval_s: Any,
        guarantee: Any,
        batch_size: Any,
        codec: Any,
        retain: Any,
        savepoint: Any,
        resume_from: Any,
        take_over: Any,
        on_change: Any,
        on_event: Any,
        clock: Any,
        until: Any,
        max_drift_s: Any,
        restart: Any,
        checkpoint_timeout_s: Any,
        checkpoint_min_pause_s: Any,
        workers: Any,
    ) -> JobOptions:
        """The options, of whatever a user gave."""
        options = cls(
            checkpoint_interval_s=_seconds("checkpoint_interval_s", checkpoint_interval_s),
            guarantee=Guarantee(guarantee),
            batch_size=_whole("batch_size", batch_size),
            codec=codec_by_name(codec),
            retain=_whole("retain", retain),
            savepoint=_savepoint(savepoint),
            resume_from=_resume_from(resume_from),
            take_over=_switch("take_over", take_over),
            on_change=checked_on_change(on_change),
            on_event=on_event,
            clock=clock,
            until=_until(until),
            max_drift_us=None if max_drift_s is None else round(_seconds("max_drift_s", max_drift_s) * 1_000_000),
            restart=_restart(restart),
            checkpoint_timeout_s=_seconds("checkpoint_timeout_s", checkpoint_timeout_s),
            checkpoint_min_pause_s=0.0
            if checkpoint_min_pause_s is None
            else _seconds("checkpoint_min_pause_s", checkpoint_min_pause_s),
            workers=_whole("workers", workers),
        )
        if on_event is not None and not callable(on_event):
            raise _refusal("on_event", on_event, "give a function of one event, or None")
        if not all(callable(getattr(clock, name, None)) for name in ("monotonic", "now")):
            raise _refusal("clock", clock, "give a Clock, with methods monotonic() and now()")
        return options


def _refusal(name: str, value: Any, advice: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is {value!r}; {advice}", setting=name)


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise _refusal(name, value, "give a number of seconds above 0, such as 0.5 or 10")
    return float(value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or not 1 <= value < 1 << 31:
        raise _refusal(name, value, "give a whole number from 1 on")
    return int(value)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refusal(name, value, "give True or False")
    return value


def _until(value: Any) -> Until:
    if value not in ("end", "caught_up"):
        raise _refusal(
            "until", value, "give 'end' (the job is over when its sources are) or 'caught_up' (what is there now)"
        )
    return cast("Until", value)


def _restart(value: Any) -> RestartPolicy | None:
    if value is not None and not isinstance(value, FixedDelay | ExponentialBackoff):
        raise _refusal(
            "restart", value, "give a FixedDelay or ExponentialBackoff of onceflow.restart, or None: a failure ends it"
        )
    return value


def _savepoint(value: Any) -> str | None:
    if value is None:
        return None
    # A command line takes digits for a number.
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_NAME or value.isdigit() or not value.isprintable():
        raise _refusal("savepoint", value, f"give a name of 1 to {_LONGEST_NAME} characters that is not a number")
    if value in RESUME_WORDS:
        raise _refusal("savepoint", value, "which means something else to resume_from: give another name")
    return value


def _resume_from(value: Any) -> int | str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__") or not 1 <= value < 1 << 63:
        raise _refusal(
            "resume_from",
            value,
            "give 'newest', 'none', the number of a checkpoint (from 1 on) or the name of a savepoint",
        )
    return int(value)
