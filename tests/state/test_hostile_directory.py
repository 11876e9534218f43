"""A state directory whose files somebody else has made, exchanged, cut or overwritten: a typed error, at once.

Nothing is opened through a link, nothing is waited for, and nobody else's file is written.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from onceflow._native import verify
from onceflow.embed import StateBackend
from onceflow.exceptions import StoreCorruptError, StoreError
from onceflow.log import Log

KINDS = ["pipe", "link", "dangling", "directory", "socket"]


@pytest.fixture
def used(tmp_path):
    """A directory with a checkpoint."""
    state = tmp_path / "state"
    with StateBackend.open(state) as backend:
        table = backend.table("t", key="i64", columns={"n": "i64"})
        table.put(range(100), n=1)
        backend.checkpoint({"p": 1}).wait()
    return state


def put(kind, path, victim):
    """Something that is no regular file in the place of one."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling":
        path.symlink_to(victim.with_name("nowhere"))
    elif kind == "directory":
        path.mkdir()
        (path / "file").write_bytes(b"")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            # The path of a socket is short.
            where = os.open(path.parent, os.O_PATH)
            server.bind(f"/proc/self/fd/{where}/{path.name}")
            os.close(where)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["manifest.json", "owner.lock", "bounds", "data/data.mdb", "data/lock.mdb"])
def test_what_is_no_regular_file_is_refused(used, tmp_path, kind, name):
    """A pipe as the manifest: opening it waited for ever, deaf to SIGINT. A link as a lock: its target was emptied."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    put(kind, used / name, victim)
    for take_over in (False, True):
        with pytest.raises(StoreCorruptError, match=f"{Path(name).name}.*not a regular file; remove it"):
            StateBackend.open(used, take_over=take_over)
    if name != "owner.lock":
        with pytest.raises(StoreCorruptError, match="not a regular file"):
            StateBackend.open(used, read_only=True)
        assert "not a regular file" in str(verify(used).damage)
    assert victim.read_bytes() == b"precious"
    assert not victim.with_name("nowhere").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".manifest.json.new", ".owner.lock.1.0"])
def test_leftovers_of_others_are_removed_and_not_written(used, tmp_path, kind, name):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    put(kind, used / name, victim)
    with StateBackend.open(used) as backend:
        assert backend.positions == {"p": 1}
    assert not os.path.lexists(used / name)
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_with_a_manifest_that_is_no_regular_file(tmp_path, kind):
    log = tmp_path / "log"
    Log.open(log).close()
    put(kind, log / "manifest.json", tmp_path / "victim")
    with pytest.raises(StoreCorruptError, match="not a regular file"):
        Log.open(log)


def test_what_the_message_advises(used, tmp_path):
    put("pipe", used / "owner.lock", tmp_path / "victim")
    with pytest.raises(StoreCorruptError, match="remove it"):
        StateBackend.open(used)
    (used / "owner.lock").unlink()
    with StateBackend.open(used) as backend:
        assert backend.positions == {"p": 1}


def live(state, harm):
    """What a running owner says once its data file was harmed."""
    script = textwrap.dedent(
        """
        import os, shutil, sys
        from onceflow.embed import StateBackend
        state, harm = sys.argv[1:]
        file = state + "/data/data.mdb"
        backend = StateBackend.open(state)
        table = backend.table("t", key="i64", columns={"n": "i64"})
        old = open(file, "rb").read()
        for n in range(3):
            table.put(range(100), n=n)
            backend.checkpoint({"p": n}).wait()
        if harm == "cut":
            os.truncate(file, 8192)
        elif harm == "empty":
            os.truncate(file, 0)
        elif harm == "zeroed":
            with open(file, "r+b") as data:
                data.write(bytes(8192))
        elif harm == "garbage":
            with open(file, "r+b") as data:
                data.write(os.urandom(os.path.getsize(file)))
        elif harm == "older":
            with open(file, "r+b") as data:
                data.write(old)
        elif harm == "renamed":
            with open(file + ".old", "wb") as data:
                data.write(old)
            os.rename(file + ".old", file)
        elif harm == "removed":
            os.unlink(file)
        elif harm == "moved":
            os.rename(state, state + "-2")
        for call in (
            lambda: backend.checkpoint({"p": 9}).wait(),
            lambda: backend.delete_checkpoint(backend.checkpoints()[0].id),
            lambda: backend.checkpoint().wait(),
        ):
            try:
                call()
                print("no error")
            except Exception as error:
                print(type(error).__name__, error)
        try:
            backend.close()
        except Exception as error:
            print("close", type(error).__name__, error)
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(state), harm], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("cut", "was cut from"),
        ("empty", "was cut from"),
        ("zeroed", "damaged"),
        ("garbage", "damaged"),
        ("older", "gone back from transaction"),
        ("renamed", "replaced by another file"),
        ("removed", "was removed"),
        ("moved", "was removed"),
    ],
)
def test_a_data_file_that_is_harmed_under_its_owner(used, harm, says):
    """Cut: a signal at the next commit. Overwritten: called "fenced". Replaced by a rename: checkpoints went on into a
    file without a name, acknowledged and gone with the process."""
    lines = live(used, harm)
    assert lines[0].startswith("StoreCorruptError"), lines
    assert says in lines[0]
    for line in lines[1:3]:
        assert line.startswith(("StoreCorruptError", "StorePoisonedError")), lines
    assert not any("Fenced" in line or "taken over" in line for line in lines), lines


