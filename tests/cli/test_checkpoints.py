"""What a state directory holds, beside a running job, with damage, and for machines."""

from __future__ import annotations

import json
import re
import signal

import pytest
from cli_job import SLOW, checkpoints, damage_chunk, damage_record, finish, wait_for_checkpoint

from onceflow.cli.verification import verify_in_child
from onceflow.embed import StateBackend


@pytest.fixture
def embedded(tmp_path):
    """The directory of a program that uses the state backend itself, with a savepoint."""
    with StateBackend.open(tmp_path / "state", job="embedded", key_groups=16) as backend:
        table = backend.table("sums", key="i64", columns={"sum": "i64"})
        table.add([1, 2, 3], sum=[1, 2, 3])
        backend.checkpoint({"in-0": 42, "file": "a.csv"}, savepoint="before the change").wait()
        table.add([4], sum=[4])
        backend.checkpoint({"in-0": 43, "file": "b.csv"}).wait()
    return tmp_path / "state"


def test_a_table_for_people(embedded, onceflow):
    ran = onceflow("checkpoints", "ls", "state")
    assert ran.returncode == 0, ran.stderr
    assert "job embedded" in ran.stderr
    head, *rows = [re.split(r"  +", line.strip()) for line in ran.stdout.splitlines()]
    assert head == [
        "id", "time", "job epoch", "lineage", "savepoint", "rows", "bytes", "chunks", "staged", "damage"
    ]  # fmt: skip
    first, second = (dict(zip(head, row, strict=False)) for row in rows)
    assert (first["id"], first["savepoint"], first["rows"]) == ("1", "before the change", "3")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", second["time"])


@pytest.mark.parametrize("columns", [100, 60])
def test_a_terminal_gets_every_number_whole(embedded, terminal, columns):
    screen = terminal("checkpoints", "ls", "state", columns=columns)
    assert screen.wait() == 0
    for info in checkpoints(embedded):
        assert re.search(rf"\b{info.id} .*\b{sum(info.tables.values())}\b .*none", screen.text.replace("\n", " "))
    assert "…" not in screen.text


def test_json_for_machines(embedded, onceflow):
    shown = json.loads(onceflow("checkpoints", "ls", "state", "--json").stdout)
    assert shown["job"] == "embedded"
    assert shown["file_bytes"] >= shown["used_bytes"] > 0
    for row, info in zip(shown["checkpoints"], checkpoints(embedded), strict=True):
        assert (row["id"], row["job_epoch"], row["lineage"]) == (info.id, info.job_epoch, info.lineage)
        assert (row["rows"], row["bytes"], row["chunks"]) == (sum(info.tables.values()), info.bytes, info.chunks)
        assert (row["savepoint"], row["damage"]) == (info.savepoint, None)


def test_show_what_a_program_kept(embedded, onceflow):
    shown = json.loads(onceflow("checkpoints", "show", "state", "1", "--json").stdout)
    assert shown["tables"] == {"sums": 3}
    assert shown["positions"] == {"in-0": 42, "file": "a.csv"}
    assert shown["run"] is shown["cost"] is None
    text = onceflow("checkpoints", "show", "state", "1").stdout
    assert "savepoint  before the change" in text
    assert re.search(r"in-0 +42", text)


def test_show_what_a_dataflow_kept(home, onceflow):
    finish(home)
    newest = checkpoints(home / "state")[-1]
    shown = json.loads(onceflow("checkpoints", "show", "state", str(newest.id), "--json").stdout)
    assert shown["run"]["counts"]["records_in"] == 2000
    assert shown["run"]["finished"] is True
    steps = {step_id: what.split()[0] for step_id, what in shown["run"]["steps"].items()}
    assert steps == {"rows": "source", "out": "sink", "totals": "aggregate"}
    assert shown["staged"] == {name: len(data) for name, data in newest.staged.items()}
    ((partition, position),) = shown["positions"].items()
    assert partition == f"rows/{home}/in.csv"
    assert position["record"] == 2000
    text = onceflow("checkpoints", "show", "state", str(newest.id)).stdout
    assert "records    2,000 in" in text
    # Of its own writing it cannot tell.
    cost = shown["cost"]
    assert cost["sync_s"] > 0 and cost["start_delay_s"] >= 0 and cost["alignment_s"] >= 0
    assert (cost["async_s"], cost["durable_s"], cost["bytes_written"]) == (None, None, None)
    assert re.search(r"^  cut        [\d.]+ \ws of the worker's time", text, re.MULTILINE) and "  written " not in text
    assert "ended, everything is written" in text
    assert re.search(r"^totals +aggregate", text, re.MULTILINE)
    assert onceflow("checkpoints", "show", "state", "newest").stdout == text


