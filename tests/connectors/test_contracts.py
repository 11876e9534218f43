"""All sources and sinks of onceflow keep their contracts, and each check of a contract finds the bug that breaks it."""

from __future__ import annotations

import csv
import inspect
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceflow import Columns
from onceflow.checks import Finding
from onceflow.connectors.files import (
    ArrowIpcSource,
    CsvSink,
    CsvSource,
    JsonLinesSink,
    JsonLinesSource,
    ParquetSink,
    ParquetSource,
    TextSource,
    read_parts,
)
from onceflow.connectors.stdout import StdoutSink
from onceflow.exceptions import FencedError
from onceflow.leftovers import Leftover
from onceflow.sinks import IdempotentSink, PlainSink, SinkWriter
from onceflow.sources import RejectedRecord, Source, SourceBatch, SourceReader
from onceflow.testing import (
    ABORT,
    EOF,
    PAUSE,
    AbortedError,
    IdempotentSinkContract,
    IdempotentTestingSink,
    PlainSinkContract,
    PlainTestingSink,
    SourceContract,
    TestingSource,
    TransactionalSinkContract,
    TransactionalTestingSink,
    contracts,
)

# -- sources -----------------------------------------------------------------------------------


class TestCsv(SourceContract):
    def make_source(self, directory):
        for part in range(2):
            rows = "".join(f'{n},"a ""quoted""\n{n}",2024-01-01T00:00:{n:02d}\n' for n in range(part, 30, 2))
            (directory / f"{part}.csv").write_text(f"n,text,at\n{rows}")
        return CsvSource(directory / "*.csv", event_time="at")


class TestCsvColumns(SourceContract):
    def make_source(self, directory):
        (directory / "in.csv").write_text("n,text\n" + "".join(f"{n},x{n}\n" for n in range(25)))
        return CsvSource(directory / "in.csv", as_columns=True)


class TestCsvWithBadRows(SourceContract):
    def make_source(self, directory):
        rows = ["3,x", "bad", '4,"open', "", "5,y", '"a"b,1', "6,z", "7"]
        (directory / "in.csv").write_text("n,text\n" + "\n".join(rows * 4))
        return CsvSource(directory / "in.csv", on_malformed="dead_letter")


class TestJsonLines(SourceContract):
    def make_source(self, directory):
        lines = [f'{{"n": {n}, "at": {n}}}' if n % 5 else "nonsense" for n in range(25)]
        (directory / "in.jsonl").write_text("\n".join(lines))
        return JsonLinesSource(directory / "in.jsonl", event_time="at", on_malformed="skip")


class TestText(SourceContract):
    def make_source(self, directory):
        (directory / "in.txt").write_bytes(b"\r\n".join(b"line %d" % n for n in range(25)))
        return TextSource(directory / "in.txt")


def arrow_table():
    return pa.table({"n": range(50), "at": pa.array(range(50), pa.timestamp("s"))})


class TestParquet(SourceContract):
    def make_source(self, directory):
        pq.write_table(arrow_table(), directory / "in.parquet", row_group_size=9)
        return ParquetSource(directory / "in.parquet", event_time="at", columns=["n"])


class TestArrowIpc(SourceContract):
    def make_source(self, directory):
        with pa.ipc.new_file(directory / "in.arrow", arrow_table().schema) as writer:
            writer.write_table(arrow_table(), max_chunksize=9)
        return ArrowIpcSource(directory / "in.arrow")


class TestTesting(SourceContract):
    def make_source(self, directory):
        source = TestingSource([*range(9), PAUSE, EOF, *range(9, 20)], list(range(7)), event_time=lambda n: n)
        source._met.clear()
        return source


# -- sinks -------------------------------------------------------------------------------------


def json_rows(data):
    return [json.loads(line) for line in data.splitlines()]


class TestCsvSink(TransactionalSinkContract):
    def make_sink(self, directory):
        return CsvSink(directory / "out")

    def visible(self, directory):
        rows = list(csv.DictReader(io.StringIO(read_parts(directory / "out").decode(), newline="")))
        return [{**row, "id": int(row["id"])} for row in rows]

    def make_records(self, start, stop):
        return [{"id": n, "text": f'"{n}",\r\nmore'} for n in range(start, stop)]


