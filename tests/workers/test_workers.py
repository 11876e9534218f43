"""A job of several workers: the results of one, whatever the dataflow; what is refused; and how failures are told.

Kind of fault: records that get lost, come twice, or come to the wrong worker on their way between processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner
from worker_flows import KINDS, Arriving, build, results, write_inputs

import onceflow as of
from onceflow._native import StateBackend
from onceflow.cli.app import app
from onceflow.clock import Clock
from onceflow.connectors.files import CsvSink, JsonLinesSink, JsonLinesSource, ParquetSink
from onceflow.connectors.iterable import IterableSource
from onceflow.events import CheckpointCompleted, Progress
from onceflow.exceptions import (
    ConfigurationError,
    LateRecordsWarning,
    RestartWarning,
    SinkError,
    StoreCorruptError,
    TypeMismatchError,
    UserFunctionError,
    WorkerLostError,
)
from onceflow.restart import FixedDelay
from onceflow.testing.sinks import TransactionalTestingSink
from onceflow.windows import Tumbling

LATE = {"windows", "columns", "two_sources"}


def _run(root: Path, kind: str, workers: int, **settings):
    with pytest.warns(LateRecordsWarning) if kind in LATE else nullcontext():
        return of.run(build(root, kind), root / "state", workers=workers, batch_size=50, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_one_worker(tmp_path, kind):
    several, one = tmp_path / "several", tmp_path / "one"
    for root in (several, one):
        write_inputs(root)
    ran = _run(several, kind, 2, checkpoint_interval_s=0.05)
    alone = _run(one, kind, 1)
    assert results(several, kind) == results(one, kind)
    assert (ran.records_in, ran.late, ran.finished) == (alone.records_in, alone.late, True)
    if kind != "changes":
        assert ran.records_out == alone.records_out


def test_more_workers_than_partitions_and_keys(tmp_path):
    """Kind of fault: a worker that has nothing to do holds the others up."""
    write_inputs(tmp_path, partitions=1, records=20)
    assert of.run(build(tmp_path, "final"), tmp_path / "state", workers=4).finished
    assert sum(results(tmp_path, "final").values()) == 20


def test_a_finished_job_does_nothing_again(tmp_path):
    write_inputs(tmp_path, records=50)
    _run(tmp_path, "chain", 2)
    before = results(tmp_path, "chain")
    assert _run(tmp_path, "chain", 2).finished
    assert results(tmp_path, "chain") == before


def test_a_run_until_caught_up_goes_on_with_what_has_come(tmp_path):
    """Kind of fault: positions, or which worker has them, are lost between runs."""
    write_inputs(tmp_path, partitions=2, records=100)
    assert _run(tmp_path, "changes", 2, until="caught_up").caught_up
    write_inputs(tmp_path, partitions=5, records=100)
    second = _run(tmp_path, "changes", 2, until="caught_up")
    assert (second.records_in, second.caught_up) == (500, True)
    one = tmp_path / "one"
    write_inputs(one, partitions=5, records=100)
    _run(one, "changes", 1)
    assert results(tmp_path, "changes") == results(one, "changes")


def test_a_job_that_is_stopped_goes_on(tmp_path):
    """Kind of fault: what was on its way between workers when the run ended."""
    write_inputs(tmp_path, records=3000)
    stopped = []

    def stop_once(event):
        if isinstance(event, CheckpointCompleted) and not stopped:
            stopped.append(event)
            signal.raise_signal(signal.SIGTERM)

    first = _run(tmp_path, "chain", 2, checkpoint_interval_s=0.01, on_event=stop_once)
    assert not first.finished
    assert _run(tmp_path, "chain", 2).finished
    one = tmp_path / "one"
    write_inputs(one, records=3000)
    _run(one, "chain", 1)
    assert results(tmp_path, "chain") == results(one, "chain")


def test_another_number_of_workers_is_refused(tmp_path):
    """Kind of fault: state of some keys is not found."""
    write_inputs(tmp_path, records=100)
    _run(tmp_path, "changes", 2, until="caught_up")
    for workers in (1, 3):
        with pytest.raises(ConfigurationError, match=f"workers=2 and is resumed with {workers}") as refused:
            _run(tmp_path, "changes", workers, until="caught_up")
        assert (refused.value.setting, refused.value.stored) == ("workers", 2)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_a_number_of_workers_that_cannot_be(tmp_path, workers):
    write_inputs(tmp_path, records=1)
    with pytest.raises(ConfigurationError, match="workers is") as refused:
        of.run(build(tmp_path, "final"), tmp_path / "state", workers=workers)
    assert refused.value.setting == "workers"


def test_what_cannot_be_sent_is_named(tmp_path):
    """Before anything starts."""
    lock = threading.Lock()
    flow = of.Dataflow("locked")
    stream = flow.source("in", IterableSource([1, 2])).map(lambda number: (lock, number)[1])
    stream.key_by(lambda number: number).aggregate("n", n=of.count()).sink("sink", JsonLinesSink(tmp_path / "out"))
    with pytest.raises(ConfigurationError, match=r"step 'map-1' cannot be sent .*lock") as refused:
        of.run(flow, tmp_path / "state", workers=2)
    assert refused.value.setting == "workers"


def test_timestamps_after_a_key_are_refused(tmp_path):
    """Records of several partitions come to a worker mixed, so none has a watermark of its own there."""
    write_inputs(tmp_path, records=1)
    flow = of.Dataflow("times")
    stream = flow.source("in", JsonLinesSource(str(tmp_path / "*.jsonl")))
    kept = stream.key_by("user").stateful_map("kept", lambda state, row: (1, row))
    late = kept.assign_timestamps("times", "at").key_by("user").window("w", Tumbling(seconds=1))
    late.aggregate(n=of.count()).sink("sink", JsonLinesSink(tmp_path / "out"))
    with pytest.raises(ConfigurationError, match=r"assign_timestamps 'times' needs records of partitions.*'kept'"):
        of.run(flow, tmp_path / "state", workers=2)


def _fails(row):
    if row["id"] == 150:
        raise ValueError("no such thing")
    return row


def test_an_error_of_a_worker_is_that_of_the_run(tmp_path):
    """Kind of fault: an error that is swallowed, or comes as another one."""
    write_inputs(tmp_path, records=200)
    flow = of.Dataflow("fails")
    stream = flow.source("in", JsonLinesSource(str(tmp_path / "*.jsonl"))).map(_fails)
    stream.key_by("user").aggregate("n", n=of.count()).sink("sink", JsonLinesSink(tmp_path / "out"))
    with pytest.raises(UserFunctionError, match="no such thing") as failed:
        of.run(flow, tmp_path / "state", workers=2)
    assert any(note.startswith("in worker ") for note in failed.value.__notes__)


def _user_or_number(row):
    return row["user"] if row["part"] else row["id"]


def test_keys_of_two_types_are_told(tmp_path):
    """Kind of fault: workers agree on different types of one step, each by what came to it first."""
    write_inputs(tmp_path, partitions=2, records=300)
    flow = of.Dataflow("types")
    stream = flow.source("in", JsonLinesSource(str(tmp_path / "*.jsonl")))
    stream.key_by(_user_or_number).aggregate("n", n=of.count()).sink("sink", JsonLinesSink(tmp_path / "out"))
    with pytest.raises((TypeMismatchError, UserFunctionError), match="key"):
        of.run(flow, tmp_path / "state", workers=2, batch_size=50)


def _kill_self(row):
    if row["id"] == 150 and row["part"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return row


def test_a_worker_that_is_lost_ends_the_run(tmp_path):
    """Kind of fault: the others go on without it, or wait for ever."""
    write_inputs(tmp_path, records=200)
    flow = of.Dataflow("lost")
    stream = flow.source("in", JsonLinesSource(str(tmp_path / "*.jsonl"))).map(_kill_self)
    stream.key_by("user").aggregate("n", n=of.count()).sink("sink", JsonLinesSink(tmp_path / "out"))
    with pytest.raises(WorkerLostError, match=r"worker . of 3 ended by SIGKILL") as lost:
        of.run(flow, tmp_path / "state", workers=3)
    assert lost.value.worker in (0, 1, 2)
    assert not _workers()


def _workers() -> list[str]:
    """Processes of workers that this one has started."""
    pid = os.getpid()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in children if b"onceflow.runtime.workers" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_store_that_was_put_back_is_refused(tmp_path):
    """Kind of fault: a part of the state is older than the decision."""
    write_inputs(tmp_path, records=100)
    _run(tmp_path, "changes", 2, until="caught_up")
    store = tmp_path / "state" / "workers" / "1"
    shutil.copytree(store, tmp_path / "kept")
    for records in (200, 300, 400, 500):
        write_inputs(tmp_path, records=records)
        _run(tmp_path, "changes", 2, until="caught_up")
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "kept", store)
    with pytest.raises(StoreCorruptError, match=r"workers/1 is not what worker 1 had: .* is not there"):
        _run(tmp_path, "changes", 2, until="caught_up")
    shutil.rmtree(store)
    with pytest.raises(StoreCorruptError, match=r"Put all of the state directory back"):
        _run(tmp_path, "changes", 2, until="caught_up")


def test_each_checkpoint_says_where_its_parts_are(tmp_path):
    write_inputs(tmp_path, records=100)
    _run(tmp_path, "changes", 2, until="caught_up")
    with StateBackend.open(tmp_path / "state", read_only=True) as backend:
        [*_, newest] = backend.checkpoints()
    assert {"worker/0", "worker/1", "worker/dealt"} <= newest.blobs.keys()
    mode = (tmp_path / "state" / "workers").stat().st_mode & 0o777
    assert mode == 0o700


def test_backpressure_of_a_slow_step_bounds_what_is_on_its_way(tmp_path):
    """Kind of fault: a worker that reads on while the others cannot take what it sends."""
    write_inputs(tmp_path, partitions=1, records=2000)
    started = time.monotonic()
    assert of.run(build(tmp_path, "stateful"), tmp_path / "state", workers=2, batch_size=10).finished
    assert sum(results(tmp_path, "stateful").values()) == 2000
    assert time.monotonic() - started < 120


def test_a_clock_of_the_program_is_refused(tmp_path):
    """Kind of fault: a setting that only the supervisor goes by."""
    write_inputs(tmp_path, records=1)
    with pytest.raises(ConfigurationError, match="clock is a _Still") as refused:
        of.run(build(tmp_path, "final"), tmp_path / "state", workers=2, clock=_Still())
    assert refused.value.setting == "clock"


class _Still(Clock):
    def monotonic(self):
        return 0.0

    def now(self):
        raise NotImplementedError


def test_the_command_line_knows_the_stores_of_workers(tmp_path):
    """Kind of fault: damage, or state, that no command sees."""
    write_inputs(tmp_path, records=50)
    _run(tmp_path, "final", 2)
    state = tmp_path / "state"
    seen = CliRunner().invoke(app, ["checkpoints", "verify", str(state)])
    assert (seen.exit_code, seen.output.count("sound chunks")) == (0, 3)
    assert "workers    2" in CliRunner().invoke(app, ["checkpoints", "show", str(state), "1"]).output
    for path in (state / "workers" / "1" / "data").glob("data*"):
        data = bytearray(path.read_bytes())
        half = len(data) // 2
        data[half:] = bytes(len(data) - half)
        path.write_bytes(data)
    seen = CliRunner().invoke(app, ["checkpoints", "verify", str(state)])
    assert seen.exit_code == 1, seen.output
    assert "workers/1: damaged" in seen.output


def _kill_once(row):
    flag = Path(row["flag"])
    if row["n"] == 400 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return row


def test_a_run_is_begun_again_when_a_worker_was_lost(tmp_path):
    """Kind of fault: records that were on their way to the worker, or from it, are lost or come twice."""
    flow = of.Dataflow("again")
    rows = [{"n": n, "key": n % 7, "flag": str(tmp_path / "flag")} for n in range(1000)]
    stream = flow.source("in", IterableSource(rows)).map(_kill_once)
    counted = stream.key_by("key").aggregate("n", emit="final", n=of.count())
    counted.sink("sink", JsonLinesSink(tmp_path / "out"))
    with pytest.warns(RestartWarning, match="ended by SIGKILL"):
        result = of.run(
            flow,
            tmp_path / "state",
            workers=2,
            batch_size=20,
            checkpoint_interval_s=0.02,
            restart=FixedDelay(delay_s=0.01),
        )
    assert (result.finished, result.restarts, result.records_in) == (True, 1, 1000)
    found = [json.loads(line) for path in (tmp_path / "out").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted((row["key"], row["n"]) for row in found) == [(key, 143 if key < 6 else 142) for key in range(7)]


def test_going_back_works_where_a_copys_clock_was_ahead(tmp_path):
    """Kind of fault: only a job of one worker takes a lineage above that of a copy."""
    state, copy, out = tmp_path / "state", tmp_path / "copy", tmp_path / "out"
    write_inputs(tmp_path, records=50)
    base = _run(tmp_path, "changes", 2, until="caught_up", retain=20).last_checkpoint
    first = set(out.glob("part-*"))
    write_inputs(tmp_path, records=100)
    _run(tmp_path, "changes", 2, until="caught_up", retain=20)
    shutil.copytree(state, copy)
    ahead = int((time.time() + 7 * 86_400) * 1000) * 1_000_000
    with StateBackend.open(copy, job="workers-changes", resume_from=base, lineage=ahead, retain=20) as backend:
        backend.begin_lineage()
    for where, resume_from in ((copy, "newest"), (state, base)):
        # As the message says that refuses a rewound run of files.
        for part in set(out.glob("part-*")) - first:
            part.unlink()
        of.run(
            build(tmp_path, "changes"),
            where,
            workers=2,
            batch_size=50,
            until="caught_up",
            retain=20,
            resume_from=resume_from,
        )
    with StateBackend.open(state, read_only=True, create=False) as backend:
        assert backend.checkpoints()[-1].lineage > ahead


def _windowed(root: Path) -> of.Dataflow:
    flow = of.Dataflow("windowed")
    rows = flow.source("in", JsonLinesSource(str(root / "in-*.jsonl"), event_time="at"))
    windows = rows.key_by("key").window("w", Tumbling(seconds=10)).aggregate(n=of.count())
    windows.sink("sink", JsonLinesSink(root / "out"))
    return flow


def _append(root: Path, part: int, times: range) -> None:
    root.mkdir(exist_ok=True)
    with (root / f"in-{part}.jsonl").open("a") as file:
        file.writelines(json.dumps({"key": at % 3, "at": at}) + "\n" for at in times)


@pytest.mark.parametrize("workers", [2, 3])
def test_a_worker_without_partitions_holds_no_window_open(tmp_path, workers):
    """Kind of fault: event time never comes to its end where a worker has nothing to read, and windows stay open."""
    _append(tmp_path, 0, range(25))
    result = of.run(_windowed(tmp_path), tmp_path / "state", workers=workers)
    assert (result.records_out, result.late) == (9, {"w": 0})


def test_a_partition_that_comes_later_is_late_as_with_one_worker(tmp_path):
    """Kind of fault: each worker holds event time back for its own partitions alone."""
    for root, workers in ((tmp_path / "several", 2), (tmp_path / "one", 1)):
        _append(root, 0, range(50))
        _append(root, 1, range(5))
        of.run(_windowed(root), root / "state", workers=workers, until="caught_up")
        _append(root, 1, range(5, 50))
        _append(root, 2, range(40))
        assert of.run(_windowed(root), root / "state", workers=workers).late == {"w": 0}


@pytest.mark.parametrize("rows", [('{"a":1,"b":2}\n', '{"b":3,"a":4}\n'), ('{"a":1}\n', '{"c":4}\n')])
def test_workers_that_learn_different_columns_are_refused(tmp_path, rows):
    """Kind of fault: files of one sink that do not fit together, and nobody says so."""
    for number, row in enumerate(rows):
        (tmp_path / f"in-{number}.jsonl").write_text(row)
    flow = of.Dataflow("columns")
    flow.source("in", JsonLinesSource(str(tmp_path / "*.jsonl"))).map(dict).sink("sink", CsvSink(tmp_path / "out"))
    with pytest.raises(SinkError, match=r"'sink' has learnt different things of the first records of workers 0 and 1"):
        of.run(flow, tmp_path / "state", workers=2)
    # One of them may have come to a checkpoint of its own before.
    assert len(list((tmp_path / "out").glob("part-*"))) < 2


@pytest.mark.parametrize(
    ("rows", "settings", "is_refused"),
    [
        (('{"a":1,"b":null}\n', '{"a":2,"b":5}\n'), {}, False),
        (('{"a":1,"b":2}\n', '{"b":2,"a":1}\n'), {}, False),
        (('{"a":1}\n', '{"a":2.5}\n'), {"on_new_types": "widen"}, False),
        (('{"a":1}\n', '{"a":"x"}\n'), {}, True),
        (('{"a":1}\n', '{"c":1}\n'), {}, True),
    ],
)
def test_parquet_files_of_workers_go_together(tmp_path, rows, settings, is_refused):
    """Kind of fault: what one worker takes is refused by two, or files that cannot be read together are not."""
    for number, row in enumerate(rows):
        (tmp_path / f"in-{number}.jsonl").write_text(row)
    flow = of.Dataflow("parquet")
    sink = ParquetSink(tmp_path / "out", **settings)
    flow.source("in", JsonLinesSource(str(tmp_path / "*.jsonl"))).map(dict).sink("sink", sink)
    with pytest.raises(SinkError, match="has learnt different things") if is_refused else nullcontext():
        assert of.run(flow, tmp_path / "state", workers=2).finished


def test_a_sink_in_memory_is_refused(tmp_path):
    """Kind of fault: output that only a process has seen which is gone."""
    write_inputs(tmp_path, records=1)
    flow = of.Dataflow("memory")
    flow.source("in", JsonLinesSource(str(tmp_path / "*.jsonl"))).sink("out", TransactionalTestingSink())
    with pytest.raises(ConfigurationError, match="sink 'out' is a TransactionalTestingSink, which keeps") as refused:
        of.run(flow, tmp_path / "state", workers=2)
    assert refused.value.setting == "workers"


def _leave(row):
    sys.exit(3)


def test_a_function_that_leaves_is_told(tmp_path):
    """Kind of fault: a worker that ends as if all were well."""
    write_inputs(tmp_path, records=10)
    flow = of.Dataflow("leaves")
    flow.source("in", JsonLinesSource(str(tmp_path / "*.jsonl"))).map(_leave).sink(
        "out", JsonLinesSink(tmp_path / "out")
    )
    with pytest.raises((SystemExit, UserFunctionError), match="3"):
        of.run(flow, tmp_path / "state", workers=2)


def test_a_supervisor_that_stood_still_blames_nobody(tmp_path, monkeypatch):
    """Kind of fault: workers are taken for silent by who has not listened."""
    monkeypatch.setattr("onceflow.runtime.workers.crew._LONGEST_SILENCE_S", 8.0)
    monkeypatch.setattr("onceflow.runtime.workers.crew._PAUSE_S", 1.0)
    write_inputs(tmp_path, records=2000)
    waited = []

    def stand_still(event):
        if not waited:
            waited.append(time.sleep(10))

    assert of.run(
        build(tmp_path, "stateful"), tmp_path / "state", workers=2, batch_size=50, on_event=stand_still
    ).finished


def test_partitions_come_while_barriers_are_under_way(tmp_path):
    """Kind of fault: a barrier of another worker, or its end, is forgotten where channels are counted anew."""
    write_inputs(tmp_path, partitions=1, records=50)
    flow = of.Dataflow("arriving")
    counted = (
        flow.source("in", Arriving(tmp_path)).key_by("user").stateful_map("n", lambda state, row: (1, [row["part"]]))
    )
    counted.sink("sink", JsonLinesSink(tmp_path / "out"))
    came = []

    def one_more(event):
        if isinstance(event, (CheckpointCompleted, Progress)) and len(came) < 4:
            came.append(event)
            write_inputs(tmp_path / "next", partitions=len(came) + 1, records=50)
            (tmp_path / "next" / f"in-{len(came)}.jsonl").rename(tmp_path / f"in-{len(came)}.jsonl")
            if len(came) == 4:
                (tmp_path / "done").touch()

    result = of.run(flow, tmp_path / "state", workers=2, checkpoint_interval_s=0.005, on_event=one_more)
    assert (result.finished, result.records_in) == (True, 250)
    assert sorted(set(results(tmp_path, "arriving").values())) == [50]
