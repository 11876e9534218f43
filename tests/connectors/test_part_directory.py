"""Part files whose run was replaced, whose state is a copy, or whose staged files were damaged or lost."""

from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path

import pytest

from onceflow import Dataflow, run
from onceflow.connectors.files import CsvSink, JsonLinesSink, ParquetSink, parts, read_parts
from onceflow.exceptions import FencedError, MissingOutputWarning, OnceflowError, SinkError
from onceflow.sinks import Committable, SinkContext
from onceflow.testing import EOF, TestingSource

STATE = "5" * 32


def context(epoch=1, *, restored=None, decided=None, lineage=1, state_id=STATE):
    return SinkContext("job", "out", epoch, lineage, restored, decided or restored, state_id)


def opened(directory, epoch=1, decided=(), **settings):
    restored = decided[-1].checkpoint_id if decided else None
    writer = CsvSink(directory).open(context(epoch, **{"restored": restored, **settings}))
    writer.recover(decided)
    return writer


def prepared(writer, number):
    writer.write([{"n": number}])
    sealed = writer.seal(number)
    try:
        return Committable(number, writer.prepare(number, sealed))
    except OnceflowError:
        writer.abort(number, sealed)
        raise


def staged(directory):
    return sorted((directory / ".onceflow").glob("staged-*"))


# -- replaced at any point ---------------------------------------------------------------------


class Job:
    """A job whose checkpoint n writes record n; decisions are fenced, as the state directory fences them."""

    def __init__(self, directory):
        self.directory = directory
        self.epoch = 0
        self.decided = []

    def start(self):
        self.epoch += 1
        restored = self.decided[-1].checkpoint_id if self.decided else None
        writer = CsvSink(self.directory).open(context(self.epoch, restored=restored))
        return Life(self, self.epoch, writer, list(self.decided))


class Life:
    """One process of the job."""

    def __init__(self, job, epoch, writer, decided):
        self.job, self.epoch, self.writer, self.decided = job, epoch, writer, decided

    def recover(self):
        self.writer.recover(self.decided)

    def checkpoint(self, *, commit=True):
        number = len(self.decided) + 1
        committable = prepared(self.writer, number)
        if self.epoch < self.job.epoch:
            raise FencedError("the state directory has a newer owner")
        self.decided.append(committable)
        self.job.decided.append(committable)
        if commit:
            self.writer.commit(committable)


@pytest.fixture
def pauses(monkeypatch):
    """Calls a function when the nth crash point is passed, once; returns the number of points that were passed."""

    class Pauses:
        at, call, passed = None, None, []

        def pass_point(self, name):
            if threading.current_thread() is not threading.main_thread():
                return
            self.passed.append(name)
            if len(self.passed) - 1 == self.at and self.call is not None:
                call, self.call = self.call, None
                call()

    found = Pauses()
    monkeypatch.setattr(parts, "crash_point", found.pass_point)
    return found


def lives(job):
    """A process that takes a while: two checkpoints are decided, and one more is left decided and not committed."""
    life = job.start()
    life.recover()
    for commit in (True, True, False):
        life.checkpoint(commit=commit)


@pytest.mark.parametrize("how_far", ["opened", "recovered", "decided", "committed"])
def test_replaced_at_every_point(tmp_path, pauses, how_far):
    """Kind: what may a process do that has been replaced? Stopped at each point of its life, replaced by one that goes
    so far, woken, let go on until it is refused; then the second goes on, and a third. Each record once, in order.

    On the code before, a run that was stopped in its recovery lowered the epoch and removed its successor's file."""
    probe = Job(tmp_path / "probe")
    lives(probe)
    pauses.passed = []
    lives(probe)
    points = list(pauses.passed)
    assert len(points) > 15
    for at, point in enumerate(points):
        directory = tmp_path / str(at)
        job = Job(directory)
        lives(job)
        second = []

        def replace(job=job, second=second):
            second.append(job.start())
            if how_far != "opened":
                second[0].recover()
            if how_far in ("decided", "committed"):
                second[0].checkpoint(commit=how_far == "committed")

        pauses.passed, pauses.at, pauses.call = [], at, replace
        first = job.start()
        try:
            first.recover()
            for commit in (True, True, False):
                first.checkpoint(commit=commit)
        except (FencedError, SinkError) as error:
            assert isinstance(error, FencedError), (point, error)
        pauses.at = None
        first.writer.close()
        (life,) = second
        life.decided = list(job.decided)
        if how_far == "opened":
            life.recover()
        elif how_far == "decided":
            life.writer.commit(job.decided[-1])
        life.checkpoint()
        life.writer.close()
        lives(job)
        last = job.start()
        last.recover()
        expected = "".join(f"{number}\n" for number in range(1, len(job.decided) + 1))
        assert read_parts(directory).decode() == f"n\n{expected}", point
        assert not staged(directory), point


