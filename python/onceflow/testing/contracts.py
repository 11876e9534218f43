"""What a source or a sink promises, as tests: derive from a contract, say how yours is made, and let pytest run it.

```python
import json
from pathlib import Path

from onceflow.connectors.files import JsonLinesSink, TextSource, read_parts
from onceflow.testing import SourceContract, TransactionalSinkContract


class TestMySource(SourceContract):
    def make_source(self, directory: Path):
        path = directory / "in.txt"
        if not path.exists():
            path.write_text("".join(f"line {number}\\n" for number in range(25)))
        return TextSource(path)


class TestMySink(TransactionalSinkContract):
    def make_sink(self, directory: Path):
        return JsonLinesSink(directory / "out")

    def visible(self, directory: Path):
        return [json.loads(line) for line in read_parts(directory / "out").splitlines()]
```

Every check gets an empty directory of its own and may call ``make_source`` or ``make_sink`` several times with it: each
call stands for another process that opens the same input or target. A target that is not a file (a table, a topic) is
named after the directory, or kept in an attribute of the test's instance: each check has an instance of its own.

A check that fails says which promise is broken, in the words of ``onceflow.sources`` and ``onceflow.sinks``.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from onceflow.checks import CheckContext
from onceflow.columns import rows_of
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader, StopRun
from onceflow.testing.promises import check_findings, check_plain, must, same
from onceflow.testing.sink_contracts import IdempotentSinkContract, PlainSinkContract
from onceflow.testing.transactional_contract import TransactionalSinkContract
from onceflow.types import Plain

__all__ = ["IdempotentSinkContract", "PlainSinkContract", "SourceContract", "TransactionalSinkContract"]

_SIZES = (1, 2, 3, 7, 1000)


class _Seen:
    """What came out of a reader."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.times: list[int] = []
        self.rejected: list[Any] = []
        self.skipped = 0

    def add(self, batch: SourceBatch) -> None:
        self.records += rows_of(batch.records)
        self.times += [] if batch.event_times is None else batch.event_times.tolist()
        self.rejected += batch.rejected
        self.skipped += batch.skipped

    @property
    def all(self) -> tuple[Any, ...]:
        return self.records, self.times, self.rejected, self.skipped


def _count(batch: SourceBatch) -> int:
    return len(batch.records) + len(batch.rejected) + batch.skipped


