"""What a transactional sink promises, as tests; see ``contracts``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onceflow.exceptions import FencedError, SinkError
from onceflow.leftovers import Leftover, LeftoverContext
from onceflow.testing.promises import check_plain, must, same
from onceflow.testing.sink_contracts import check_batch_unchanged
from onceflow.testing.workers_contract import WorkersContract

__all__ = ["TransactionalSinkContract"]


class TransactionalSinkContract(WorkersContract):
    """The promises of a ``TransactionalSink``, in the order of its commit; see ``onceflow.sinks``."""

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
        must(writer.seal(1) is None, "seal() is None if nothing was written")
        writer.commit(self._prepared(writer, 2, self.make_records(0, 2)))
        must(writer.seal(3) is None, "seal() is None if nothing was written since the last one")
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

    def test_what_is_left_can_be_removed(self, tmp_path: Path) -> None:
        """``leftovers`` of a run that died: to look changes nothing, to remove touches nothing that was decided."""
        records = self.make_records(0, 9)
        writer = self._open(tmp_path)
        first = self._prepared(writer, 1, records[:3])
        writer.commit(first)
        second = self._prepared(writer, 2, records[3:6])
        self._prepared(writer, 3, records[6:])
        writer.close()
        sink = self.make_sink(tmp_path)
        context = LeftoverContext("contract", "out", "5" * 32, 1, (first, second), known_sinks=frozenset({"out"}))
        found = list(sink.leftovers(context))
        for left in found:
            must(
                isinstance(left, Leftover) and (left.resolve is not None) == (left.fate == "removable"),
                "leftovers() gives Leftovers, and those that are removable can be resolved",
                left,
            )
        self._visible(tmp_path, records[:3], "leftovers() changes nothing")
        for left in found:
            if left.resolve is not None:
                left.resolve()
        self._visible(tmp_path, records[:3], "what is removed is what nobody sees")
        again = [left for left in sink.leftovers(context) if left.fate == "removable"]
        must(not again, "what was removed is gone", again)
        self._open(tmp_path, 2, [first, second]).close()
        self._visible(tmp_path, records[:6], "what was decided is never removed")

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
        learnt = check_plain("what snapshot() returns", writer.snapshot())
        decided = self._prepare(writer, 1, sealed)
        writer.commit(decided)
        another = self.make_sink(tmp_path).open(replace(self._context(2, 1), restored_state=learnt))
        another.recover([decided])
        must(
            same(check_plain("what snapshot() returns", another.snapshot()), learnt),
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
        check_batch_unchanged(self._open(tmp_path), self.make_records(0, 3), self.make_records(0, 3))