class TestJsonLinesSink(TransactionalSinkContract):
    def make_sink(self, directory):
        return JsonLinesSink(directory / "out")

    def visible(self, directory):
        return json_rows(read_parts(directory / "out"))


class TestParquetSink(TransactionalSinkContract):
    def make_sink(self, directory):
        return ParquetSink(directory / "out")

    def visible(self, directory):
        return [row for path in sorted((directory / "out").glob("part-*")) for row in pq.read_table(path).to_pylist()]


class _Kept:
    """Testing sinks keep their records in memory: one object stands for the target."""

    sink = None

    def visible(self, directory):
        records = self.sink.records if self.sink else []
        return list(records.values() if isinstance(records, dict) else records)


class TestTransactionalTestingSink(_Kept, TransactionalSinkContract):
    def make_sink(self, directory):
        self.sink = self.sink or TransactionalTestingSink()
        return self.sink


class TestPlainTestingSink(_Kept, PlainSinkContract):
    def make_sink(self, directory):
        self.sink = self.sink or PlainTestingSink()
        return self.sink


class TestIdempotentTestingSink(_Kept, IdempotentSinkContract):
    def make_sink(self, directory):
        self.sink = self.sink or IdempotentTestingSink(key=lambda record: record["id"])
        return self.sink


class TestStdout(PlainSinkContract):
    @pytest.fixture(autouse=True)
    def _patched(self, monkeypatch):
        self.out = io.StringIO()
        self.monkeypatch = monkeypatch

    def make_sink(self, directory):
        self.monkeypatch.setattr(sys, "stdout", self.out)
        return StdoutSink()

    def visible(self, directory):
        return json_rows(self.out.getvalue())


# -- planted bugs in a source ------------------------------------------------------------------


class Numbers(Source):
    """25 numbers and a rejected one; correct, and each bug is a method overridden."""

    has_dead_letters = True

    def partitions(self):
        return ["a", "b"]

    def open(self, partition, position):
        return NumbersReader(partition, position or 0)


class NumbersReader(SourceReader):
    def __init__(self, partition, position):
        self.partition = partition
        self.next = position

    def read(self, max_records):
        if self.next >= 25:
            return None
        numbers = list(range(self.next, min(self.next + max_records, 25)))
        self.next += len(numbers)
        rejected = [RejectedRecord("", self.partition, "a:7", "bad", "x")] if 7 in numbers else []
        return SourceBatch([n for n in numbers if n != 7], None, rejected)

    def position(self):
        return self.next


def source(reader=None, **members):
    """A source with a bug: other members, or a reader with other members."""
    kind = type("Broken", (Numbers,), members)
    if reader is not None:
        broken = type("BrokenReader", (NumbersReader,), reader)
        kind.open = lambda self, partition, position: broken(partition, position or 0)
    return kind


def _bad_names():
    names = iter(range(100))
    return lambda self: [f"part-{next(names)}"]


def _too_many(self, max_records):
    return NumbersReader.read(self, max_records + 1)


def _loses_at_the_end_of_a_batch(self, max_records):
    batch = NumbersReader.read(self, max_records)
    self.next += batch is not None and max_records == 3
    return batch


def _begins_again(self, max_records):
    batch = NumbersReader.read(self, max_records)
    if batch is None and not hasattr(self, "ended"):
        self.ended = True
        return None
    return batch or SourceBatch([1])


def _aliased(self):
    if not hasattr(self, "kept"):
        self.kept = {}
    self.kept["next"] = self.next
    return self.kept


def _moves(self):
    self.next += 1
    return self.next - 1


_CALLS = []


def _shared(self, max_records):
    _CALLS.append(self)
    if len({id(reader) for reader in _CALLS[-2:]}) == 2 and _CALLS[-2].next < 25 and self.next:
        self.next = min(25, self.next + 1)
    return NumbersReader.read(self, max_records)


def _cut_from_where_it_began(self, max_records):
    if not hasattr(self, "began"):
        self.began = True
        return NumbersReader.read(self, 1)
    return NumbersReader.read(self, max_records)


