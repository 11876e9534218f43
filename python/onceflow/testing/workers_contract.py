"""What a transactional sink promises to a job of several workers, as tests; see ``contracts``."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onceflow.exceptions import FencedError, SinkError
from onceflow.sinks import Committable, SinkContext, TransactionalSink, TransactionalSinkWriter
from onceflow.testing.promises import check_plain, must
from onceflow.testing.sink_contracts import SinkContract
from onceflow.types import Batch

__all__ = ["WorkersContract"]


class WorkersContract(SinkContract):
    """Workers write side by side, and any of them commits what another one has prepared; see ``TransactionalSink``."""

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
        must(sealed is not None, "seal() gives what was written since the last one")
        return self._prepare(writer, checkpoint_id, sealed)

    def _prepare(self, writer: TransactionalSinkWriter, checkpoint_id: int, sealed: Any) -> Committable:
        return Committable(checkpoint_id, check_plain("a committable's handle", writer.prepare(checkpoint_id, sealed)))

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
        must(found == expected, promise, found, expected)

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
        must(sorted(map(repr, found)) == sorted(map(repr, expected)), promise, found, expected)

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
