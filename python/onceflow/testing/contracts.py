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
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from onceflow.columns import Columns, rows_of
from onceflow.exceptions import FencedError, SinkError
from onceflow.sinks import (
    Committable,
    IdempotentSink,
    PlainSink,
    Sink,
    SinkContext,
    SinkWriter,
    TransactionalSink,
    TransactionalSinkWriter,
)
from onceflow.sources import Source, SourceBatch, SourceReader, StopRun
from onceflow.types import Batch, Plain

__all__ = ["IdempotentSinkContract", "PlainSinkContract", "SourceContract", "TransactionalSinkContract"]

_SIZES = (1, 2, 3, 7, 1000)


def _must(holds: bool, promise: str, *found: Any) -> None:
    if not holds:
        shown = "".join(f"\n  {one!r}" for one in found)
        raise AssertionError(f"broken promise: {promise}{shown}")


def _check_plain(what: str, value: Plain) -> Plain:
    """The value as a checkpoint gives it back."""
    try:
        again: Plain = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise AssertionError(f"broken promise: {what} is plain, which is what msgpack can write: {error}") from error
    _must(_same(again, value), f"{what} is plain: msgpack gives back what it was given", value, again)
    return again


def _same(one: Any, other: Any) -> bool:
    """Equal, with equal types."""
    return bool(one == other) and repr(one) == repr(other)


def _check_description(described: dict[str, Any]) -> None:
    try:
        json.dumps(described)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"broken promise: describe() is plain enough for people and JSON: {error}") from error
    _must(isinstance(described.get("type"), str), "describe() names the type under 'type'", described)