def _late_times(self, max_records):
    batch = NumbersReader.read(self, max_records)
    if batch is not None:
        batch.event_times = np.zeros(len(batch.records) // 2, np.int64)
    return batch


def _float_times(self, max_records):
    batch = NumbersReader.read(self, max_records)
    if batch is not None:
        batch.event_times = np.zeros(len(batch.records))
    return batch


def _nameless(self, max_records):
    batch = NumbersReader.read(self, max_records)
    if batch is not None:
        batch.rejected = [RejectedRecord("", "", "", "", "x")] * len(batch.rejected)
    return batch


def _caught_up_beyond_what_it_gave(self, partition, position, context):
    reader = self.open(partition, position)
    if context.until == "caught_up":
        reader.read = lambda most: NumbersReader.read(reader, min(most, 20 - reader.next)) if reader.next < 20 else None
        reader.position = lambda: 25
    return reader


SOURCE_BUGS = [
    ("partitions_have_stable_names", "no partition", source(partitions=lambda self: [])),
    ("partitions_have_stable_names", "the same name twice", source(partitions=lambda self: ["a", "a"])),
    ("partitions_have_stable_names", "names that are no str", source(partitions=lambda self: [0, 1])),
    ("partitions_have_stable_names", "other names each time", source(partitions=_bad_names())),
    ("every_record_comes_once_whatever_the_batches", "more than was asked for", source({"read": _too_many})),
    (
        "every_record_comes_once_whatever_the_batches",
        "one lost behind some batches",
        source({"read": _loses_at_the_end_of_a_batch}),
    ),
    ("every_record_comes_once_whatever_the_batches", "goes on after the end", source({"read": _begins_again})),
    ("a_position_resumes_exactly", "one too far", source({"position": lambda self: self.next + (self.next > 0)})),
    ("a_position_resumes_exactly", "one too early", source({"position": lambda self: max(self.next - 1, 0)})),
    ("a_position_resumes_exactly", "not plain", source({"position": lambda self: object()})),
    ("a_position_resumes_exactly", "a tuple", source({"position": lambda self: (self.next,)})),
    (
        "a_position_resumes_exactly",
        "one too far behind the rejected record",
        source({"position": lambda self: self.next + (self.next == 7)}),
    ),
    (
        "what_is_there_now_comes_once",
        "left out what it says it gave",
        source(open_with_context=_caught_up_beyond_what_it_gave),
    ),
    ("a_position_stays_as_it_was_given", "one dict for all positions", source({"position": _aliased})),
    ("a_position_stays_as_it_was_given", "asking moves", source({"position": _moves})),
    ("batches_are_cut_alike", "the first batch is smaller", source({"read": _cut_from_where_it_began})),
    ("readers_do_not_disturb_one_another", "state that readers share", source({"read": _shared})),
    ("event_times_belong_to_records", "promised and not given", source(has_event_time=True)),
    ("event_times_belong_to_records", "too few", source({"read": _late_times}, has_event_time=True)),
    ("event_times_belong_to_records", "floats", source({"read": _float_times}, has_event_time=True)),
    ("event_times_belong_to_records", "given and not promised", source({"read": _float_times})),
    ("rejected_records_have_somewhere_to_go", "nowhere", source(has_dead_letters=False)),
    ("rejected_records_have_somewhere_to_go", "from nowhere", source({"read": _nameless})),
    ("a_check_changes_nothing", "no finding", source(check=lambda self, context: ["sound"])),
    ("a_check_changes_nothing", "no text", source(check=lambda self, context: [Finding("ok", "it", "")])),
    ("a_check_changes_nothing", "no level", source(check=lambda self, context: [Finding("bad", "it", "is")])),
]


class _NumbersContract(SourceContract):
    kind = Numbers

    def make_source(self, directory):
        return self.kind()


def check(contract, name, directory):
    getattr(contract, f"test_{name}")(directory)


def checks_of(contract):
    return {name.removeprefix("test_") for name, _ in inspect.getmembers(contract) if name.startswith("test_")}


@pytest.mark.parametrize("name", sorted(checks_of(SourceContract)))
def test_the_source_without_a_bug(tmp_path, name):
    check(_NumbersContract(), name, tmp_path)


@pytest.mark.parametrize(("name", "bug", "kind"), SOURCE_BUGS, ids=[f"{name}-{bug}" for name, bug, _ in SOURCE_BUGS])
def test_a_bug_in_a_source_is_found(tmp_path, name, bug, kind):
    contract = _NumbersContract()
    contract.kind = kind
    with pytest.raises(AssertionError, match="broken promise: "):
        check(contract, name, tmp_path)


def test_a_source_that_cannot_be_replayed_promises_no_positions(tmp_path):
    contract = _NumbersContract()
    contract.kind = source({"position": lambda self: 3}, replayable=False)
    for name in checks_of(SourceContract):
        check(contract, name, tmp_path)


def test_a_source_may_say_that_it_cuts_as_it_likes(tmp_path):
    contract = _NumbersContract()
    contract.kind = source({"read": _cut_from_where_it_began})
    contract.cuts_alike = False
    check(contract, "batches_are_cut_alike", tmp_path)


def test_an_abort_mark_ends_a_check(tmp_path):
    contract = _NumbersContract()
    contract.kind = lambda: TestingSource([1, ABORT])
    with pytest.raises(AbortedError):
        check(contract, "every_record_comes_once_whatever_the_batches", tmp_path)


# -- planted bugs in sinks ---------------------------------------------------------------------


class FileWriter(SinkWriter):
    """Appends JSON lines; correct for a plain sink."""

    def __init__(self, path):
        self.path = path
        self.lines = []

    def rows(self, records):
        return records.to_rows() if isinstance(records, Columns) else records

    def write(self, records):
        self.lines += [json.dumps(row) for row in self.rows(records)]

    def flush(self):
        with self.path.open("a") as file:
            file.writelines(f"{line}\n" for line in self.lines)
        self.lines = []


class UpsertWriter(FileWriter):
    """A record replaces the one with its id; correct for an idempotent sink."""

    def flush(self):
        known = (
            {json.loads(line)["id"]: line for line in self.path.read_text().splitlines()} if self.path.exists() else {}
        )
        known.update((json.loads(line)["id"], line) for line in self.lines)
        self.path.write_text("".join(f"{line}\n" for line in known.values()))
        self.lines = []


def plain(base=FileWriter, looks=None, **members):
    """A plain or idempotent sink whose writer has a bug."""
    writer = type("BrokenWriter", (base,), members)
    kind = IdempotentSink if issubclass(base, UpsertWriter) else PlainSink

    class Sink(kind):
        def __init__(self, directory):
            self.path = directory / "out.jsonl"

        def open(self, context):
            return writer(self.path)

    if looks is not None:
        Sink.check = looks
    return Sink


def _reversed(self, records):
    FileWriter.write(self, self.rows(records)[::-1])


def _changes(self, records):
    FileWriter.write(self, records)
    records[0]["text"] = "changed"


def _truncates(self, path):
    FileWriter.__init__(self, path)
    path.write_text("")


def _header(self, path):
    FileWriter.__init__(self, path)
    path.write_text("{}\n")


def _keeps_lines(self):
    lines = self.lines
    FileWriter.flush(self)
    self.lines = lines


def _appends_if_new(self):
    # Right for the writer that wrote it, not for another process.
    seen = self.__dict__.setdefault("seen", set())
    self.lines = [line for line in self.lines if not (line in seen or seen.add(line))]
    FileWriter.flush(self)


def _appends_unless_there(self, records):
    # What was there before this writer is not written again, but a torn write is only seen line by line.
    rows = self.rows(records)
    there = self.path.read_text().splitlines() if self.path.exists() else []
    if json.dumps(rows[-1]) not in there:
        with self.path.open("a") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)


