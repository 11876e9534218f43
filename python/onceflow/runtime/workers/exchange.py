"""Edges by key between workers: what a worker hands out at one, and what comes to it from the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow._native import _key_groups
from onceflow.codec import Codec
from onceflow.columns import Columns
from onceflow.exceptions import OnceflowError, SerializationError
from onceflow.graph.exchanges import Exchange
from onceflow.graph.graph import Graph
from onceflow.graph.partitioning import KeySelector
from onceflow.operators.base import EventTimes
from onceflow.operators.keys import (
    as_instants,
    encode_key,
    first_type,
    fits,
    is_native,
    key_list,
    key_type_of,
    plain_key,
    plain_keys,
    select_keys,
)
from onceflow.runtime.workers.frames import decode_batch, encode_batch
from onceflow.runtime.workers.links import Channel, Frame, Links
from onceflow.types import Batch, Micros

__all__ = ["KEY_GROUPS", "Edges", "Inlet", "owners"]

#: Keys are dealt out to workers in so many groups.
KEY_GROUPS = 128

Owners = npt.NDArray[np.int64]


class _Step(Protocol):
    """A step of the pipeline that takes records."""

    def take(self, records: Batch, times: EventTimes) -> None: ...

    def advance(self) -> None: ...

    def expect(self, origin: Any) -> None: ...


class _Origin(Protocol):
    """Whose outputs have a watermark, and go to users."""

    users: list[Any]
    watermark: Micros | None
    idle: bool

    def emit(self, records: Batch, times: EventTimes = None) -> None: ...

    def tell(self, watermark: Micros | None, *, idle: bool) -> None: ...


def owners(selector: KeySelector, step_id: str, records: Batch, workers: int) -> Owners:
    """For each record the number of the worker that has its key.

    What is no key is anybody's: the step refuses it, as it does where there is one worker.
    """
    keys = select_keys(selector, step_id, records)
    try:
        keys = plain_keys(keys)
        if isinstance(keys, list):
            keys = as_instants(keys)
        kind: Any = first_type(keys)
        if is_native(kind):
            return _workers_of(_key_groups(keys, kind, KEY_GROUPS), workers)
    except OnceflowError:
        pass
    try:
        groups = [_group(key) for key in key_list(keys)]
    except OnceflowError:
        return np.zeros(len(records), np.int64)
    return _workers_of(np.asarray(groups, np.int64), workers)


def _workers_of(groups: npt.NDArray[Any], workers: int) -> Owners:
    return groups.astype(np.int64) * workers // KEY_GROUPS


def _group(key: Any) -> int:
    """The group of a key of any type: by how the tables have it, so that it does not depend on who asks."""
    key = plain_key(key)
    try:
        kind: Any = key_type_of(key)
        if kind == "i64" and not fits(kind, key):
            kind = "u64"
        if is_native(kind) and fits(kind, key):
            return int(_key_groups([key], kind, KEY_GROUPS)[0])
        return int(_key_groups([encode_key(key)], "bytes", KEY_GROUPS)[0])
    except OnceflowError:
        return 0


class _Outlet:
    """Where records leave a step for the workers that have their keys; those of this worker stay."""

    def __init__(self, edges: Edges, number: int, exchange: Exchange, consumer: _Step, make: Callable[[], Any]) -> None:
        self._edges = edges
        self._number = number
        self._exchange = exchange
        self._codec = edges.codec
        #: Whose watermark the other workers are told.
        self.origin: Any = None
        #: What stays here comes from it, and what comes from each other worker from one of these.
        self.own = make()
        self.others = {rank: make() for rank in edges.others}
        for node in (self.own, *self.others.values()):
            node.users.append(consumer)

    def take(self, records: Batch, times: EventTimes) -> None:
        edges, exchange = self._edges, self._exchange
        to = owners(exchange.key.selector, exchange.step_id, records, edges.count)
        for rank in np.unique(to).tolist():
            some, their_times = _of(records, times, to, rank)
            if rank == edges.rank:
                self.own.emit(some, their_times)
                continue
            try:
                data = encode_batch(some, their_times, self._codec)
            except SerializationError as error:
                raise SerializationError(
                    f"step {exchange.step_id!r}: a record cannot be handed to the worker that has its key: {error}"
                ) from error
            edges.links.send((rank, self._number), Frame.BATCH, data)

    def advance(self) -> None:
        mark = (self.origin.watermark, self.origin.idle)
        data = msgspec.msgpack.encode(mark)
        for rank in self._edges.others:
            self._edges.links.send((rank, self._number), Frame.WATERMARK, data)
        self.own.tell(mark[0], idle=mark[1])

    def expect(self, origin: _Origin) -> None:
        self.origin = origin


def _of(records: Batch, times: EventTimes, to: Owners, rank: int) -> tuple[Batch, EventTimes]:
    """Those of a batch that go to one worker."""
    rows = np.flatnonzero(to == rank)
    if len(rows) == len(to):
        return records, times
    some = records.take(rows) if isinstance(records, Columns) else [records[row] for row in rows.tolist()]
    return some, None if times is None else times[rows]


class Inlet:
    """A channel from another worker.

    Attributes:
        channel: Which.
        stage: See ``Exchange``.
        node: Its records come from it.
        barrier: The newest checkpoint whose barrier has come.
        has_ended: Nothing more comes in this run.
    """

    def __init__(self, channel: Channel, stage: int, node: Any) -> None:
        self.channel = channel
        self.stage = stage
        self.node = node
        self.barrier = 0
        self.has_ended = False


class Edges:
    """All exchanges of one worker.

    Args:
        graph: What it runs.
        found: Its exchanges.
        rank: Number of the worker.
        count: Of workers.
        links: To the others.
        codec: How records are written on their way.
    """

    def __init__(
        self, graph: Graph, found: Sequence[Exchange], rank: int, count: int, links: Links, codec: Codec
    ) -> None:
        self.rank = rank
        self.count = count
        self.links = links
        self.codec = codec
        self.others = [other for other in range(count) if other != rank]
        self.exchanges = list(found)
        self._numbers = {(exchange.step_id, exchange.number): n for n, exchange in enumerate(found)}
        self._outlets: dict[int, _Outlet] = {}
        self.last_stage = max((exchange.stage for exchange in found), default=0)

    def outlet(self, step_id: str, number: int, consumer: _Step, make: Callable[[], Any]) -> _Step:
        """What takes the records of an edge in the place of its step; the step itself where it is no exchange.

        Args:
            step_id, number: Which step, and which input of it.
            consumer: The step.
            make: Makes what records come from.
        """
        place = self._numbers.get((step_id, number))
        if place is None:
            return consumer
        self._outlets[place] = outlet = _Outlet(self, place, self.exchanges[place], consumer, make)
        for node in (outlet.own, *outlet.others.values()):
            consumer.expect(node)
        return outlet

    def inlets(self) -> list[Inlet]:
        """The channels from other workers, those that have come furthest first: what they give rise to waits for
        nobody else."""
        return [
            Inlet((rank, place), self.exchanges[place].stage, outlet.others[rank])
            for place, outlet in sorted(self._outlets.items(), key=lambda item: -self.exchanges[item[0]].stage)
            for rank in self.others
        ]

    def announce(self) -> None:
        """Says how far event time has come, to all that have begun where this worker does."""
        for outlet in self._outlets.values():
            outlet.advance()

    def send(self, stage: int, kind: Frame, payload: bytes = b"") -> None:
        """A frame into all channels of a stage."""
        for place, exchange in enumerate(self.exchanges):
            if exchange.stage == stage:
                for rank in self.others:
                    self.links.send((rank, place), kind, payload)

    def is_full(self, stage: int) -> bool:
        """Whether more for a stage should wait."""
        return any(self.links.is_full(place) for place, each in enumerate(self.exchanges) if each.stage == stage)

    def batch(self, data: bytes) -> tuple[Batch, EventTimes]:
        """What came in a frame."""
        return decode_batch(data, self.codec)