# -- sources -----------------------------------------------------------------------------------


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
        _must(bool(names), "a source has at least one partition")
        _must(all(isinstance(name, str) for name in names), "partitions are named by str", names)
        _must(len(set(names)) == len(names), "partitions have names of their own", names)
        _must(source.partitions() == names, "partitions() gives the same names again", names, source.partitions())
        again = self.make_source(tmp_path).partitions()
        _must(again == names, "partitions() gives the same names in another process", names, again)

    def test_every_record_comes_once_whatever_the_batches(self, tmp_path: Path) -> None:
        """Batches of any size hold the same records, no batch is larger than was asked for, and the end stays."""
        source = self.make_source(tmp_path)
        for partition in source.partitions():
            whole = self._rest(source, partition, None, 1000)
            for size in _SIZES:
                reader = source.open(partition, None)
                seen = _Seen()
                for batch in self._batches(reader, [size]):
                    _must(len(batch.records) <= size, f"read({size}) gives at most {size} records", len(batch.records))
                    seen.add(batch)
                _must(reader.read(size) is None, "after the end read() gives None again")
                reader.close()
                _must(seen.all == whole.all, f"read({size}) and read(1000) give the same", seen.all, whole.all)

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
        positions = [_check_plain("a position", reader.position())]
        counts = [(0, 0, 0, 0)]
        seen = _Seen()
        for batch in self._batches(reader, sizes):
            seen.add(batch)
            positions.append(_check_plain("a position", reader.position()))
            counts.append((len(seen.records), len(seen.times), len(seen.rejected), seen.skipped))
        reader.close()
        for position, (records, times, rejected, skipped) in zip(positions, counts, strict=True):
            resumed = self.make_source(directory)
            resumed.restore({name: position if name == partition else None for name in resumed.partitions()})
            rest = self._rest(resumed, partition, position)
            expected = (seen.records[records:], seen.times[times:], seen.rejected[rejected:], seen.skipped - skipped)
            _must(
                rest.all == expected,
                f"a reader opened at a position goes on behind the {records} records before it, with everything that "
                "belongs to them",
                position,
                rest.all,
                expected,
            )

    def test_a_position_stays_as_it_was_given(self, tmp_path: Path) -> None:
        """``position`` changes nothing, and what it returned does not change when the reader goes on."""
        source = self.make_source(tmp_path)
        for partition in source.partitions():
            reader = source.open(partition, None)
            for _ in self._batches(reader, [4]):
                given = reader.position()
                kept = msgspec.msgpack.encode(given)
                again = reader.position()
                _must(_same(given, again), "position() asked twice gives the same", given, again)
                _must(source.same_position(given, again), "a position is the same place as itself", given, again)
                with contextlib.suppress(StopRun):
                    reader.read(1)
                reader.position()
                _must(
                    msgspec.msgpack.encode(given) == kept, "a position that was given does not change any more", given
                )
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
                _must(
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
                _must(one.all == whole.all, "each reader reads all of its partition", one.all, whole.all)

    def test_event_times_belong_to_records(self, tmp_path: Path) -> None:
        """``has_event_time`` is true if, and only if, every batch has int64 microseconds, one a record."""
        source = self.make_source(tmp_path)
        for partition in source.partitions():
            reader = source.open(partition, None)
            for batch in self._batches(reader, [4]):
                times = batch.event_times
                if not source.has_event_time:
                    _must(times is None, "a source without event time has none in its batches", times)
                    continue
                _must(
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
            _must(
                source.has_dead_letters or not seen.rejected,
                "rejected records come only from a source with has_dead_letters",
                seen.rejected,
            )
            _must(
                all(one.partition == partition and one.position and one.reason for one in seen.rejected),
                "a rejected record says its partition, its position and the reason",
                seen.rejected,
            )

    def test_the_description_is_plain(self, tmp_path: Path) -> None:
        """``describe`` can be shown."""
        _check_description(self.make_source(tmp_path).describe())


# -- sinks -------------------------------------------------------------------------------------


class _SinkContract(ABC):
    """What all sinks promise.

    Attributes:
        columns: Whether batches of columns are written too; all sinks of onceflow take them.
    """

    columns: bool = True

    @abstractmethod
    def make_sink(self, directory: Path) -> Sink:
        """The sink; called again for a directory, one that reaches the same target."""

    @abstractmethod
    def visible(self, directory: Path) -> list[Any]:
        """What the outside sees in the target now, as records, in order; nothing if there is no target yet."""

    def make_records(self, start: int, stop: int) -> list[Any]:
        """Records that the sink can hold, all different; as ``visible`` gives them back."""
        return [{"id": number, "text": f"record {number}"} for number in range(start, stop)]

    def _context(
        self,
        epoch: int,
        restored: int | None,
        *,
        lineage: int = 1,
        state_id: str = "5" * 32,
        worker: int = 0,
        run: str = "",
    ) -> SinkContext:
        return SinkContext(
            "contract",
            "out",
            job_epoch=epoch,
            lineage=lineage,
            restored_checkpoint=restored,
            newest_decided=restored,
            state_id=state_id,
            worker=worker,
            run=run,
        )

    def test_the_description_is_plain(self, tmp_path: Path) -> None:
        """``describe`` can be shown."""
        _check_description(self.make_sink(tmp_path).describe())

    def _as_columns(self, records: list[dict[str, Any]]) -> Columns:
        arrays: dict[str, Any] = {}
        for name in records[0]:
            array = np.empty(len(records), dtype=object)
            array[:] = [record[name] for record in records]
            arrays[name] = np.array(array.tolist()) if isinstance(records[0][name], int) else array
        return Columns(arrays)


class PlainSinkContract(_SinkContract):
    """The promises of a ``PlainSink``."""

    @abstractmethod
    def make_sink(self, directory: Path) -> PlainSink | IdempotentSink:
        """The sink; called again for a directory, one that reaches the same target."""

    def _open(self, directory: Path, epoch: int = 1) -> SinkWriter:
        return self.make_sink(directory).open(self._context(epoch, None if epoch == 1 else 1))

    def _visible(self, directory: Path, expected: list[Any], promise: str) -> None:
        found = self.visible(directory)
        _must(found == expected, promise, found, expected)

    def test_what_was_flushed_is_there(self, tmp_path: Path) -> None:
        """After ``flush`` all that was written is visible, in order, once."""
        writer = self._open(tmp_path)
        records = self.make_records(0, 12)
        for start, stop in ((0, 1), (1, 5), (5, 8)):
            writer.write(records[start:stop])
        writer.flush()
        self._visible(tmp_path, records[:8], "after flush() all that was written is visible, in order, once")
        writer.flush()
        self._visible(tmp_path, records[:8], "flush() without a write changes nothing")
        writer.write(records[8:])
        writer.flush()
        writer.close()
        self._visible(tmp_path, records, "a writer goes on behind what it flushed")

    def test_another_writer_goes_on(self, tmp_path: Path) -> None:
        """A writer opened later adds to what is there."""
        records = self.make_records(0, 6)
        for epoch, part in enumerate((records[:3], records[3:]), 1):
            writer = self._open(tmp_path, epoch)
            writer.write(part)
            writer.flush()
            writer.close()
        self._visible(tmp_path, records, "a writer opened later keeps what is there")

    def test_columns_are_written_as_rows_are(self, tmp_path: Path) -> None:
        """A batch of columns leaves what the same rows leave; only where ``columns``."""
        if not self.columns:
            return
        records = self.make_records(0, 5)
        writer = self._open(tmp_path)
        writer.write(self._as_columns(records))
        writer.flush()
        writer.close()
        self._visible(tmp_path, records, "columns are written as the same rows are")

    def test_a_batch_is_not_changed(self, tmp_path: Path) -> None:
        """The records of a batch belong to other steps as well."""
        _check_batch_unchanged(self._open(tmp_path), self.make_records(0, 3), self.make_records(0, 3))

    def test_a_writer_that_wrote_nothing_can_be_closed(self, tmp_path: Path) -> None:
        """Opening and closing leaves nothing, and no error."""
        self._open(tmp_path).close()
        self._visible(tmp_path, [], "a writer that wrote nothing leaves nothing")


class IdempotentSinkContract(PlainSinkContract):
    """The promises of an ``IdempotentSink``."""

    @abstractmethod
    def make_sink(self, directory: Path) -> IdempotentSink:
        """The sink; called again for a directory, one that reaches the same target."""

    def test_writing_again_changes_nothing(self, tmp_path: Path) -> None:
        """The same records in the same order, by the same writer and by another process, as often as it takes."""
        records = self.make_records(0, 8)
        writer = self._open(tmp_path)
        for _ in range(2):
            writer.write(records)
            writer.flush()
            self._visible(tmp_path, records, "writing a record again changes nothing")
        writer.close()
        for epoch in (2, 3):
            writer = self._open(tmp_path, epoch)
            writer.write(records)
            writer.flush()
            writer.close()
            self._visible(tmp_path, records, "writing a record again from another process changes nothing")

    def test_a_write_that_was_cut_off_is_made_good(self, tmp_path: Path) -> None:
        """A part of the records, without a flush or close, and then all of them: as one write did."""
        records = self.make_records(0, 8)
        self._open(tmp_path).write(records[:5])
        writer = self._open(tmp_path, 2)
        writer.write(records)
        writer.flush()
        writer.close()
        self._visible(tmp_path, records, "records written in part and then again leave what one write leaves")


class TransactionalSinkContract(_SinkContract):
    """The promises of a ``TransactionalSink``, in the order of its commit; see ``onceflow.sinks``."""

    @abstractmethod
    def make_sink(self, directory: Path) -> TransactionalSink:
        """The sink; called again for a directory, one that reaches the same target."""

    def _open(
        self, directory: Path, epoch: int = 1, decided: Sequence[Committable] = (), restored: int | None = None
    ) -> TransactionalSinkWriter:
        restored = decided[-1].checkpoint_id if decided else restored
        writer = self.make_sink(directory).open(self._context(epoch, restored))
        writer.recover(decided)
        return writer

    def _prepared(self, writer: TransactionalSinkWriter, checkpoint_id: int, records: Batch) -> Committable:
        writer.write(records)
        sealed = writer.seal(checkpoint_id)
        _must(sealed is not None, "seal() gives what was written since the last one")
        return self._prepare(writer, checkpoint_id, sealed)

    def _prepare(self, writer: TransactionalSinkWriter, checkpoint_id: int, sealed: Any) -> Committable:
        return Committable(checkpoint_id, _check_plain("a committable's handle", writer.prepare(checkpoint_id, sealed)))

    def _commit_of_what_is_gone(self, writer: TransactionalSinkWriter, committable: Committable) -> None:
        """It may be refused as lost, or do nothing where the sink knows that it was discarded."""
        with contextlib.suppress(SinkError):
            writer.commit(committable)

    def _refused(self, directory: Path, context: SinkContext, promise: str) -> None:
        try:
            self.make_sink(directory).open(context)
        except (SinkError, FencedError):
            return
        raise AssertionError(f"broken promise: {promise}")

    def _fenced(self, call: Callable[[], object], promise: str) -> None:
        try:
            call()
        except FencedError:
            return
        except SinkError as error:
            raise AssertionError(f"broken promise: {promise}, not {error}") from error
        raise AssertionError(f"broken promise: {promise}")

    def _visible(self, directory: Path, expected: list[Any], promise: str) -> None:
        found = self.visible(directory)
        _must(found == expected, promise, found, expected)

    def test_nothing_is_visible_before_the_commit(self, tmp_path: Path) -> None:
        """Neither what was written, nor sealed, nor prepared; then all of it, in order, once."""
        writer = self._open(tmp_path)
        records = self.make_records(0, 6)
        writer.write(records[:2])
        writer.write(records[2:])
        self._visible(tmp_path, [], "what was written is not visible before its commit")
        sealed = writer.seal(1)
        self._visible(tmp_path, [], "what was sealed is not visible before its commit")
        committable = self._prepare(writer, 1, sealed)
        self._visible(tmp_path, [], "what was prepared is not visible before its commit")
        writer.commit(committable)
        self._visible(tmp_path, records, "what was committed is visible, in order, once")
        writer.close()
        self._visible(tmp_path, records, "what was committed stays when the writer is closed")

    def test_a_seal_cuts(self, tmp_path: Path) -> None:
        """What is written after ``seal`` belongs to the next checkpoint, also while the first one is prepared."""
        writer = self._open(tmp_path)
        records = self.make_records(0, 9)
        writer.write(records[:3])
        sealed = writer.seal(1)
        writer.write(records[3:6])
        writer.commit(self._prepare(writer, 1, sealed))
        self._visible(tmp_path, records[:3], "what is written after seal() belongs to the next checkpoint")
        writer.commit(self._prepare(writer, 2, writer.seal(2)))
        self._visible(tmp_path, records[:6], "checkpoints become visible one after the other")
        writer.commit(self._prepared(writer, 3, records[6:]))
        self._visible(tmp_path, records, "checkpoints become visible one after the other")
        writer.close()

    def test_a_seal_of_nothing_is_none(self, tmp_path: Path) -> None:
        """A checkpoint without output costs nothing."""
        writer = self._open(tmp_path)
        _must(writer.seal(1) is None, "seal() is None if nothing was written")
        writer.commit(self._prepared(writer, 2, self.make_records(0, 2)))
        _must(writer.seal(3) is None, "seal() is None if nothing was written since the last one")
        writer.close()

    def test_a_commit_is_idempotent(self, tmp_path: Path) -> None:
        """Committed again by the same writer, by a recovery in another process, and by that writer again."""
        writer = self._open(tmp_path)
        records = self.make_records(0, 4)
        committable = self._prepared(writer, 1, records)
        for _ in range(2):
            writer.commit(committable)
            self._visible(tmp_path, records, "a commit that is repeated changes nothing")
        for epoch in (2, 3):
            another = self._open(tmp_path, epoch, [committable])
            self._visible(tmp_path, records, "a commit that is repeated by a recovery changes nothing")
            another.commit(committable)
            self._visible(tmp_path, records, "a commit that is repeated by another process changes nothing")

    def test_recover_commits_what_was_decided(self, tmp_path: Path) -> None:
        """Decided, and the process died before the commit: another one commits; a second recovery changes nothing."""
        records = self.make_records(0, 6)
        writer = self._open(tmp_path)
        first = self._prepared(writer, 1, records[:3])
        writer.commit(first)
        second = self._prepared(writer, 2, records[3:])
        for epoch in (2, 3):
            self._open(tmp_path, epoch, [first, second])
            self._visible(tmp_path, records, "recover() commits what was decided, once")

    def test_recover_discards_the_rest(self, tmp_path: Path) -> None:
        """Prepared and not decided, sealed, written: a recovery discards it, and nothing of it ever shows."""
        records = self.make_records(0, 9)
        writer = self._open(tmp_path)
        decided = self._prepared(writer, 1, records[:2])
        writer.commit(decided)
        undecided = self._prepared(writer, 2, records[2:4])
        writer.write(records[4:6])
        sealed = writer.seal(3)
        writer.write(records[6:8])
        another = self._open(tmp_path, 2, [decided])
        self._visible(tmp_path, records[:2], "recover() discards what was prepared and not decided")
        self._commit_of_what_is_gone(another, undecided)
        self._visible(tmp_path, records[:2], "what a recovery has discarded cannot be committed any more")
        another.commit(self._prepared(another, 4, records[8:]))
        writer.abort(3, sealed)
        writer.close()
        another.close()
        self._visible(tmp_path, [*records[:2], *records[8:]], "after a recovery only new output shows")

    def test_an_abort_leaves_nothing(self, tmp_path: Path) -> None:
        """Sealed, or prepared: discarded by ``abort``, and the next checkpoint is not disturbed."""
        records = self.make_records(0, 6)
        writer = self._open(tmp_path)
        writer.write(records[:2])
        writer.abort(1, writer.seal(1))
        writer.write(records[2:4])
        sealed = writer.seal(2)
        committable = self._prepare(writer, 2, sealed)
        writer.abort(2, sealed)
        self._visible(tmp_path, [], "abort() leaves nothing visible")
        self._commit_of_what_is_gone(writer, committable)
        self._visible(tmp_path, [], "what was aborted cannot be committed any more")
        writer.commit(self._prepared(writer, 3, records[4:]))
        self._visible(tmp_path, records[4:], "after an abort only the next checkpoint's output shows")
        writer.close()

    def test_close_discards_what_was_not_sealed(self, tmp_path: Path) -> None:
        """Closed without a seal: another process finds nothing of it."""
        records = self.make_records(0, 4)
        writer = self._open(tmp_path)
        writer.write(records[:2])
        writer.close()
        self._visible(tmp_path, [], "close() discards what was not sealed")
        another = self._open(tmp_path, 2)
        another.commit(self._prepared(another, 1, records[2:]))
        another.close()
        self._visible(tmp_path, records[2:], "what was not sealed before close() never shows")

    def test_an_older_epoch_is_refused(self, tmp_path: Path) -> None:
        """A process that was replaced changes nothing when it wakes up, and learns that it was fenced."""
        records = self.make_records(0, 6)
        zombie = self._open(tmp_path)
        decided = self._prepared(zombie, 1, records[:2])
        zombie.commit(decided)
        undecided = self._prepared(zombie, 2, records[2:4])
        zombie.write(records[4:])
        sealed = zombie.seal(3)
        late = self.make_sink(tmp_path).open(self._context(2, 1))
        self._open(tmp_path, 3, [decided])
        for what, call in (
            ("commit", lambda: zombie.commit(undecided)),
            ("prepare", lambda: zombie.prepare(3, sealed)),
            ("recover", lambda: late.recover([decided])),
            ("open", lambda: self._open(tmp_path, 1, [decided])),
        ):
            promise = f"{what}() of an older job epoch raises FencedError"
            self._fenced(call, promise)
            self._visible(tmp_path, records[:2], f"{what}() of an older job epoch changes nothing")
        zombie.abort(3, sealed)
        zombie.close()
        late.close()
        self._visible(tmp_path, records[:2], "abort() and close() of an older job epoch change nothing")

    def _workers(
        self, directory: Path, numbers: Sequence[int], epoch: int = 1, decided: Sequence[Committable] = ()
    ) -> list[TransactionalSinkWriter]:
        """The writers of a run, one a worker; the first one recovers what was decided."""
        restored = decided[-1].checkpoint_id if decided else None
        sink, run = self.make_sink(directory), f"{epoch:016x}"
        writers = [sink.open(self._context(epoch, restored, worker=number, run=run)) for number in numbers]
        for number, writer in enumerate(writers):
            writer.recover([] if number else decided)
        return writers

    def _visible_of_workers(self, directory: Path, expected: list[Any], promise: str) -> None:
        """There is no order between workers."""
        found = self.visible(directory)
        _must(sorted(map(repr, found)) == sorted(map(repr, expected)), promise, found, expected)

    def test_workers_write_side_by_side(self, tmp_path: Path) -> None:
        """Two workers of a run: neither overwrites, discards or fences what the other one has under way."""
        records = self.make_records(0, 12)
        one, two = self._workers(tmp_path, [0, 1])
        promise = "what two workers of a run write becomes visible, once"
        for start, number in ((0, 1), (6, 2)):
            one.write(records[start : start + 2])
            two.write(records[start + 2 : start + 5])
            one.write(records[start + 5 : start + 6])
            cuts = [one.seal(number), two.seal(number)]
            handles = [self._prepare(two, number, cuts[1]), self._prepare(one, number, cuts[0])]
            self._visible_of_workers(
                tmp_path, records[:start], "what workers prepared is not visible before its commit"
            )
            one.commit(handles[1])
            two.commit(handles[0])
            self._visible_of_workers(tmp_path, records[: start + 6], promise)
        more = self.make_records(12, 18)
        prepared = self._prepared(one, 3, more[:2])
        two.write(more[2:4])
        sealed = two.seal(3)
        # A third one joins the run, as its context says.
        three = self.make_sink(tmp_path).open(self._context(1, 2, worker=2, run=f"{1:016x}"))
        three.recover([])
        one.commit(prepared)
        two.commit(self._prepare(two, 3, sealed))
        three.commit(self._prepared(three, 4, more[4:]))
        self._visible_of_workers(tmp_path, [*records, *more], "a worker that recovers leaves others of its run alone")
        for writer in (one, two, three):
            writer.close()

    def test_any_worker_commits_what_another_prepared(self, tmp_path: Path) -> None:
        """In the same run, when who prepared it is gone; once, however often and by whomever it is committed again."""
        records = self.make_records(0, 6)
        one, two = self._workers(tmp_path, [0, 1])
        first = self._prepared(one, 1, records[:2])
        second = self._prepared(two, 1, records[2:4])
        two.close()
        for _ in range(2):
            one.commit(second)
            self._visible_of_workers(tmp_path, records[2:4], "any worker commits what another one has prepared, once")
        one.commit(first)
        self._visible_of_workers(tmp_path, records[:4], "a worker commits its own output after another one's")
        third = self._prepared(one, 2, records[4:])
        three = self.make_sink(tmp_path).open(self._context(1, 1, worker=2, run=f"{1:016x}"))
        three.recover([])
        one.close()
        for committable in (third, first, second):
            three.commit(committable)
        self._visible_of_workers(tmp_path, records, "any worker commits what another one has prepared, once")
        three.close()

    def test_any_worker_recovers_what_others_prepared(self, tmp_path: Path) -> None:
        """After a crash, in runs of fewer and of more workers: whatever was committed before, all shows, once."""
        promise = "recover() commits what other workers have prepared, once"
        decided: list[Committable] = []
        shown: list[Any] = []
        for number, committed in enumerate(((), (0,), (1,), (0, 1))):
            records = self.make_records(number * 10, number * 10 + 9)
            epoch, checkpoint = 1 + number * 4, 1 + number * 3
            writers = self._workers(tmp_path, [0, 1], epoch, decided)
            decided = [
                self._prepared(writer, checkpoint, part)
                for writer, part in zip(writers, (records[:2], records[2:4]), strict=True)
            ]
            for worker in committed:
                writers[worker].commit(decided[worker])
            undecided = self._prepared(writers[1], checkpoint + 1, records[7:])
            shown += records[:4]
            for later, workers in enumerate(([1], [0], [2, 0, 1]), epoch + 1):
                again = self._workers(tmp_path, workers, later, decided)
                self._visible_of_workers(tmp_path, shown, promise)
                self._commit_of_what_is_gone(again[0], undecided)
                self._visible_of_workers(tmp_path, shown, "recover() discards what other workers have prepared")
            decided = [
                self._prepared(writer, checkpoint + 2, [record])
                for writer, record in zip(again, records[4:7], strict=True)
            ]
            for writer, output in zip(again, reversed(decided), strict=True):
                writer.commit(output)
            shown += records[4:7]
            self._visible_of_workers(tmp_path, shown, "a run of more workers goes on")

    def test_a_worker_without_successor_is_refused(self, tmp_path: Path) -> None:
        """A worker of an older run is fenced by a run that has none of its number."""
        records = self.make_records(0, 6)
        one, zombie = self._workers(tmp_path, [0, 1])
        decided = [self._prepared(one, 1, records[:2]), self._prepared(zombie, 1, records[2:4])]
        one.commit(decided[0])
        zombie.write(records[4:])
        sealed = zombie.seal(2)
        late = self.make_sink(tmp_path).open(self._context(2, 1, worker=3, run=f"{2:016x}"))
        self._workers(tmp_path, [0], 3, decided)
        self._visible_of_workers(tmp_path, records[:4], "recover() commits what other workers have prepared, once")
        older = "of another worker of an older job epoch raises FencedError"
        self._fenced(lambda: zombie.commit(decided[1]), f"commit() {older}")
        self._fenced(lambda: zombie.prepare(2, sealed), f"prepare() {older}")
        self._fenced(lambda: late.recover(decided), f"recover() {older}")
        zombie.abort(2, sealed)
        zombie.close()
        late.close()
        self._visible_of_workers(tmp_path, records[:4], "another worker of an older job epoch changes nothing")

    def test_opening_changes_nothing(self, tmp_path: Path) -> None:
        """A start that goes no further than ``open`` leaves the run that is at work as it was."""
        records = self.make_records(0, 6)
        writer = self._open(tmp_path)
        writer.commit(self._prepared(writer, 1, records[:2]))
        prepared = self._prepared(writer, 2, records[2:4])
        writer.write(records[4:])
        self.make_sink(tmp_path).open(self._context(2, 1)).close()
        promise = "open() and close() change nothing for the run that writes"
        try:
            writer.commit(prepared)
            writer.commit(self._prepare(writer, 3, writer.seal(3)))
        except (SinkError, FencedError) as error:
            raise AssertionError(f"broken promise: {promise}: {error}") from error
        self._visible(tmp_path, records, promise)
        writer.close()

    def test_an_older_state_is_refused(self, tmp_path: Path) -> None:
        """A state that does not know what is visible, as after a backup was put back: at every attempt."""
        records = self.make_records(0, 6)
        writer = self._open(tmp_path)
        for number in (1, 2, 3):
            writer.commit(self._prepared(writer, number, records[number * 2 - 2 : number * 2]))
        writer.close()
        for epoch in range(1, 12):
            for restored in (1, 2):
                self._refused(
                    tmp_path,
                    self._context(epoch, restored),
                    f"a state whose newest checkpoint is {restored} is refused where 3 is visible (job epoch {epoch})",
                )
        self._visible(tmp_path, records, "a state that is refused has changed nothing")
        self.make_sink(tmp_path).open(self._context(12, 3)).close()

    def test_a_lineage_that_was_left_is_refused(self, tmp_path: Path) -> None:
        """Once the job went on from an older checkpoint on purpose, the state that was left may not write any more."""
        records = self.make_records(0, 4)
        writer = self._open(tmp_path)
        writer.commit(self._prepared(writer, 1, records[:2]))
        another = self.make_sink(tmp_path).open(self._context(2, 1, lineage=2))
        another.recover([])
        another.commit(self._prepared(another, 5, records[2:]))
        for epoch in range(1, 12):
            self._refused(
                tmp_path, self._context(epoch, 9), f"a state of an older lineage is refused (job epoch {epoch})"
            )
        writer.write(self.make_records(4, 5))
        sealed = writer.seal(2)
        try:
            writer.prepare(2, sealed)
        except FencedError:
            pass
        else:
            raise AssertionError("broken promise: prepare() of an older lineage raises FencedError")
        writer.abort(2, sealed)
        writer.close()
        self._visible(tmp_path, records, "a run of an older lineage changes nothing")
        another.close()

    def test_another_state_directory_is_refused(self, tmp_path: Path) -> None:
        """Of the same job and sink, started by mistake: it has touched nothing by then."""
        records = self.make_records(0, 4)
        writer = self._open(tmp_path)
        writer.commit(self._prepared(writer, 1, records[:2]))
        prepared = self._prepared(writer, 2, records[2:])
        for epoch in (1, 2, 20):
            for restored in (None, 1, 9):
                self._refused(
                    tmp_path, self._context(epoch, restored, state_id="6" * 32), "another state directory is refused"
                )
        writer.commit(prepared)
        self._visible(tmp_path, records, "another state directory that is refused has changed nothing")
        writer.close()

    def test_what_was_learnt_is_given_back(self, tmp_path: Path) -> None:
        """``snapshot`` is plain, and a writer that gets it back goes on."""
        records = self.make_records(0, 4)
        writer = self._open(tmp_path)
        writer.write(records[:2])
        sealed = writer.seal(1)
        learnt = _check_plain("what snapshot() returns", writer.snapshot())
        decided = self._prepare(writer, 1, sealed)
        writer.commit(decided)
        another = self.make_sink(tmp_path).open(replace(self._context(2, 1), restored_state=learnt))
        another.recover([decided])
        _must(
            _same(_check_plain("what snapshot() returns", another.snapshot()), learnt),
            "what was given back as restored_state is what snapshot() returns",
        )
        another.commit(self._prepared(another, 2, records[2:]))
        self._visible(tmp_path, records, "a writer goes on with what was learnt")
        another.close()

    def test_columns_are_written_as_rows_are(self, tmp_path: Path) -> None:
        """A batch of columns leaves what the same rows leave; only where ``columns``."""
        if not self.columns:
            return
        records = self.make_records(0, 5)
        writer = self._open(tmp_path)
        writer.commit(self._prepared(writer, 1, self._as_columns(records)))
        writer.close()
        self._visible(tmp_path, records, "columns are written as the same rows are")

    def test_a_batch_is_not_changed(self, tmp_path: Path) -> None:
        """The records of a batch belong to other steps as well."""
        _check_batch_unchanged(self._open(tmp_path), self.make_records(0, 3), self.make_records(0, 3))


def _check_batch_unchanged(
    writer: SinkWriter | TransactionalSinkWriter, records: list[Any], expected: list[Any]
) -> None:
    writer.write(records)
    _must(records == expected, "write() leaves the batch as it is", records, expected)
    writer.close()