PLAIN_BUGS = [
    ("what_was_flushed_is_there", "never written", plain(flush=lambda self: None)),
    ("what_was_flushed_is_there", "in another order", plain(write=_reversed)),
    ("what_was_flushed_is_there", "a flush writes again", plain(flush=_keeps_lines)),
    ("another_writer_goes_on", "the file is written anew", plain(__init__=_truncates)),
    ("columns_are_written_as_rows_are", "names instead of rows", plain(rows=lambda self, records: list(records))),
    ("a_batch_is_not_changed", "a record is changed", plain(write=_changes)),
    ("a_writer_that_wrote_nothing_can_be_closed", "something is there", plain(__init__=_header)),
    ("a_check_changes_nothing", "a file is made", plain(looks=lambda self, context: [self.path.touch()][1:])),
]
IDEMPOTENT_BUGS = [
    ("writing_again_changes_nothing", "it appends", plain(UpsertWriter, flush=FileWriter.flush)),
    ("writing_again_changes_nothing", "only for itself", plain(UpsertWriter, flush=_appends_if_new)),
    (
        "a_write_that_was_cut_off_is_made_good",
        "only whole batches",
        plain(UpsertWriter, write=_appends_unless_there, flush=lambda self: None),
    ),
]


class _File:
    kind = None

    def make_sink(self, directory):
        return self.kind(directory)

    def visible(self, directory):
        path = directory / "out.jsonl"
        return json_rows(path.read_text()) if path.exists() else []


