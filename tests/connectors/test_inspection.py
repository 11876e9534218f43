"""Looks at real systems before a start: what is wrong there is found, nothing is changed, and no look hides another."""

import functools
import os
import sqlite3
import subprocess
import sys

import pytest
from outbox_table import rows_sink

from onceflow import Dataflow, run
from onceflow.checks import CheckContext, Finding
from onceflow.connectors.file_system import judged, kind_among
from onceflow.connectors.files import CsvSink, CsvSource
from onceflow.connectors.log import LogSink, LogSource
from onceflow.connectors.stdout import StdoutSink
from onceflow.exceptions import SourceError
from onceflow.log import Log
from onceflow.testing import TestingSource, TransactionalTestingSink


def looked(flow):
    """By step, (level, text with its subject and advice) of each finding."""
    return {
        one.step_id: [
            (finding.level, f"{finding.subject}: {finding.text} {finding.advice}") for finding in one.findings
        ]
        for one in flow.check()
    }


def of_sink(sink, job="looked", step_id="out"):
    return [(one.level, f"{one.subject}: {one.text}") for one in sink.check(CheckContext(job, step_id))]


def levels(found):
    return [level for level, _ in found]


def tree(directory):
    """All that is in a directory, with content and times."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [directory, *sorted(directory.rglob("*"))]
    }


def flow_to(sink, source=None, name="looked"):
    flow = Dataflow(name)
    flow.source("rows", source or TestingSource([{"v": 1}, {"v": 2}])).sink("out", sink)
    return flow


def test_files_that_are_there(tmp_path):
    """A look that finds fault with what is right, or that leaves something behind."""
    (tmp_path / "in.csv").write_text("v\n1\n")
    before = tree(tmp_path)
    found = looked(flow_to(CsvSink(tmp_path / "new" / "out"), CsvSource(tmp_path / "in.csv")))
    assert found["rows"] == [("ok", f"file {tmp_path}/in.csv: can be read, 4 B ")]
    assert levels(found["out"])[-1] == "ok" and "error" not in levels(found["out"])
    assert "will be made" in found["out"][-1][1]
    assert tree(tmp_path) == before


def test_files_that_are_missing_or_empty(tmp_path):
    """A source that would fail, or read nothing, said only when the job runs."""
    [(level, text)] = looked(flow_to(StdoutSink(), CsvSource(tmp_path / "*.csv")))["rows"]
    assert level == "error" and "no file matches" in text
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.csv").touch()
    (tmp_path / "c.csv").write_text("v\n")
    found = looked(flow_to(StdoutSink(), CsvSource(tmp_path / "*.csv")))["rows"]
    assert levels(found) == ["ok", "warning"] and "is empty, and so are 1 others" in found[1][1]


def test_a_directory_with_output(tmp_path):
    """Another job's directory, which the run refuses, taken for ours; or ours for another's."""
    sink = CsvSink(tmp_path / "out")
    run(flow_to(sink), tmp_path / "state")
    before = tree(tmp_path)
    found = of_sink(sink)
    assert "error" not in levels(found) and "output up to checkpoint 1 of lineage 1, 1 part files" in found[-1][1]
    for job, step_id in (("other", "out"), ("looked", "other")):
        level, text = of_sink(sink, job, step_id)[-1]
        assert level == "error" and "holds the output of sink 'out' of job 'looked'" in text
    assert tree(tmp_path) == before


def test_a_directory_that_cannot_be_used(tmp_path):
    """What the run would fall over, or a staging directory that is somewhere else."""
    (tmp_path / "file").touch()
    assert of_sink(CsvSink(tmp_path / "file" / "out"))[0][0] == "error"
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / ".onceflow").symlink_to("/tmp")
    assert "is a link or a file" in of_sink(CsvSink(tmp_path / "link"))[-1][1]
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "part-0001-000000000001.csv").touch()
    assert of_sink(CsvSink(tmp_path / "strange"))[-1][0] == "warning"


def test_a_directory_of_another_user(tmp_path):
    """A directory that only somebody else may write to."""
    (tmp_path / "closed").mkdir(mode=0o500)
    code = """