def test_an_epoch_is_never_lowered(tmp_path):
    """Kind: a replaced run lowers what fences it. Here it wakes up right before it says who may write."""
    late = CsvSink(tmp_path).open(context(2))
    successor = opened(tmp_path, 3)
    decided = prepared(successor, 1)
    with pytest.raises(FencedError, match=r"epoch 3 of job 'job' writes to .*; this process has epoch 2 and "):
        late.recover([])
    successor.commit(decided)
    assert read_parts(tmp_path) == b"n\n1\n"
    with pytest.raises(FencedError):
        late.recover([])


def test_two_copies_of_one_state_at_the_same_epoch(tmp_path):
    """Kind: a copy of the state directory is run beside the original, both with the same job epoch."""
    one = opened(tmp_path, 4)
    with pytest.raises(FencedError, match="another run, from a copy of this state, with epoch 4 of job 'job'"):
        CsvSink(tmp_path).open(context(4))
    one.commit(prepared(one, 1))
    assert read_parts(tmp_path) == b"n\n1\n"


def test_a_newer_lineage_may_write_with_a_lower_epoch(tmp_path):
    """Going on from an old copy on purpose: lineages are compared before epochs; the run that was left is fenced."""
    left = opened(tmp_path, 9)
    left.commit(prepared(left, 1))
    went_on = CsvSink(tmp_path).open(context(2, restored=1, lineage=2))
    went_on.recover([])
    went_on.commit(prepared(went_on, 2))
    with pytest.raises(FencedError, match=r"epoch 2 of lineage 2 of job 'job' writes .* epoch 9 of lineage 1"):
        prepared(left, 2)
    assert read_parts(tmp_path) == b"n\n1\n2\n"


# -- what was prepared is what is published ----------------------------------------------------