class _PlainContract(_File, PlainSinkContract):
    kind = plain()


class _IdempotentContract(_File, IdempotentSinkContract):
    kind = plain(UpsertWriter)


class Broken(TransactionalTestingSink):
    """The testing sink, with some calls of its writer replaced."""

    def __init__(self, **members):
        super().__init__()
        self.members = members

    def leftovers(self, context):
        return self.members.get("left", lambda sink: ())(self)

    def open(self, context):
        writer = super().open(context)
        self.members.get("opened", lambda writer: None)(writer)
        for name, call in self.members.items():
            setattr(writer, name, lambda *args, call=call: call(writer, *args))
        writer.right = type(writer)
        return writer


def _left(resolve):
    """A sink that always offers the same."""
    return lambda sink: [Leftover("removable", "it", "is left", lambda: resolve(sink))]


def _write_through(writer, records):
    writer._sink.committed[0, 0] = [*writer._sink.committed.get((0, 0), []), *records]


def _seal_shows(writer, number):
    sealed = writer.right.seal(writer, number)
    writer._sink.committed[number, 0] = sealed
    return sealed


def _prepare_shows(writer, number, sealed):
    writer._sink.committed[number, 0] = sealed
    return writer.right.prepare(writer, number, sealed)


def _seal_keeps_all(writer, number):
    return list(writer._records) or None


def _seal_shares(writer, number):
    # The list goes on growing after the cut.
    return writer._records or None


def _output(committable):
    return committable.checkpoint_id, committable.handle


def _commit_twice(writer, committable):
    records = writer._sink.prepared.get(_output(committable))
    if records is not None:
        number = 1000 * (len(writer._sink.committed) + 1)
        writer._sink.committed[number, 0] = records


def _commit_needs_prepared(writer, committable):
    writer._sink.committed[_output(committable)] = writer._sink.prepared.pop(_output(committable))


def _commit_empties(writer, committable):
    records = writer._sink.prepared.pop(_output(committable), [])
    writer._sink.committed[_output(committable)] = records


def _recover_nothing(writer, decided):
    writer.right.recover(writer, [])


def _recover_keeps(writer, decided):
    prepared = dict(writer._sink.prepared)
    writer.right.recover(writer, decided)
    writer._sink.prepared.update((number, prepared[number]) for number in prepared.keys() - writer._sink.committed)


def _recover_forgets(name, value):
    def recover(writer, decided):
        writer.right.recover(writer, decided)
        setattr(writer._sink, name, value)

    return recover


def _commit_forgets(writer, committable):
    writer.right.commit(writer, committable)
    writer._sink.newest = (0, 0)


def _open_fences(writer):
    writer._sink.epoch = writer._context.job_epoch


def _open_cleans(writer):
    writer._sink.prepared.clear()


def _recover_all(writer, decided):
    writer._check_epoch()
    for number in list(writer._sink.prepared):
        writer._sink.committed[number] = writer._sink.prepared.pop(number)


def _abort_nothing(writer, number, sealed):
    pass


def _abort_returns(writer, number, sealed):
    writer.right.abort(writer, number, sealed)
    writer._records = sealed


def _close_keeps(writer):
    writer._sink.committed[999, 0] = writer._records


def _unfenced(name):
    def call(writer, *args):
        epoch, writer._sink.epoch = writer._sink.epoch, 0
        try:
            return getattr(writer.right, name)(writer, *args)
        finally:
            writer._sink.epoch = max(epoch, writer._sink.epoch)

    return call