import os, sys
from onceflow.checks import CheckContext
from onceflow.connectors.files import CsvSink
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
print([(one.level, one.text) for one in CsvSink(sys.argv[1]).check(CheckContext("j", "s"))])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "closed" / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[('error', '") and "cannot be written by this user" in done.stdout


def statvfs(*, blocks=1 << 20, inodes=1000, flag=0):
    """4 KiB blocks that are free."""
    return os.statvfs_result((4096, 4096, 1 << 22, blocks, blocks, 1 << 20, inodes, inodes, flag, 255))


@pytest.mark.parametrize(
    ("kind", "found", "expected"),
    [
        ("ext4", statvfs(), []),
        ("", statvfs(), []),
        ("ext4", statvfs(flag=os.ST_RDONLY), [("error", "read-only")]),
        ("ext4", statvfs(blocks=0), [("error", "full: 0 B")]),
        ("ext4", statvfs(blocks=1000), [("error", "full: 3.9 MiB")]),
        ("ext4", statvfs(blocks=10_000), [("warning", "only 39.1 MiB")]),
        ("ext4", statvfs(inodes=0), [("error", "inodes")]),
        ("nfs4", statvfs(), [("warning", "nfs4")]),
        ("fuse.sshfs", statvfs(), [("warning", "fuse.sshfs")]),
        ("tmpfs", statvfs(), [("warning", "in memory")]),
    ],
)
def test_what_is_wrong_with_a_file_system(kind, found, expected):
    """A full, read-only, remote or volatile file system that is called sound."""
    said = list(judged("directory out", kind, found))
    assert [one.level for one in said] == [level for level, _ in expected]
    assert all(text in one.text for one, (_, text) in zip(said, expected, strict=True))


def test_the_kind_of_a_file_system():
    """A mount within another one, one with a space in its name, and one that only begins alike."""
    mounts = [
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw",
        "23 22 0:40 / /data rw - nfs4 server:/data rw",
        "24 23 0:41 / /data/my\\040disk rw master:2 - xfs /dev/sdb rw",
        "25 22 0:42 / /data rw - cifs //server/data rw",
    ]
    for path, kind in [("/", "ext4"), ("/data2/x", "ext4"), ("/data/x", "cifs"), ("/data/my disk/out", "xfs")]:
        assert kind_among(mounts, path) == kind
    assert kind_among([], "/") == ""


def test_topics(tmp_path):
    """A topic that is missing, that forgets, or whose log is not there."""
    log_path = tmp_path / "log"
    assert levels(looked(flow_to(StdoutSink(), LogSource(log_path, "events")))["rows"]) == ["error"]
    assert of_sink(LogSink(log_path, "results"))[-1][0] == "error"
    assert "will be made with 3" in of_sink(LogSink(log_path, "results", partitions=3))[-1][1]
    assert not log_path.exists()
    with Log.open(log_path) as log:
        log.create_topic("events", partitions=2)
        log.create_topic("short", retention_ms=3_600_000, retention_bytes=1 << 20)
        log.create_topic("newest", cleanup_policy="compact")
        found = looked(flow_to(StdoutSink(), LogSource(log_path, "events")))["rows"]
        assert found == [("ok", "topic 'events': can be read, 2 partitions with 0 records ")]
        found = looked(flow_to(StdoutSink(), LogSource(log_path, "short")))["rows"]
        assert levels(found) == ["ok", "warning"] and "older than 1 hours or lie beyond 1,048,576 bytes" in found[1][1]
        assert "compacted" in looked(flow_to(StdoutSink(), LogSource(log_path, "newest")))["rows"][1][1]
        assert of_sink(LogSink(log_path, "results"))[-1][0] == "error"
        assert of_sink(LogSink(log_path, "events"))[-1] == ("ok", "topic 'events': can be written, 2 partitions")
        assert of_sink(LogSink(log_path, "events", partitions=5))[-1][0] == "warning"
        assert "results" not in log.topics()
    run(flow_to(LogSink(log_path, "events")), tmp_path / "state")
    assert "output of this sink up to checkpoint 1" in of_sink(LogSink(log_path, "events"))[-1][1]


def test_the_target_of_an_outbox(tmp_path):
    """A target that cannot be reached, and whose connection is left open."""
    sink = rows_sink(tmp_path / "rows.db", ("v",))
    assert "holds no output of this sink" in of_sink(sink)[-1][1]
    run(flow_to(sink), tmp_path / "state")
    assert of_sink(sink) == [
        ("ok", "the target of looked/out: can be reached; it holds output of this sink up to checkpoint 1")
    ]
    gone = rows_sink(tmp_path / "nowhere" / "rows.db", ("v",))
    [(level, text)] = looked(flow_to(gone))["out"]
    assert level == "error" and "unable to open" in text


class _Looks(TestingSource):
    def check(self, context):
        yield Finding("ok", "first", f"{context.job} {context.step_id} {context.guarantee}")
        raise self.error


@pytest.mark.parametrize("error", [SourceError("gone"), KeyError("x"), sqlite3.OperationalError("locked")])
def test_a_look_that_raises(error):
    """One look that hides what the others find, or that ends the program."""
    source = _Looks([1])
    source.error = error
    flow = flow_to(TransactionalTestingSink(), source)
    rows, out = flow.check("at_least_once")
    assert [one.level for one in rows.findings] == ["ok", "error"]
    assert rows.findings[0].text == "looked rows at_least_once"
    assert rows.findings[1].subject == "_Looks" and str(error) in rows.findings[1].text
    assert rows.failed and not out.failed and out.findings == ()


def test_a_check_that_fails_at_once():
    """A check that is no generator raises when it is called."""
    source = TestingSource([1])
    source.check = functools.partial(int, "x")
    [finding] = flow_to(StdoutSink(), source).check()[0].findings
    assert finding.level == "error"