def test_what_a_checkpoint_has_cost_is_told_by_the_next_one(home, onceflow):
    """Kind: a checkpoint that was slow last night, and nobody knows where its time went."""
    finish(home)
    before = checkpoints(home / "state")[-2]
    shown = json.loads(onceflow("checkpoints", "show", "state", str(before.id), "--json").stdout)["cost"]
    assert shown["async_s"] > 0 and shown["durable_s"] > 0 and shown["bytes_written"] > 0
    text = onceflow("checkpoints", "show", "state", str(before.id)).stdout
    assert re.search(r"^  written    [\d.]+ \w+ in [\d.]+ \ws, durable [\d.]+ \ws after the cut$", text, re.MULTILINE)


def test_a_number_that_is_not_there(embedded, onceflow):
    ran = onceflow("checkpoints", "show", "state", "7")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "has no checkpoint 7; it has 1" in ran.stderr


def test_beside_a_running_job(home, start, onceflow):
    running = start(*SLOW[:-1], "2")
    wait_for_checkpoint(home / "state")
    listed = onceflow("checkpoints", "ls", "state")
    verified = onceflow("checkpoints", "verify", "state")
    assert running.poll() is None
    assert (listed.returncode, verified.returncode) == (0, 0), listed.stderr + verified.stdout
    assert "sound checkpoints: " in verified.stdout
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == 0


def test_a_damaged_chunk_is_a_verdict(home, onceflow):
    finish(home)
    older, newest = (info.id for info in checkpoints(home / "state"))
    assert onceflow("checkpoints", "verify", "state").returncode == 0
    damage_chunk(home / "state", newest)
    ran = onceflow("checkpoints", "verify", "state")
    assert ran.returncode == 1
    assert f"sound checkpoints: {older}\n" in ran.stdout
    assert f"damaged: checkpoint {newest}: chunk" in ran.stdout
    shown = onceflow("checkpoints", "verify", "state", "--json")
    assert shown.returncode == 1
    report = json.loads(shown.stdout)
    assert (report["sound"], report["checkpoints"]) == (False, [older])
    assert [damage["checkpoint"] for damage in report["damage"]] == [newest]


def test_a_damaged_record_is_listed_in_place(home, onceflow):
    finish(home)
    older, newest = (info.id for info in checkpoints(home / "state"))
    damage_record(home / "state", newest)
    ran = onceflow("checkpoints", "ls", "state")
    assert ran.returncode == 0, ran.stderr
    assert re.search(rf"^ *{older} .* none$", ran.stdout, re.MULTILINE)
    assert re.search(rf"^ *{newest} +\?.*the record of checkpoint {newest}: ", ran.stdout, re.MULTILINE)
    shown = onceflow("checkpoints", "show", "state", str(newest))
    assert shown.returncode == 1
    assert f"checkpoint {newest} is damaged" in shown.stderr


def test_damage_that_kills_by_signal_is_a_verdict(embedded, tmp_path, monkeypatch):
    # The child is a real one; that it dies is arranged for, because no damage is known that kills it.
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGBUS)\n")
    monkeypatch.syspath_prepend(tmp_path)
    verdict = verify_in_child(embedded)
    assert not verdict.sound
    assert verdict.damage == [(None, "reading the file killed the process that verified it (SIGBUS)")]


@pytest.mark.parametrize("command", [("ls",), ("verify",), ("show", "1")])
def test_no_state_directory_is_no_verdict(home, onceflow, command):
    ran = onceflow("checkpoints", command[0], "nowhere", *command[1:])
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "nowhere holds no store" in ran.stderr
    assert not (home / "nowhere").exists()
