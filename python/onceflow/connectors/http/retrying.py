"""When a request is sent again: exponential backoff with jitter, as the server asks, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import tenacity

from onceflow.connectors.waiting import Waiting

__all__ = ["AgainError", "retrying", "unless_failed", "wanted_wait_s"]


class AgainError(Exception):
    """An attempt that has not come to an answer that counts.

    Args:
        reason: Why, for people.
        wait_s: How long the server wants to be left alone.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def retrying(*, backoff_s: float, max_backoff_s: float, deadline_s: float) -> tenacity.AsyncRetrying:
    """Repeats a call that raises ``AgainError``; the last one is raised when the next attempt would be too late.

    Waits are random, from nothing up to a bound that doubles (full jitter: Brooker, "Exponential Backoff and Jitter",
    2015), on top of what the server has asked for.
    """
    jitter = tenacity.wait_random_exponential(multiplier=backoff_s, max=max_backoff_s)

    def wait(state: tenacity.RetryCallState) -> float:
        error = None if state.outcome is None else state.outcome.exception()
        return jitter(state) + (error.wait_s if isinstance(error, AgainError) else 0.0)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(AgainError),
        wait=wait,
        stop=tenacity.stop_before_delay(deadline_s),
        reraise=True,
    )


def unless_failed(retry: tenacity.AsyncRetrying, failed: asyncio.Event, waiting: Waiting) -> tenacity.AsyncRetrying:
    """The same, but nothing is waited for, or tried again, once an event is set; and it is told."""

    async def sleep(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(failed.wait(), seconds)

    def stop(state: tenacity.RetryCallState) -> bool:
        return failed.is_set() or bool(retry.stop(state))

    def missed(state: tenacity.RetryCallState) -> None:
        waiting.missed(state.outcome.exception() if state.outcome else "", state.start_time)

    return retry.copy(sleep=sleep, stop=stop, before_sleep=missed)


def wanted_wait_s(headers: Mapping[str, str], now: datetime) -> float:
    """What ``Retry-After`` says (RFC 9110, 10.2.3), in seconds; 0 if it is not there, or says nothing that is known.

    Args:
        headers: Of the answer. A date is compared with the server's own ``Date``, where it is there: clocks differ.
        now: The time here.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        # More digits than any wait has.
        return float(text[:12])
    until = _date(text)
    if until is None:
        return 0.0
    return max((until - (_date(headers.get("date", "")) or now)).total_seconds(), 0.0)


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
