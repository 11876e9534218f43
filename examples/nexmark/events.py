"""Events of Nexmark, an online auction: persons, auctions, and bids on them, by a seed.

After the generator of Apache Beam's and Flink's Nexmark: of 50 events one is a person, 3 are auctions and 46 are bids;
half of the bids are on a hot auction, three of four by a hot bidder. Each block of events is drawn from a seed of its
own, so the events from any number on are made without those before. A thousand events are a second of event time, and
midnight comes after twenty.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["bid_columns", "bids"]

Bid: TypeAlias = dict[str, Any]

#: Of 50 events in a row the first is a person and the next three are auctions.
_CYCLE, _PERSONS, _AUCTIONS = 50, 1, 3
_BIDS = _CYCLE - _PERSONS - _AUCTIONS
_FIRST_ID = 1_000
_HOT_AUCTION_EVERY, _HOT_BIDDER_EVERY = 100, 100
_IN_FLIGHT, _ACTIVE = 100, 1_000
#: Bids that are drawn at once.
_BLOCK = _BIDS * 100
#: Event time of the first event, and between two of them, in microseconds.
_START_US, _STEP_US = 1_436_918_380_000_000, 1_000
_HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
_CHANNELS = 10_000
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def bid_columns(block: int, seed: int) -> dict[str, Any]:
    """A block of bids.

    Args:
        block: Its number.
        seed: Of all blocks.

    Returns:
        Columns: ``auction``, ``bidder``, ``price`` (cents), ``date_time`` (microseconds since 1970) as int64, and
        ``channel``, ``url``, ``extra`` as lists of text.
    """
    chance = np.random.default_rng([seed, block])
    number = np.arange(block * _BLOCK, (block + 1) * _BLOCK, dtype=np.int64)
    cycle, place = number // _BIDS, number % _BIDS
    last_person = cycle
    last_auction = cycle * _AUCTIONS + _AUCTIONS - 1
    auction = _mixed(chance, 2, last_auction // _HOT_AUCTION_EVERY * _HOT_AUCTION_EVERY, last_auction, _IN_FLIGHT)
    bidder = _mixed(chance, 4, last_person // _HOT_BIDDER_EVERY * _HOT_BIDDER_EVERY + 1, last_person, _ACTIVE)
    price = np.rint(10 ** (chance.random(_BLOCK) * 6) * 100).astype(np.int64)
    channel_number = chance.integers(0, _CHANNELS, _BLOCK)
    is_hot = chance.random(_BLOCK) < 0.5
    hot = chance.integers(0, len(_HOT_CHANNELS), _BLOCK)
    paths = chance.choice(_LETTERS, (_BLOCK, 15))
    channels, urls = [], []
    for row in range(_BLOCK):
        path = "".join(paths[row])
        url = f"https://www.nexmark.com/{path[:5]}/{path[5:10]}/{path[10:]}/item.htm?query=1"
        if is_hot[row]:
            channels.append(_HOT_CHANNELS[hot[row]])
        else:
            channels.append(f"channel-{channel_number[row]}")
            # One of ten has no id in its address.
            if channel_number[row] % 10:
                url += f"&channel_id={channel_number[row]}"
        urls.append(url)
    extra = ["".join(letters) for letters in chance.choice(_LETTERS, (_BLOCK, 20))]
    event = cycle * _CYCLE + _PERSONS + _AUCTIONS + place
    return {
        "auction": auction,
        "bidder": bidder,
        "price": price,
        "channel": channels,
        "url": urls,
        "date_time": _START_US + event * _STEP_US,
        "extra": extra,
    }


def _mixed(
    chance: np.random.Generator, ratio: int, hot: npt.NDArray[np.int64], last: npt.NDArray[np.int64], recent: int
) -> npt.NDArray[np.int64]:
    """Ids: one of ``ratio`` is any of the recent ones, the others are the hot one."""
    least = np.maximum(last - recent, 0)
    any_of = chance.integers(least, last + 1)
    return _FIRST_ID + np.where(chance.integers(0, ratio, len(last)) > 0, hot, any_of)


def bids(position: int, *, count: int, seed: int) -> Iterator[Bid]:
    """Bids from a position on, as an ``IterableSource`` reads them.

    Args:
        position: How many came before.
        count: How many there are.
        seed: Of all of them.
    """
    first = position // _BLOCK
    blocks = (_rows(bid_columns(block, seed)) for block in range(first, -(-count // _BLOCK)))
    for number, bid in enumerate(chain.from_iterable(blocks), first * _BLOCK):
        if number >= count:
            return
        if number >= position:
            yield bid


def _rows(columns: dict[str, Any]) -> Iterator[Bid]:
    lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()]
    for values in zip(*lists, strict=True):
        yield dict(zip(columns, values, strict=True))
