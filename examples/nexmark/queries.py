"""Queries of Nexmark that go by bids alone, each as a dataflow and as SQL over the same bids.

Group aggregates without windows (q15 to q18) hand out a result for each change; the last one of a key is the answer, as
a sink that replaces rows by key keeps it. q12 counts by the time of the event and not of the clock, so that its answer
can be compared.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from onceflow import count, last, max, mean, min, sum
from onceflow.dataflow import Stream
from onceflow.state import MapState, Processor, ValueState
from onceflow.windows import Tumbling

__all__ = ["QUERIES", "Query"]

_TEN_S = timedelta(seconds=10)
_RANKS = (10_000, 1_000_000)


@dataclass(frozen=True)
class Query:
    """Attributes:
    flow: Makes the answer of a stream of bids.
    sql: The same of a table ``bid``, in DuckDB.
    key: Fields by which a later record of the answer replaces an earlier one; empty: each record stays.
    """

    flow: Callable[[Stream], Stream]
    sql: str
    key: tuple[str, ...] = ()


def _when(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def _day(bid: dict[str, Any]) -> str:
    return f"{_when(bid['date_time']):%Y-%m-%d}"


def _rank(price: int) -> int:
    return 1 if price < _RANKS[0] else 2 if price < _RANKS[1] else 3


# -- each bid for itself -------------------------------------------------------------------------


def _q0(bids: Stream) -> Stream:
    return bids


def _q1(bids: Stream) -> Stream:
    return bids.map(lambda bid: {**bid, "price": bid["price"] * 908 // 1000})


def _q2(bids: Stream) -> Stream:
    return bids.filter(lambda bid: bid["auction"] % 123 == 0).map(
        lambda bid: {"auction": bid["auction"], "price": bid["price"]}
    )


def _q14(bids: Stream) -> Stream:
    def row(bid: dict[str, Any]) -> dict[str, Any]:
        hour = _when(bid["date_time"]).hour
        kind = "dayTime" if 8 <= hour <= 18 else "nightTime" if hour <= 6 or hour >= 20 else "otherTime"
        price = bid["price"] * 908 // 1000
        return {"auction": bid["auction"], "price": price, "time_type": kind, "c_counts": bid["extra"].count("c")}

    return bids.map(row).filter(lambda bid: 1_000_000 < bid["price"] < 50_000_000)


_CHANNEL_ID = re.compile(r"(?:&|^)channel_id=([^&]*)")
_HOT_IDS = {"apple": "0", "google": "1", "facebook": "2", "baidu": "3"}


def _q21(bids: Stream) -> Stream:
    def with_channel_id(bid: dict[str, Any]) -> Iterator[dict[str, Any]]:
        found = _HOT_IDS.get(bid["channel"].lower())
        if found is None and (match := _CHANNEL_ID.search(bid["url"])):
            found = match[1]
        if found is not None:
            yield {"auction": bid["auction"], "channel": bid["channel"], "channel_id": found}

    return bids.flat_map(with_channel_id)


def _q22(bids: Stream) -> Stream:
    def directories(bid: dict[str, Any]) -> dict[str, Any]:
        parts = bid["url"].split("/")
        return {"auction": bid["auction"], "dir1": parts[3], "dir2": parts[4], "dir3": parts[5]}

    return bids.map(directories)


# -- windows -------------------------------------------------------------------------------------


def _q7(bids: Stream) -> Stream:
    """The highest bid of each ten seconds; of equal ones the one that came first."""
    highest = (
        bids.key_by(lambda _: 0)
        .window("highest", Tumbling(seconds=10))
        .aggregate(bid=max(lambda bid: (bid["price"], -bid["date_time"], bid["auction"], bid["bidder"])))
    )

    def row(window: dict[str, Any]) -> dict[str, Any]:
        price, minus_time, auction, bidder = window["bid"]
        return {"auction": auction, "price": price, "bidder": bidder, "date_time": -minus_time}

    return highest.map(row)


def _q12(bids: Stream) -> Stream:
    counts = bids.key_by("bidder").window("counts", Tumbling(seconds=10)).aggregate(bid_count=count())
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return counts.map(
        lambda row: {
            "bidder": row["bidder"],
            "bid_count": row["bid_count"],
            "window_start": (row["window_start"] - epoch) // timedelta(microseconds=1),
        }
    )


# -- the newest answer of each key ---------------------------------------------------------------


class _Statistics(Processor):
    """Bids, bidders and auctions of a key: all of them, and by the rank of the price."""

    bids = ValueState(default=(0, 0, 0, 0))
    bidders = ValueState(default=(0, 0, 0, 0))
    auctions = ValueState(default=(0, 0, 0, 0))
    minute = ValueState(default="")
    #: For which of the four a bidder, or an auction, was counted.
    ranks_of_bidder = MapState()
    ranks_of_auction = MapState()

    def process(self, record: Any) -> Iterator[Any]:
        rank = _rank(record["price"])
        self.bids.set(_plus(self.bids.get(), {0, rank}))
        for seen, known, totals in (
            (record["bidder"], self.ranks_of_bidder, self.bidders),
            (record["auction"], self.ranks_of_auction, self.auctions),
        ):
            before = frozenset(known.get(seen, ()))
            new = {0, rank} - before
            if new:
                known.put(seen, tuple(sorted(before | new)))
                totals.set(_plus(totals.get(), new))
        latest = builtins.max(self.minute.get(), f"{_when(record['date_time']):%H:%M}")
        self.minute.set(latest)
        key = self.key if isinstance(self.key, tuple) else (self.key,)
        names = ("channel", "day")[-len(key) :]
        yield {
            **dict(zip(names, key, strict=True)),
            "minute": latest,
            **_named("bids", self.bids.get()),
            **_named("bidders", self.bidders.get()),
            **_named("auctions", self.auctions.get()),
        }


def _plus(totals: tuple[int, ...], at: set[int]) -> tuple[int, ...]:
    return tuple(total + (place in at) for place, total in enumerate(totals))


def _named(what: str, totals: tuple[int, ...]) -> dict[str, int]:
    return dict(zip((f"total_{what}", *(f"rank{rank}_{what}" for rank in (1, 2, 3))), totals, strict=True))


def _q15(bids: Stream) -> Stream:
    return bids.key_by(_day).process("statistics", _Statistics)


def _q16(bids: Stream) -> Stream:
    return bids.key_by(lambda bid: (bid["channel"], _day(bid))).process("statistics", _Statistics)


def _q17(bids: Stream) -> Stream:
    rows = bids.map(lambda bid: {**bid, "day": _day(bid), "rank": _rank(bid["price"])})
    return rows.key_by("auction", "day").aggregate(
        "statistics",
        total_bids=count(),
        rank1_bids=sum(lambda bid: bid["rank"] == 1),
        rank2_bids=sum(lambda bid: bid["rank"] == 2),
        rank3_bids=sum(lambda bid: bid["rank"] == 3),
        min_price=min("price"),
        max_price=max("price"),
        avg_price=mean("price"),
        sum_price=sum("price"),
    )


def _q18(bids: Stream) -> Stream:
    return bids.key_by("bidder", "auction").aggregate(
        "last", price=last("price"), channel=last("channel"), date_time=last("date_time"), extra=last("extra")
    )


_DAY = "strftime(make_timestamp(date_time), '%Y-%m-%d') AS day"
_CASES = {
    "rank1": f"price < {_RANKS[0]}",
    "rank2": f"price >= {_RANKS[0]} AND price < {_RANKS[1]}",
    "rank3": f"price >= {_RANKS[1]}",
}
_BY_RANK = {
    what: ", ".join(f"count({of}) FILTER (WHERE {case}) AS {rank}_{what}" for rank, case in _CASES.items())
    for what, of in (("bids", "*"), ("bidders", "DISTINCT bidder"), ("auctions", "DISTINCT auction"))
}
_STATISTICS = f"""
    max(strftime(make_timestamp(date_time), '%H:%M')) AS minute,
    count(*) AS total_bids, {_BY_RANK["bids"]},
    count(DISTINCT bidder) AS total_bidders, {_BY_RANK["bidders"]},
    count(DISTINCT auction) AS total_auctions, {_BY_RANK["auctions"]}"""
_TEN_S_OF = "date_time // 10000000 * 10000000"

QUERIES = {
    "q0": Query(_q0, "SELECT * FROM bid"),
    "q1": Query(_q1, "SELECT * REPLACE (price * 908 // 1000 AS price) FROM bid"),
    "q2": Query(_q2, "SELECT auction, price FROM bid WHERE auction % 123 = 0"),
    "q7": Query(
        _q7,
        f"""SELECT auction, price, bidder, date_time FROM bid
            QUALIFY row_number() OVER (PARTITION BY {_TEN_S_OF} ORDER BY price DESC, date_time) = 1""",
    ),
    "q12": Query(_q12, f"SELECT bidder, count(*) AS bid_count, {_TEN_S_OF} AS window_start FROM bid GROUP BY ALL"),
    "q14": Query(
        _q14,
        """SELECT auction, price * 908 // 1000 AS price,
             CASE WHEN hour(make_timestamp(date_time)) BETWEEN 8 AND 18 THEN 'dayTime'
                  WHEN hour(make_timestamp(date_time)) <= 6 OR hour(make_timestamp(date_time)) >= 20 THEN 'nightTime'
                  ELSE 'otherTime' END AS time_type,
             len(extra) - len(replace(extra, 'c', '')) AS c_counts
           FROM bid WHERE price * 908 // 1000 > 1000000 AND price * 908 // 1000 < 50000000""",
    ),
    "q15": Query(_q15, f"SELECT {_DAY}, {_STATISTICS} FROM bid GROUP BY day", ("day",)),
    "q16": Query(_q16, f"SELECT channel, {_DAY}, {_STATISTICS} FROM bid GROUP BY channel, day", ("channel", "day")),
    "q17": Query(
        _q17,
        f"""SELECT auction, {_DAY}, count(*) AS total_bids, {_BY_RANK["bids"]}, min(price) AS min_price,
              max(price) AS max_price, avg(price) AS avg_price, sum(price)::BIGINT AS sum_price
            FROM bid GROUP BY auction, day""",
        ("auction", "day"),
    ),
    "q18": Query(
        _q18,
        """SELECT bidder, auction, price, channel, date_time, extra FROM bid
           QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) = 1""",
        ("bidder", "auction"),
    ),
    "q21": Query(
        _q21,
        """SELECT auction, channel,
             CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2'
               WHEN 'baidu' THEN '3' ELSE regexp_extract(url, '(&|^)channel_id=([^&]*)', 2) END AS channel_id
           FROM bid WHERE lower(channel) IN ('apple', 'google', 'facebook', 'baidu')
             OR regexp_matches(url, '(&|^)channel_id=')""",
    ),
    "q22": Query(
        _q22,
        """SELECT auction, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2,
             split_part(url, '/', 6) AS dir3 FROM bid""",
    ),
}
