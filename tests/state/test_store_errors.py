"""A state directory that cannot be used says why by a typed error, embedded and through ``run``, and stays whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from onceflow import Dataflow, run
from onceflow.embed import StateBackend
from onceflow.exceptions import (
    CheckpointNotFoundError,
    FencedError,
    StoreCorruptError,
    StoreError,
    StoreForkedError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
    StoreMismatchError,
    StoreMissingError,
    StoreReadOnlyError,
)
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink

COLUMNS = {"n": "i64", "text": "bytes"}


def open_backend(state, **settings):
    return StateBackend.open(state, job="job", **settings)


def run_job(state, records=(EOF, 1, 2), **settings):
    flow, sink = Dataflow("job"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource(records))
    stream.key_by(lambda n: n).stateful_map("seen", lambda state, n: (b"x" * 2000, n)).sink("out", sink)
    return run(flow, state, **settings)


#: Both ways in.
WAYS = pytest.mark.parametrize("use", [open_backend, run_job], ids=["embedded", "run"])


@pytest.fixture
def used(state):
    """A directory with a checkpoint of an unfinished job."""
    assert not run_job(state, [*range(100), EOF, 1]).finished
    return state


@contextmanager
def owned(state, *, paused=False):
    """Another process that owns the directory."""
    script = textwrap.dedent(
        """
        import sys, time
        from onceflow.embed import StateBackend
        backend = StateBackend.open(sys.argv[1], job="job")
        table = backend.table("t", key="i64", columns={"n": "i64"})
        print("open", flush=True)
        for line in sys.stdin:
            try:
                table.put([1], n=1)
                backend.checkpoint().wait()
                print("done", flush=True)
            except Exception as error:
                print(type(error).__name__, error, flush=True)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "open\n"
        if paused:
            process.send_signal(signal.SIGSTOP)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.stdin.close()


@WAYS
def test_owned_by_a_running_process(used, use):
    with owned(used) as owner:
        with pytest.raises(StoreLockedError, match=rf"process {owner.pid}\b.*take_over"):
            use(used)
        # Looking is allowed.
        with open_backend(used, read_only=True) as reader:
            assert len(reader.checkpoints()) > 0


@WAYS
def test_taken_over_from_a_paused_process(used, use):
    with owned(used, paused=True) as owner:
        taken = use(used, take_over=True)
        before = ids(used)
        owner.send_signal(signal.SIGCONT)
        owner.stdin.write("checkpoint\n")
        owner.stdin.flush()
        assert owner.stdout.readline().startswith("FencedError")
        assert ids(used) == before
        if isinstance(taken, StateBackend):
            taken.table("t", key="i64", columns={"n": "i64"})
            taken.checkpoint().wait()
            taken.close()


def ids(state):
    with open_backend(state, read_only=True, resume_from="none") as reader:
        return [info.id for info in reader.checkpoints()]


def test_a_newer_epoch_fences_an_older_one(state):
    first = open_backend(state)
    with pytest.raises(StoreLockedError, match="open in this process"):
        open_backend(state)
    script = (
        "import sys; from onceflow.embed import StateBackend; "
        "StateBackend.open(sys.argv[1], job='job', take_over=True).close()"
    )
    subprocess.run([sys.executable, "-c", script, str(state)], check=True)
    with pytest.raises(FencedError, match="epoch"):
        first.checkpoint().wait()
    with pytest.raises(FencedError):
        first.check_epoch()
    first.close()


def test_after_fork_the_child_is_refused_and_the_parent_goes_on(state):
    backend = open_backend(state)
    table = backend.table("t", key="i64", columns={"n": "i64"})
    table.put([1], n=1)
    backend.checkpoint().wait()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        outcomes = []
        for call in (
            backend.checkpoint,
            backend.checkpoints,
            backend.check_epoch,
            lambda: backend.delete_checkpoint(1),
        ):
            try:
                pending = call()
                if call == backend.checkpoint:
                    pending.wait(10)
                outcomes.append("no error")
            except StoreForkedError as error:
                outcomes.append("forked" if "fork" in str(error) else str(error))
            except BaseException as error:
                outcomes.append(repr(error))
        os.write(write, json.dumps(outcomes).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    outcomes = json.loads(os.read(read, 65536))
    os.close(read)
    assert outcomes == ["forked"] * 4
    table.put([2], n=2)
    backend.checkpoint({"p": 2}).wait()
    backend.close()
    with open_backend(state) as backend:
        assert backend.positions == {"p": 2}


@pytest.mark.parametrize("way", ["exception", "exit", "return"])
def test_a_forked_child_that_leaves_the_block_closes_nothing(state, way):
    """The kind of fault: a child's cleanup waits for ever for a thread that it does not have, aborts its parent's
    checkpoint, or hides how the child ends."""
    with open_backend(state) as backend:
        table = backend.table("t", key="i64", columns={"n": "i64"})
        table.put(list(range(100_000)), n=1)
        committing = backend.checkpoint({"p": 1})
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with ExitStack() as stack:
                    stack.push(backend)  # as the parent's block does: a child may not enter one of its own
                    if way == "exception":
                        raise ZeroDivisionError
                    if way == "exit":
                        sys.exit(7)
                backend.close()
                assert committing.done
                del committing
                code = 7
            except ZeroDivisionError:
                code = 7
            except SystemExit as leaving:
                code = leaving.code
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        committing.wait()
        pending = backend.begin_checkpoint()
        child = os.fork()
        if child == 0:
            del pending
            os._exit(7)
        os.waitpid(child, 0)
        pending.commit()
        pending.wait()
    with open_backend(state) as backend:
        assert len(backend.checkpoints()) == 2


@WAYS
def test_of_another_job(state, use):
    StateBackend.open(state, job="other").close()
    with pytest.raises(StoreMismatchError, match=r"other.*job|job.*other"):
        use(state)


def test_with_another_number_of_key_groups(used):
    with pytest.raises(StoreMismatchError, match=r"128.*64|64.*128"):
        open_backend(used, key_groups=64)


@WAYS
def test_of_a_newer_format(used, use):
    manifest = used / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, **{name: 99 for name in content if "format" in name}}))
    with pytest.raises(StoreFormatError, match=r"99.*(newer|upgrade)|newer.*99"):
        use(used)


