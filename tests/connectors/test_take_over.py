"""A run that replaces another one recovers while that one still moves its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from onceflow.connectors.files import CsvSink
from onceflow.sinks import Committable, SinkContext


@pytest.fixture
def replaced(tmp_path):
    """A run with a staged part and an open file, and its staging directory."""
    writer = CsvSink(tmp_path).open(SinkContext("job", "out", 1, 1, None))
    writer.recover([])
    writer.write([{"n": 1}])
    handle = writer.prepare(1, writer.seal(1))
    writer.write([{"n": 2}])
    yield Committable(1, handle), tmp_path / ".onceflow"
    writer.close()


def successor(directory):
    return CsvSink(directory).open(SinkContext("job", "out", 2, 1, 1))


def test_a_file_that_vanishes_is_gone_as_wished(replaced, tmp_path, monkeypatch):
    committable, staging = replaced
    unlink = Path.unlink

    def late_unlink(path, missing_ok=False):
        if path.name.startswith("open-"):
            unlink(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", late_unlink)
    successor(tmp_path).recover([committable])
    assert sorted(path.name.split("-")[0] for path in staging.iterdir()) == ["epoch", "newest", "owner"]


def test_a_part_that_both_rename_is_there_once(replaced, tmp_path, monkeypatch):
    committable, staging = replaced
    rename = Path.rename

    def late_rename(path, target):
        if path.name.startswith("staged-"):
            rename(path, target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late_rename)
    successor(tmp_path).recover([committable])
    (part,) = tmp_path.glob("part-*")
    assert part.read_text() == "n\n1\n"
    assert not list(staging.glob("staged-*"))