@pytest.mark.parametrize("age", [1, 2, 3])
def test_an_older_copy_of_the_data_file_alone(used, tmp_path, age):
    """Beside a manifest that a killed job had last raised at its start, an older data file was taken for the newest."""
    copies = []
    script = textwrap.dedent(
        """
        import os, sys
        from onceflow.embed import StateBackend
        backend = StateBackend.open(sys.argv[1])
        table = backend.table("t", key="i64", columns={"n": "i64"})
        for n in range(2, 6):
            table.put(range(100), n=n)
            backend.checkpoint({"p": n}).wait()
            os.system(f"cp {sys.argv[1]}/data/data.mdb {sys.argv[2]}/copy-{n}")
        os.kill(os.getpid(), 9)
        """
    )
    subprocess.run([sys.executable, "-c", script, str(used), str(tmp_path)], check=False)
    copies = sorted(tmp_path.glob("copy-*"))
    assert len(copies) == 4
    shutil.copy(copies[-1 - age], used / "data/data.mdb")
    for _ in range(3):
        with pytest.raises(StoreError, match="replaced by an older"):
            StateBackend.open(used)
    shutil.copy(copies[-1], used / "data/data.mdb")
    with StateBackend.open(used) as backend:
        assert backend.positions == {"p": 5}


def test_an_older_copy_of_a_logs_data_file_alone(tmp_path):
    """A log opened with 100 of 200 acknowledged records: its manifest had last been raised when it was opened."""
    log = tmp_path / "log"
    script = textwrap.dedent(
        """
        import os, shutil, sys
        from onceflow.log import Log, Producer
        log = Log.open(sys.argv[1])
        log.create_topic("t", partitions=1)
        producer = Producer(log)
        for part in ("older", "newest"):
            for n in range(100):
                producer.produce("t", value=b"%d" % n)
            producer.flush()
            shutil.copy(sys.argv[1] + "/data/data.mdb", sys.argv[2] + "/" + part)
        os.kill(os.getpid(), 9)
        """
    )
    subprocess.run([sys.executable, "-c", script, str(log), str(tmp_path)], check=False)
    shutil.copy(tmp_path / "older", log / "data/data.mdb")
    for _ in range(3):
        with pytest.raises(StoreCorruptError, match="older one"):
            Log.open(log)
    shutil.copy(tmp_path / "newest", log / "data/data.mdb")
    Log.open(log).close()