class SourceContract(ABC):
    """The promises of ``onceflow.sources``.

    Attributes:
        cuts_alike: Whether a reader cuts its batches at the same places whatever came before; see ``onceflow.sources``.
    """

    cuts_alike: bool = True

    @abstractmethod
    def make_source(self, directory: Path) -> Source:
        """The source, over an input that does not change and ends.

        20 records or more in at least one partition make the checks worth their while; called again for a directory,
        it must find the input there.
        """

    def _batches(self, reader: SourceReader, sizes: Sequence[int]) -> Iterator[SourceBatch]:
        """Batches up to the end, in turn of these sizes."""
        number = 0
        while True:
            try:
                batch = reader.read(sizes[number % len(sizes)])
            except StopRun:
                continue
            finally:
                number += 1
            if batch is None:
                return
            yield batch
            if not _count(batch):
                # Somebody fetches what comes next.
                time.sleep(0.001)

    def _rest(self, source: Source, partition: str, position: Plain, size: int = 5) -> _Seen:
        seen = _Seen()
        reader = source.open(partition, position)
        try:
            for batch in self._batches(reader, [size]):
                seen.add(batch)
        finally:
            reader.close()
        return seen

    def test_partitions_have_stable_names(self, tmp_path: Path) -> None:
        """``partitions`` gives different names, and the same ones when asked again, also by another process."""
        source = self.make_source(tmp_path)
        names = source.partitions()
        must(bool(names), "a source has at least one partition")
        must(all(isinstance(name, str) for name in names), "partitions are named by str", names)
        must(len(set(names)) == len(names), "partitions have names of their own", names)
        must(source.partitions() == names, "partitions() gives the same names again", names, source.partitions())
        again = self.make_source(tmp_path).partitions()
        must(again == names, "partitions() gives the same names in another process", names, again)

    def test_every_record_comes_once_whatever_the_batches(self, tmp_path: Path) -> None:
        """Batches of any size hold the same records, no batch is larger than was asked for, and the end stays."""
        source = self.make_source(tmp_path)
        for partition in source.partitions():
            whole = self._rest(source, partition, None, 1000)
            for size in _SIZES:
                reader = source.open(partition, None)
                seen = _Seen()
                for batch in self._batches(reader, [size]):
                    must(len(batch.records) <= size, f"read({size}) gives at most {size} records", len(batch.records))
                    seen.add(batch)
                must(reader.read(size) is None, "after the end read() gives None again")
                reader.close()
                must(seen.all == whole.all, f"read({size}) and read(1000) give the same", seen.all, whole.all)

    def test_a_position_resumes_exactly(self, tmp_path: Path) -> None:
        """A reader opened at a position hands out exactly what the reader that gave it would have handed out next.

        After every read, with batches of several sizes, by another process.
        """
        if not self.make_source(tmp_path).replayable:
            return
        for partition in self.make_source(tmp_path).partitions():
            for sizes in ([1], [2], [3, 1, 5]):
                self._check_positions(tmp_path, partition, sizes)

    def _check_positions(self, directory: Path, partition: str, sizes: Sequence[int]) -> None:
        source = self.make_source(directory)
        reader = source.open(partition, None)
        positions = [check_plain("a position", reader.position())]
        counts = [(0, 0, 0, 0)]
        seen = _Seen()
        for batch in self._batches(reader, sizes):
            seen.add(batch)
            position = check_plain("a position", reader.position())
            if not _count(batch) and same(position, positions[-1]):
                continue
            positions.append(position)
            counts.append((len(seen.records), len(seen.times), len(seen.rejected), seen.skipped))
        reader.close()
        for position, (records, times, rejected, skipped) in zip(positions, counts, strict=True):
            resumed = self.make_source(directory)
            resumed.restore({name: position if name == partition else None for name in resumed.partitions()})
            rest = self._rest(resumed, partition, position)
            expected = (seen.records[records:], seen.times[times:], seen.rejected[rejected:], seen.skipped - skipped)
            must(
                rest.all == expected,
                f"a reader opened at a position goes on after the {records} records before it, with everything that "
                "belongs to them",
                position,
                rest.all,
                expected,
            )

    def test_what_is_there_now_comes_once(self, tmp_path: Path) -> None:
        """Read until caught up, then at its position until the end: the same as in one go.

        What a run until caught up leaves (a last line without its end) comes later; nothing comes twice.
        """
        source = self.make_source(tmp_path)
        if not source.replayable:
            return
        for partition in source.partitions():
            whole = self._rest(source, partition, None)
            seen = _Seen()
            reader = source.open_with_context(partition, None, SourceContext(until="caught_up"))
            for batch in self._batches(reader, [5]):
                seen.add(batch)
            position = check_plain("a position", reader.position())
            reader.close()
            later = self.make_source(tmp_path)
            later.restore({name: position if name == partition else None for name in later.partitions()})
            reader = later.open_with_context(partition, position, SourceContext())
            for batch in self._batches(reader, [5]):
                seen.add(batch)
            reader.close()
            must(seen.all == whole.all, "what was caught up with does not come again, and nothing else is left out")

    def test_a_position_stays_as_it_was_given(self, tmp_path: Path) -> None:
        """``position`` changes nothing, and what it returned does not change when the reader goes on."""
        source = self.make_source(tmp_path)
        for partition in source.partitions():
            reader = source.open(partition, None)
            for _ in self._batches(reader, [4]):
                given = reader.position()
                kept = msgspec.msgpack.encode(given)
                again = reader.position()
                must(same(given, again), "position() asked twice gives the same", given, again)
                must(source.same_position(given, again), "a position is the same place as itself", given, again)
                with contextlib.suppress(StopRun):
                    reader.read(1)
                reader.position()
                must(msgspec.msgpack.encode(given) == kept, "a position that was given does not change any more", given)
            reader.close()

    def test_batches_are_cut_alike(self, tmp_path: Path) -> None:
        """From a position on, batches are the same as without the resume; only where ``cuts_alike``."""
        if not (self.cuts_alike and self.make_source(tmp_path).replayable):
            return
        source = self.make_source(tmp_path)
        for partition in source.partitions():
            reader = source.open(partition, None)
            cuts: list[int] = []
            positions = [reader.position()]
            for batch in self._batches(reader, [4]):
                cuts.append(len(batch.records))
                positions.append(reader.position())
            reader.close()
            for number, position in enumerate(positions):
                resumed = self.make_source(tmp_path).open(partition, position)
                found = [len(batch.records) for batch in self._batches(resumed, [4])]
                resumed.close()
                must(
                    found == cuts[number:],
                    "a reader cuts its batches at the same places, whatever came before (or set cuts_alike = False)",
                    found,
                    cuts[number:],
                )

    def test_readers_do_not_disturb_one_another(self, tmp_path: Path) -> None:
        """Two readers of one partition, in turn, each read everything."""
        source = self.make_source(tmp_path)
        for partition in source.partitions():
            whole = self._rest(self.make_source(tmp_path), partition, None)
            readers = [source.open(partition, None) for _ in range(2)]
            seen = [_Seen(), _Seen()]
            for pair in zip_longest(*(self._batches(reader, [3]) for reader in readers)):
                for one, batch in zip(seen, pair, strict=True):
                    if batch is not None:
                        one.add(batch)
            for reader, one in zip(readers, seen, strict=True):
                reader.close()
                must(one.all == whole.all, "each reader reads all of its partition", one.all, whole.all)

    def test_event_times_belong_to_records(self, tmp_path: Path) -> None:
        """``has_event_time`` is true if, and only if, every batch has int64 microseconds, one a record."""
        source = self.make_source(tmp_path)
        for partition in source.partitions():
            reader = source.open(partition, None)
            for batch in self._batches(reader, [4]):
                times = batch.event_times
                if not source.has_event_time:
                    must(times is None, "a source without event time has none in its batches", times)
                    continue
                must(
                    isinstance(times, np.ndarray) and times.dtype == np.int64 and times.shape == (len(batch.records),),
                    "event_times is an int64 array with one time a record",
                    times,
                )
            reader.close()

    def test_rejected_records_have_somewhere_to_go(self, tmp_path: Path) -> None:
        """Only a source with ``has_dead_letters`` hands out rejected records; each says where and why."""
        source = self.make_source(tmp_path)
        for partition in source.partitions():
            seen = self._rest(source, partition, None)
            must(
                source.has_dead_letters or not seen.rejected,
                "rejected records come only from a source with has_dead_letters",
                seen.rejected,
            )
            must(
                all(one.partition == partition and one.position and one.reason for one in seen.rejected),
                "a rejected record says its partition, its position and the reason",
                seen.rejected,
            )

    def test_a_check_changes_nothing(self, tmp_path: Path) -> None:
        """``check`` looks, and says what it finds."""
        source = self.make_source(tmp_path)
        check_findings(lambda: source.check(CheckContext("contract", "in")), tmp_path)