def damaged(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


DAMAGE = [
    ("other bytes", damaged, r"is not what checkpoint 1 has prepared: it has 4 bytes with checksum"),
    ("cut", lambda path: os.truncate(path, 1), r"is not what checkpoint 1 has prepared: it has 1 bytes"),
    ("longer", lambda path: path.write_bytes(path.read_bytes() * 2), r"is not what .* it has 8 bytes"),
    (
        "gone",
        Path.unlink,
        r"the output of checkpoint 1 is lost: .* has neither part-0001-000000000001.csv nor what",
    ),
    ("a link", lambda path: path.replace(path.with_name("x")) and path.symlink_to("x"), "Too many levels of symbolic"),
]


@pytest.mark.parametrize(("_name", "damage", "message"), DAMAGE, ids=[name for name, _, _ in DAMAGE])
@pytest.mark.parametrize("by", ["the run itself", "a recovery"])
def test_a_staged_file_that_is_not_what_it_was(tmp_path, _name, damage, message, by):
    """Kind: published unchecked. Damaged, cut, or deleted between the decision and the rename: an error, each time."""
    writer = opened(tmp_path)
    decided = prepared(writer, 1)
    damage(staged(tmp_path)[0])
    for epoch in (2, 3):
        with pytest.raises(SinkError, match=message):
            if by == "a recovery":
                opened(tmp_path, epoch, [decided])
            else:
                writer.commit(decided)
    assert read_parts(tmp_path) == b""


def test_a_visible_part_that_is_not_what_was_decided(tmp_path):
    """The rename was not noted yet, and somebody else's file has the name: not taken for ours."""
    writer = opened(tmp_path)
    decided = prepared(writer, 1)
    (path,) = staged(tmp_path)
    path.unlink()
    (tmp_path / "part-0001-000000000001.csv").write_text("n\n2\n")
    with pytest.raises(SinkError, match="is not what checkpoint 1 has prepared"):
        opened(tmp_path, 2, [decided])


def test_the_same_of_a_part_too_large_to_read_twice(tmp_path):
    """A run knows a large part by inode, length and time; whoever comes later reads it."""
    writer = opened(tmp_path)
    writer.write([{"n": "x" * 9_000_000}])
    decided = Committable(1, writer.prepare(1, writer.seal(1)))
    (path,) = staged(tmp_path)
    damaged(path)
    for commit in (lambda: writer.commit(decided), lambda: opened(tmp_path, 2, [decided])):
        with pytest.raises(SinkError, match="is not what checkpoint 1 has prepared"):
            commit()


def test_a_part_that_was_visible_may_be_taken_away(tmp_path):
    """Kind: "it is not there, so it was done before". Only where that was noted."""
    writer = opened(tmp_path)
    first = prepared(writer, 1)
    writer.commit(first)
    (tmp_path / "part-0001-000000000001.csv").unlink()
    writer.commit(first)
    second = prepared(opened(tmp_path, 2, [first]), 2)
    staged(tmp_path)[0].unlink()
    for epoch in (3, 4):
        with pytest.raises(SinkError, match="the output of checkpoint 2 is lost"):
            opened(tmp_path, epoch, [first, second])


def flow_of(directory, records, kind=JsonLinesSink):
    flow = Dataflow("flow")
    flow.source("in", TestingSource(records)).sink("out", kind(directory))
    return flow


@pytest.mark.parametrize("back", [0, 1])
def test_the_advice_for_lost_output(tmp_path, back):
    """The message says where to resume from: from the checkpoint before, the output is written again; from that
    checkpoint itself, it is left to whoever has taken it, with a warning."""
    out, state = tmp_path / "out", tmp_path / "state"
    records = ["a", EOF, "b", EOF, "c"]
    first = run(flow_of(out, records), state).last_checkpoint
    run(flow_of(out, records), state)
    # As if the job had been killed right after the decision, and the staged file lost.
    newest = sorted(out.glob("part-*"))[-1]
    newest.unlink()
    (mark,) = (out / ".onceflow").glob("newest-*")
    mark.rename(mark.with_name(f"newest-0001-{first:012d}"))
    for _ in range(2):
        with pytest.raises(SinkError, match=r"the output of checkpoint .* is lost") as caught:
            run(flow_of(out, records), state)
    advised = re.search(
        r"checkpoint before (\d+) with.*resume_from.*reader has taken it away, from \1", str(caught.value)
    )
    lost = int(advised[1])
    if back:
        run(flow_of(out, records), state, resume_from=first)
        assert run(flow_of(out, records), state).finished
        assert read_parts(out) == b'"a"\n"b"\n"c"\n'
    else:
        with pytest.warns(MissingOutputWarning, match=f"the output of checkpoint {lost}, .*is not there"):
            run(flow_of(out, records), state, resume_from=lost)
        assert read_parts(out) == b'"a"\n"c"\n'


# -- older copies ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CsvSink, JsonLinesSink, ParquetSink])
@pytest.mark.parametrize("taken", [False, True], ids=["parts there", "parts taken away"])
def test_a_state_that_was_put_back(tmp_path, kind, taken):
    """Kind: state older than its sinks. Refused at the first attempt and at the tenth, with nothing touched; then the
    advice of the message is followed."""
    out, state, copy = tmp_path / "out", tmp_path / "state", tmp_path / "copy"
    records = [{"n": 1}, EOF, {"n": 2}, EOF, {"n": 3}, EOF, {"n": 4}]
    run(flow_of(out, records, kind), state)
    shutil.copytree(state, copy)
    for _ in range(2):
        run(flow_of(out, records, kind), state)
    there = sorted(out.glob("part-*"))
    assert len(there) == 3
    if taken:
        shutil.move(there[-1], tmp_path)
    shutil.rmtree(state)
    shutil.copytree(copy, state)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for _ in range(10):
        with pytest.raises(OnceflowError, match=r"the state is older than its output.*resume_from=") as caught:
            run(flow_of(out, records, kind), state)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    number = int(re.search(r"resume_from=(\d+)", str(caught.value))[1])
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in out.glob("part-*"):
        if int(path.stem.split("-")[2]) > number:
            shutil.move(path, moved)
    run(flow_of(out, records, kind), state, resume_from=number)
    for _ in range(4):
        finished = run(flow_of(out, records, kind), state).finished
    assert finished
    assert len(sorted(out.glob("part-*"))) == 4


def test_a_part_that_is_newer_than_the_state_refuses_without_a_note(tmp_path):
    """After a power cut the note may be one behind; the part file itself says what is visible."""
    writer = opened(tmp_path)
    decided = [prepared(writer, 1)]
    writer.commit(decided[0])
    writer.commit(prepared(writer, 2))
    for path in (tmp_path / ".onceflow").glob("newest-*"):
        path.unlink()
    for epoch in (2, 3):
        with pytest.raises(SinkError, match="holds the output of checkpoint 2 of job 'job', and the newest one of"):
            opened(tmp_path, epoch, decided)


@pytest.mark.parametrize("how", ["put back", "emptied", "without its private files"])
def test_a_directory_that_was_put_back(tmp_path, how):
    """Kind: the sink's directory alone is older than the state, and what is retained had no output: rows are missing
    and nobody says so. Refused at each attempt; then the advice of the message is followed."""
    out, state = tmp_path / "out", tmp_path / "state"
    records = [1, EOF, 2, EOF, None, EOF, None, EOF, None, EOF, 3]

    def again(**choice):
        flow = Dataflow("flow")
        stream = flow.source("in", TestingSource(records)).filter(lambda number: number is not None)
        stream.sink("out", JsonLinesSink(out))
        return run(flow, state, **choice)

    again()
    shutil.copytree(out, tmp_path / "copy")
    for _ in range(4):
        again()
    if how == "without its private files":
        shutil.rmtree(out / ".onceflow")
        sorted(out.glob("part-*"))[-1].unlink()
    else:
        shutil.rmtree(out)
    if how == "put back":
        shutil.copytree(tmp_path / "copy", out)
    for _ in range(10):
        with pytest.raises(OnceflowError, match=r"the output of checkpoint \d+ is lost: .* does not know it") as caught:
            again()
    number = int(re.search(r"resume_from=(\d+)", str(caught.value))[1])
    with pytest.warns(MissingOutputWarning, match=r"the output of checkpoint \d+ is lost"):
        again(resume_from=number)
    assert again().finished
    assert read_parts(out).endswith(b"3\n")


@pytest.mark.parametrize("retain", [2, 8])
def test_going_back_to_a_checkpoint_that_an_older_directory_lacks(tmp_path, retain):
    """Kind: a directory that was put back was refused, and going back to a checkpoint that it does not know either was
    accepted: what it lacked up to there was lost without a word. What the message advises is followed."""
    out, state = tmp_path / "out", tmp_path / "state"
    records = [1, EOF, 2, EOF, 3, EOF, 4, EOF, 5]
    first = run(flow_of(out, records), state, retain=retain).last_checkpoint
    shutil.copytree(out, tmp_path / "copy")
    numbers = [run(flow_of(out, records), state, retain=retain).last_checkpoint for _ in range(3)]
    shutil.rmtree(out)
    shutil.copytree(tmp_path / "copy", out)
    told = rf"the output of checkpoint {numbers[1]} is lost: .* up to checkpoint {first}\. "
    for choice in ({}, {"resume_from": numbers[1]}) * 2:
        with pytest.raises(SinkError, match=told) as caught:
            run(flow_of(out, records), state, retain=retain, **choice)
        assert f"resume_from from {first}, the newest checkpoint that the directory has" in str(caught.value)
        assert f"resume_from={numbers[-1]} " in str(caught.value)
    if retain == 8:
        run(flow_of(out, records), state, retain=retain, resume_from=first)
    else:
        for path in out.glob("part-*"):
            path.rename(tmp_path / path.name)
        run(flow_of(out, records), state, retain=retain, resume_from="none")
    while not run(flow_of(out, records), state, retain=retain).finished:
        pass
    assert read_parts(out) == b"1\n2\n3\n4\n5\n"


def test_a_checkpoint_of_another_lineage_whose_output_was_moved_away(tmp_path):
    """Nobody can know whether what was moved away to go back is there again: it is warned of by name."""
    out, state = tmp_path / "out", tmp_path / "state"
    records = [1, EOF, 2, EOF, 3, EOF, 4]
    numbers = [run(flow_of(out, records), state, retain=8).last_checkpoint for _ in range(2)]
    last = out / f"part-0001-{numbers[1]:012d}.jsonl"
    last.rename(tmp_path / last.name)
    later = run(flow_of(out, records), state, retain=8, resume_from=numbers[0]).last_checkpoint
    (part,) = out.glob(f"part-*-{later:012d}.jsonl")
    part.unlink()
    with pytest.warns(MissingOutputWarning, match=rf"{re.escape(last.name)}, the output of checkpoint"):
        run(flow_of(out, records), state, retain=8, resume_from=numbers[1])


# -- what an older version has left ------------------------------------------------------------


@pytest.fixture
def former(tmp_path):
    """A directory as the version before left it, killed after a decision."""
    staging = tmp_path / ".onceflow"
    staging.mkdir(mode=0o700)
    (staging / "owner").write_text("job\nout\n")
    (staging / "epoch").write_text("3")
    (tmp_path / "part-0001-000000000001.csv").write_text("n\n1\n")
    (staging / "staged-0001-000000000002.csv").write_text("n\n2\n")
    (staging / "staged-0001-000000000003.csv").write_text("n\n3\n")
    (staging / "open-3-2.csv").write_text("n\n4\n")
    return tmp_path


def former_handle(number):
    return Committable(number, {"part": f"0001-{number:012d}.csv"})


def test_what_an_older_version_has_left(former):
    """Handles without length and checksum, names without epochs: resumed, committed, and cleaned."""
    writer = opened(former, 4, [former_handle(1), former_handle(2)])
    writer.commit(prepared(writer, 4))
    assert read_parts(former) == b"n\n1\n2\n4\n"
    names = sorted(path.name.split("-")[0] for path in (former / ".onceflow").iterdir())
    assert names == ["epoch", "newest", "owner"]
    with pytest.raises(SinkError, match="with another state directory"):
        opened(former, 9, [former_handle(2)], state_id="6" * 32)
    assert (former / ".onceflow" / "owner").read_text() == f"job\nout\n{STATE}\n"


def test_an_older_version_fences(former):
    with pytest.raises(FencedError, match="epoch 3 of job 'job' writes to"):
        opened(former, 2, [former_handle(1)])
    (former / ".onceflow" / "epoch").write_text("four")
    with pytest.raises(SinkError, match="is damaged: 'four' is not an epoch"):
        opened(former, 9, [former_handle(1)])


def test_an_older_version_noted_nothing(former):
    """All but the newest decided part were committed before the next one was begun, and may be taken away; of the
    newest nobody can tell."""
    (former / "part-0001-000000000001.csv").unlink()
    writer = opened(former, 4, [former_handle(1), former_handle(2)])
    writer.close()
    assert read_parts(former) == b"n\n2\n"
    (former / ".onceflow" / "newest-0001-000000000002").unlink()
    (former / "part-0001-000000000002.csv").unlink()
    with pytest.raises(SinkError, match="the output of checkpoint 2 is lost"):
        opened(former, 5, [former_handle(1), former_handle(2)])


# -- surroundings ------------------------------------------------------------------------------


def test_links_and_pipes_in_the_place_of_our_files(tmp_path):
    """Kind: hostile or broken surroundings. Nothing is followed, nothing hangs."""
    opened(tmp_path / "a").close()
    owner = tmp_path / "a" / ".onceflow" / "owner"
    owner.unlink()
    os.mkfifo(owner)
    with pytest.raises(SinkError, match="is not a regular file"):
        CsvSink(tmp_path / "a").open(context(2))
    owner.unlink()
    owner.symlink_to(tmp_path / "victim")
    with pytest.raises(SinkError, match=r"cannot be written: .*symbolic link"):
        CsvSink(tmp_path / "a").open(context(2))
    assert not (tmp_path / "victim").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "b" / ".onceflow").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SinkError, match=r"\.onceflow is a link"):
        CsvSink(tmp_path / "b").open(context())