@WAYS
@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\x00" * 200, b"[1, 2]", None])
def test_with_a_damaged_manifest(used, use, content):
    manifest = used / "manifest.json"
    if content is None:
        manifest.unlink()
    else:
        manifest.write_bytes(content)
    data = (used / "data" / "data.mdb").read_bytes()
    with pytest.raises((StoreCorruptError, StoreFormatError), match="manifest"):
        use(used)
    assert (used / "data" / "data.mdb").read_bytes() == data


@WAYS
@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_cut_short(used, use, keep):
    os.truncate(used / "data" / "data.mdb", keep)
    with pytest.raises(StoreCorruptError):
        use(used)


@WAYS
def test_not_a_directory(tmp_path, use):
    file = tmp_path / "file"
    file.write_text("not a directory")
    with pytest.raises(StoreError, match="file"):
        use(file)
    assert file.read_text() == "not a directory"


@WAYS
def test_a_directory_of_something_else(tmp_path, use):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=str(tmp_path)):
        use(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_missing(state):
    with pytest.raises(StoreMissingError, match=str(state)):
        open_backend(state, create=False)
    with pytest.raises(StoreMissingError):
        open_backend(state, read_only=True)
    assert not state.exists()


@WAYS
def test_a_checkpoint_that_is_not_there(used, use):
    with pytest.raises(CheckpointNotFoundError, match=r"no checkpoint 99; (there are \[|it has )"):
        use(used, resume_from=99)


def test_read_only(used):
    with open_backend(used) as backend:
        backend.checkpoint().wait()
    with open_backend(used, read_only=True) as reader:
        oldest = reader.checkpoints()[0].id
        for call in (reader.checkpoint, reader.begin_checkpoint, lambda: reader.delete_checkpoint(oldest)):
            with pytest.raises(StoreReadOnlyError):
                call()


def mount(*arguments):
    """Mounts; needs root and loop devices, which machines that run the tests have."""
    done = subprocess.run(["mount", *map(str, arguments)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr}")


@pytest.fixture
def small_disk(tmp_path):
    """An ext4 file system of 8 MB."""
    image, directory = tmp_path / "image", tmp_path / "disk"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    mount("-o", "loop", image, directory)
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def test_full_disk(small_disk):
    state = small_disk / "state"
    with open_backend(state) as backend:
        table = backend.table("t", key="i64", columns=COLUMNS)
        kept = {}
        random = np.random.default_rng(1)
        with pytest.raises(StoreFullError, match=str(state)):
            for number in range(100):
                table.put(np.arange(number * 100, number * 100 + 100), n=number, text=[random.bytes(3000)] * 100)
                backend.checkpoint({"at": number}).wait()
                kept = {"at": number}
        assert kept
    # What was complete is there, and with room the job goes on.
    with open_backend(state) as backend:
        assert backend.positions == kept


def test_full_disk_in_a_job(small_disk):
    state = small_disk / "state"
    filler = small_disk / "filler"
    assert not run_job(state, [*range(50), EOF]).finished
    free = os.statvfs(small_disk)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - (64 << 10)))
    with pytest.raises(StoreFullError, match=str(state)):
        run_job(state, [*range(50), EOF, *range(50, 2000)])
    filler.unlink()
    result = run_job(state, [*range(50), EOF, *range(50, 2000)])
    assert (result.finished, result.records_in) == (True, 2000)


@WAYS
def test_read_only_file_system(small_disk, use):
    state = small_disk / "state"
    run_job(state, [1, EOF, 2])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(StoreReadOnlyError, match="Read-only file system"):
            use(state)
        with pytest.raises(StoreReadOnlyError, match="Read-only file system"):
            use(small_disk / "new")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert run_job(state, [1, EOF, 2]).finished


def test_a_directory_that_was_there_becomes_private(tmp_path):
    state = tmp_path / "state"
    state.mkdir(mode=0o777)
    state.chmod(0o777)
    StateBackend.open(state).close()
    assert state.stat().st_mode & 0o777 == 0o700