def _prepare_nameless(writer, number, sealed):
    writer._check_epoch()
    writer._sink.prepared[number, 0] = sealed
    return 0


def _commit_own(writer, committable):
    if committable.handle == writer._context.worker:
        writer.right.commit(writer, committable)


def _recover_own(writer, decided):
    writer.right.recover(writer, [one for one in decided if one.handle == writer._context.worker])


def _recover_alone(writer, decided):
    writer.right.recover(writer, decided)
    writer._sink.prepared.clear()


def _fenced_by_namesakes(name):
    """Each worker looks at the epoch of its own number only."""

    def call(writer, *args):
        if writer._context.worker == 0:
            return getattr(writer.right, name)(writer, *args)
        return _unfenced(name)(writer, *args)

    return call


def _tuple_handle(writer, number, sealed):
    writer.right.prepare(writer, number, sealed)
    return (number, "x")


def _reference_handle(writer, number, sealed):
    writer.right.prepare(writer, number, sealed)
    return writer


def _write_changes(writer, records):
    writer.right.write(writer, records)
    records.clear()


def _write_names(writer, records):
    writer._records.extend(list(records))


TRANSACTIONAL_BUGS = [
    ("nothing_is_visible_before_the_commit", "a write shows", {"write": _write_through}),
    ("nothing_is_visible_before_the_commit", "a seal shows", {"seal": _seal_shows}),
    ("nothing_is_visible_before_the_commit", "a prepare shows", {"prepare": _prepare_shows}),
    ("nothing_is_visible_before_the_commit", "a handle that msgpack changes", {"prepare": _tuple_handle}),
    ("nothing_is_visible_before_the_commit", "a handle of this process", {"prepare": _reference_handle}),
    ("a_seal_cuts", "all of it again", {"seal": _seal_keeps_all}),
    ("a_seal_cuts", "what is written later comes too", {"seal": _seal_shares}),
    ("a_seal_of_nothing_is_none", "an empty list", {"seal": lambda w, n: w.right.seal(w, n) or []}),
    ("a_commit_is_idempotent", "it appends", {"commit": _commit_twice}),
    ("a_commit_is_idempotent", "it replaces by nothing", {"commit": _commit_empties}),
    ("a_commit_is_idempotent", "it fails", {"commit": _commit_needs_prepared}),
    ("recover_commits_what_was_decided", "it discards all", {"recover": _recover_nothing}),
    ("recover_discards_the_rest", "it keeps all", {"recover": _recover_keeps}),
    ("recover_discards_the_rest", "it commits all", {"recover": _recover_all}),
    ("what_is_left_can_be_removed", "it cannot", {"left": lambda sink: [Leftover("removable", "it", "is left")]}),
    ("what_is_left_can_be_removed", "what was decided", {"left": _left(lambda sink: sink.prepared.clear())}),
    ("what_is_left_can_be_removed", "it shows", {"left": _left(lambda sink: sink.committed.update({(9, 0): [{}]}))}),
    ("what_is_left_can_be_removed", "it stays", {"left": _left(lambda sink: None)}),
    ("an_abort_leaves_nothing", "it stays prepared", {"abort": _abort_nothing}),
    ("an_abort_leaves_nothing", "it comes with the next one", {"abort": _abort_returns}),
    ("close_discards_what_was_not_sealed", "it commits", {"close": _close_keeps}),
    ("an_older_epoch_is_refused", "not by commit", {"commit": _unfenced("commit")}),
    ("an_older_epoch_is_refused", "not by prepare", {"prepare": _unfenced("prepare")}),
    ("an_older_epoch_is_refused", "not by recover", {"recover": _unfenced("recover")}),
    ("workers_write_side_by_side", "prepared under one name", {"prepare": _prepare_nameless}),
    ("workers_write_side_by_side", "the second one cleans", {"recover": _recover_alone}),
    ("any_worker_commits_what_another_prepared", "its own only", {"commit": _commit_own}),
    ("any_worker_recovers_what_others_prepared", "its own only", {"recover": _recover_own}),
    ("a_worker_without_successor_is_refused", "not by commit", {"commit": _fenced_by_namesakes("commit")}),
    ("a_worker_without_successor_is_refused", "not by prepare", {"prepare": _fenced_by_namesakes("prepare")}),
    ("opening_changes_nothing", "it fences", {"opened": _open_fences}),
    ("opening_changes_nothing", "it cleans", {"opened": _open_cleans}),
    ("an_older_state_is_refused", "nothing is noted", {"commit": _commit_forgets}),
    ("a_lineage_that_was_left_is_refused", "only epochs count", {"recover": _recover_forgets("lineage", 0)}),
    ("another_state_directory_is_refused", "nothing is noted", {"recover": _recover_forgets("state_id", "")}),
    ("what_was_learnt_is_given_back", "an object", {"snapshot": lambda writer: object()}),
    ("what_was_learnt_is_given_back", "learnt anew", {"snapshot": id}),
    ("columns_are_written_as_rows_are", "names instead of rows", {"write": _write_names}),
    ("a_batch_is_not_changed", "the batch is emptied", {"write": _write_changes}),
]


