"""Clients of the embedded log that write down what they do, each operation before the next one begins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from onceflow._native import Log, LogProducer
from onceflow.exceptions import InvalidTransactionStateError, ProducerFencedError
from onceflow.testing.histories import PartitionOffset, Record, Recorder

__all__ = ["RecordingConsumer", "RecordingProducer", "now_ms"]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def definite(error: BaseException) -> bool:
    """Whether a call surely did nothing."""
    return isinstance(error, (ProducerFencedError, InvalidTransactionStateError))


class RecordingProducer:
    """An idempotent producer, with an id a transactional one."""

    def __init__(
        self,
        log: Log,
        histories: Path,
        client: str,
        *,
        transactional_id: str | None = None,
        max_buffered_bytes: int = 1 << 24,
    ) -> None:
        self.recorder = Recorder(histories, client, definite=definite)
        self._producer = LogProducer(
            log, now_ms=now_ms(), transactional_id=transactional_id, max_buffered_bytes=max_buffered_bytes
        )
        if transactional_id is not None:
            self._producer.init_transactions(now_ms=now_ms())

    def begin(self) -> None:
        self._producer.begin_transaction(now_ms=now_ms())
        self.recorder.begin()

    def send(self, topic: str, partition: int, values: Sequence[str]) -> None:
        """Records for one partition."""
        calls = [self.recorder.send(topic, value, partition) for value in values]
        try:
            places = self._producer.produce(topic, values, partition=partition, now_ms=now_ms())
        except BaseException as error:
            for call in calls:
                self.recorder.not_sent(call, error)
            raise
        if places:
            ((_, _, first, _),) = places
            for at, call in enumerate(calls):
                self.recorder.sent(call, partition, first + at)
        else:
            # Its offset is given out at the commit.
            for call in calls:
                self.recorder.sent(call, partition)

    def send_offsets(self, group: str, positions: Iterable[tuple[str, int, int]]) -> None:
        offsets = [PartitionOffset(*position) for position in positions]
        with self.recorder.send_offsets(group, offsets):
            listed = [(one.topic, one.partition, one.offset or 0, "") for one in offsets]
            self._producer.send_offsets(group, listed, now_ms=now_ms())

    def commit(self) -> None:
        with self.recorder.commit():
            self._producer.commit_transaction(now_ms=now_ms())

    def abort(self) -> None:
        with self.recorder.abort():
            self._producer.abort_transaction(now_ms=now_ms())


class RecordingConsumer:
    """Reads partitions, from their beginning or from what its group has committed."""

    def __init__(self, log: Log, recorder: Recorder, places: Sequence[tuple[str, int]], group: str | None = None):
        self._log = log
        self._recorder = recorder
        self._places = list(places)
        self._group = group
        self.resume()

    def resume(self) -> None:
        """Goes back to what is committed, or to the beginning."""
        start_ns = self._recorder.now()
        self._positions = dict.fromkeys(self._places, 0)
        if self._group is not None:
            for place in self._places:
                found = self._log.committed(self._group, *place)
                self._positions[place] = 0 if found is None else found[0]
        self._recorder.assigned(
            [PartitionOffset(*position) for position in self.positions()], group=self._group, start_ns=start_ns
        )

    def positions(self) -> list[tuple[str, int, int]]:
        return [(*place, offset) for place, offset in self._positions.items()]

    def poll(self, limit: int, timeout_s: float = 0.1) -> list[Record]:
        """Up to so many records, waiting for the first."""
        start_ns = self._recorder.now()
        self._log.wait(self.positions(), timeout_s)
        records: list[Record] = []
        reached = []
        for place, offset in self._positions.items():
            left = limit - len(records)
            if not left:
                break
            found = self._log.fetch(*place, offset, max_records=left)
            pairs = zip(found.offsets.tolist(), found.values, strict=True)
            records += [Record(*place, at, value.decode()) for at, value in pairs if value is not None]
            self._positions[place] = found.next_offset
            if len(found) < left:
                reached.append(PartitionOffset(*place, found.next_offset))
        self._recorder.polled(records, start_ns=start_ns, reached=reached)
        return records