def test_a_file_system_without_links(tmp_path, monkeypatch):
    """Whose a directory is can be said there too."""

    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    writer = opened(tmp_path)
    writer.commit(prepared(writer, 1))
    assert (tmp_path / ".onceflow" / "owner").read_text() == f"job\nout\n{STATE}\n"
    with pytest.raises(SinkError, match="with another state directory"):
        CsvSink(tmp_path).open(context(2, state_id="6" * 32))


def test_a_directory_that_is_emptied_while_the_job_runs(tmp_path):
    writer = opened(tmp_path)
    shutil.rmtree(tmp_path / ".onceflow")
    (tmp_path / ".onceflow").mkdir()
    with pytest.raises(SinkError, match=r"No such file|was emptied or replaced while the job runs"):
        prepared(writer, 1)


# -- forks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["close", "abort", "both"])
def test_a_forked_child_undoes_nothing(tmp_path, call):
    """Kind: a child that unwinds its parent's run. Neither sealed, prepared nor open output is touched by it."""
    writer = opened(tmp_path)
    first = prepared(writer, 1)
    writer.write([{"n": 2}])
    sealed = writer.seal(2)
    writer.write([{"n": 3}])
    child = os.fork()
    if child == 0:
        if call != "close":
            writer.abort(2, sealed)
            writer.abort(1, sealed)
        if call != "abort":
            writer.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    writer.commit(first)
    writer.commit(Committable(2, writer.prepare(2, sealed)))
    writer.commit(Committable(3, writer.prepare(3, writer.seal(3))))
    writer.close()
    assert read_parts(tmp_path) == b"n\n1\n2\n3\n"


