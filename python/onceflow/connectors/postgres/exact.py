"""Values of PostgreSQL that Python's own types do not hold: they come as Decimals and texts, not rounded."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import IntervalLoader
from psycopg.types.json import set_json_loads

__all__ = ["json_of", "keep_exact"]


def keep_exact(session: psycopg.Connection[Any]) -> None:
    """Has a session give such values; its ``IntervalStyle`` is that of PostgreSQL."""
    session.adapters.register_loader("interval", _Interval)
    set_json_loads(json_of, session)


def json_of(text: str | bytes) -> Any:
    """JSON, with a number as a float where that is the number that was written, and else as a Decimal."""
    return json.loads(text, parse_float=_number)


def _number(text: str) -> float | Decimal:
    number, exact = float(text), Decimal(text)
    return number if Decimal(repr(number)) == exact else exact


class _Interval(IntervalLoader):
    """A timedelta, or the text where the interval has months or years, which have no length of their own."""

    def load(self, data: Buffer) -> Any:
        text = bytes(data)
        return text.decode() if b"mon" in text or b"year" in text else super().load(data)