class _TransactionalContract(_Kept, TransactionalSinkContract):
    members = {}  # noqa: RUF012 - replaced, never changed

    def make_sink(self, directory):
        self.sink = self.sink or Broken(**self.members)
        return self.sink


@pytest.mark.parametrize("contract", [_PlainContract, _IdempotentContract, _TransactionalContract])
def test_the_sinks_without_a_bug(tmp_path, contract):
    for name in sorted(checks_of(contract)):
        (tmp_path / name).mkdir()
        check(contract(), name, tmp_path / name)


@pytest.mark.parametrize(
    ("contract", "name", "bug", "kind"),
    [
        *((_PlainContract, *bug) for bug in PLAIN_BUGS),
        *((_IdempotentContract, *bug) for bug in IDEMPOTENT_BUGS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bug_in_a_sink_is_found(tmp_path, contract, name, bug, kind):
    made = contract()
    made.kind = kind
    with pytest.raises(AssertionError, match="broken promise: "):
        check(made, name, tmp_path)


@pytest.mark.parametrize(
    ("name", "bug", "members"), TRANSACTIONAL_BUGS, ids=[f"{name}-{bug}" for name, bug, _ in TRANSACTIONAL_BUGS]
)
def test_a_bug_in_a_transactional_sink_is_found(tmp_path, name, bug, members):
    contract = _TransactionalContract()
    contract.members = members
    with pytest.raises((AssertionError, KeyError)) as caught:
        check(contract, name, tmp_path)
    if isinstance(caught.value, AssertionError):
        assert "broken promise: " in str(caught.value)


def test_a_transactional_sink_whose_check_shows(tmp_path):
    contract = _TransactionalContract()
    sink = contract.make_sink(tmp_path)
    sink.check = lambda context: sink.committed.update({(0, 0): [{"id": 0}]}) or ()
    with pytest.raises(AssertionError, match=r"check\(\) changes nothing"):
        check(contract, "a_check_changes_nothing", tmp_path)


def test_every_check_has_a_bug_that_it_finds():
    assert checks_of(SourceContract) == {name for name, _, _ in SOURCE_BUGS}
    assert checks_of(PlainSinkContract) == {name for name, _, _ in PLAIN_BUGS}
    assert checks_of(IdempotentSinkContract) == {name for name, _, _ in [*PLAIN_BUGS, *IDEMPOTENT_BUGS]}
    found = {name for name, _, _ in TRANSACTIONAL_BUGS} | {"a_check_changes_nothing"}
    assert checks_of(TransactionalSinkContract) == found


def test_the_testing_sink_is_fenced():
    contract = _TransactionalContract()
    old = contract._open(Path())
    contract._open(Path(), 2)
    with pytest.raises(FencedError, match="epoch 2 of job 'contract' writes here; this writer has epoch 1"):
        old.prepare(1, [1])


def test_the_example_of_use(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", contracts.__doc__, re.DOTALL)
    (tmp_path / "test_example.py").write_text(example)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    expected = len(checks_of(SourceContract)) + len(checks_of(TransactionalSinkContract))
    assert f"{expected} passed" in result.stdout, result.stdout