def test_applied(tmp_path):
    """What the recovery plan asks: it is visible, it is not, nobody knows."""
    writer = opened(tmp_path)
    assert writer.applied(1) is None
    first, second = prepared(writer, 1), None
    writer.commit(first)
    second = prepared(writer, 2)
    asked = CsvSink(tmp_path).open(context(2, restored=2))
    assert (asked.applied(1), asked.applied(2)) == (True, False)
    writer.commit(second)
    assert asked.applied(2) is True
    writer.close()


# -- several workers ---------------------------------------------------------------------------


def worker_context(epoch, worker, *, restored=None, run=None, state=None):
    return SinkContext(
        "job", "out", epoch, 1, restored, restored, STATE, state, worker=worker, run=run or f"{epoch:016x}"
    )


def worker(directory, number, *, epoch=1, decided=(), **settings):
    restored = decided[-1].checkpoint_id if decided else None
    writer = CsvSink(directory).open(worker_context(epoch, number, restored=restored, **settings))
    writer.recover(decided)
    return writer


def test_only_names_of_workers_after_the_first_bear_a_number(tmp_path):
    """Kind: two workers write to one name; or a job of one worker finds none of the names that it left."""
    writers = [worker(tmp_path, number) for number in (0, 12)]
    for writer in writers:
        writer.write([{"n": 1}])
    names = sorted(path.name for path in (tmp_path / ".onceflow").glob("open-*"))
    assert names == ["open-0001-000000000001-1.csv", "open-0001-000000000001-1_w0012.csv"]
    committables = [Committable(3, writer.prepare(3, writer.seal(3))) for writer in writers]
    assert [path.name for path in staged(tmp_path)] == [
        "staged-0001-000000000001-000000000003.csv",
        "staged-0001-000000000001-000000000003_w0012.csv",
    ]
    for committable in committables:
        writers[0].commit(committable)
    assert sorted(path.name for path in tmp_path.glob("part-*.csv")) == [
        "part-0001-000000000003.csv",
        "part-0001-000000000003_w0012.csv",
    ]
    kept = sorted(path.name for path in (tmp_path / ".onceflow").iterdir())
    assert kept == [
        "epoch-0001-000000000001-0000000000000001",
        "newest-0001-000000000003",
        "newest-0001-000000000003_w0012",
        "owner",
    ]


@pytest.mark.parametrize("lost", [0, 1])
def test_the_lost_part_of_one_worker_is_not_excused_by_that_of_another(tmp_path, lost):
    """Kind: what one worker has made visible says that a part of another one was visible, and a reader took it."""
    writers = [worker(tmp_path, number) for number in (0, 1)]
    decided = [prepared(writer, 5) for writer in writers]
    writers[1 - lost].commit(decided[1 - lost])
    (left,) = staged(tmp_path)
    left.unlink()
    for epoch, number in ((2, 0), (3, 1), (4, 2)):
        with pytest.raises(SinkError, match="the output of checkpoint 5 is lost"):
            worker(tmp_path, number, epoch=epoch, decided=decided)


def test_a_reader_may_take_the_parts_of_any_worker_away(tmp_path):
    """Kind: a commit that is repeated after a reader has taken the part is taken for a loss."""
    writers = [worker(tmp_path, number) for number in (0, 1)]
    decided = [prepared(writer, 5) for writer in writers]
    for writer, committable in zip(writers, decided, strict=True):
        writer.commit(committable)
    for path in tmp_path.glob("part-*"):
        path.unlink()
    for epoch, number in ((2, 0), (3, 1), (4, 2)):
        worker(tmp_path, number, epoch=epoch, decided=decided)
    assert not list(tmp_path.glob("part-*"))


def test_a_copy_of_a_run_of_workers_is_told_from_it(tmp_path):
    """Kind: a worker of a copy of the state, with the same epoch and another number, writes beside the first run."""
    first = worker(tmp_path, 0)
    second = CsvSink(tmp_path).open
    with pytest.raises(FencedError, match="from a copy of this state"):
        second(worker_context(1, 1, run="f" * 16))
    # Of the same run it is welcome.
    second(worker_context(1, 1)).close()
    first.commit(prepared(first, 1))


def test_a_worker_that_goes_on_from_the_state_of_another(tmp_path):
    """Kind: after the number of workers has changed, what the state knows is looked for under the wrong name."""
    writers = [worker(tmp_path, number) for number in (0, 1)]
    decided = []
    for number in (1, 2, 3):
        for writer in writers:
            writer.write([{"n": number}])
        sealed = [writer.seal(number) for writer in writers]
        states = [writer.snapshot() for writer in writers]
        decided = [
            Committable(number, writer.prepare(number, part)) for writer, part in zip(writers, sealed, strict=True)
        ]
        for writer, committable in zip(writers, decided, strict=True):
            writer.commit(committable)
    again = CsvSink(tmp_path).open(worker_context(2, 0, restored=3, state=states[1]))
    again.recover(decided)
    again.commit(prepared(again, 4))
    # What that worker wrote is missing, and another one's is not taken for it.
    for path in [*tmp_path.glob("part-*_w0001.csv"), *(tmp_path / ".onceflow").glob("newest-*_w0001")]:
        path.unlink()
    with pytest.raises(SinkError, match="the output of checkpoint 3 of worker 1 is lost"):
        CsvSink(tmp_path).open(worker_context(3, 0, restored=4, state=states[1]))
    # An older version kept no worker.
    of_first = {"newest": [1, 3], "before": [1, 2], "learnt": states[0]["learnt"]}
    CsvSink(tmp_path).open(worker_context(3, 0, restored=4, state=of_first)).close()
