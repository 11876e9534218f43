"""Runs that fail and are begun again in the same process: the output is as if they had not failed, nothing of an
attempt stays behind, and who is told to stop, or is replaced meanwhile, does not come back."""

from __future__ import annotations

import gc
import resource
import signal
import subprocess
import sys
import threading
import time
import tomllib
import warnings
from pathlib import Path

import counting_job
import pytest

import onceflow as of
import onceflow.connectors.log.destination
import onceflow.connectors.sql.target
from onceflow import Dataflow, crash, run
from onceflow.connectors.files import CsvSink, CsvSource, read_parts
from onceflow.connectors.iterable import IterableSource
from onceflow.events import CheckpointCompleted, Recovered, Restarting
from onceflow.exceptions import (
    ERRORS_BY_KIND,
    ConfigurationError,
    FencedError,
    FinishedJobWarning,
    OnceflowError,
    RestartWarning,
    SinkError,
    StoreLockedError,
    UserFunctionError,
)
from onceflow.restart import ExponentialBackoff, FixedDelay
from onceflow.runtime.attempts import Attempts
from onceflow.runtime.job import Job
from onceflow.runtime.restarts import Restarts, may_heal
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.testing import ABORT, AbortedError, TestingSource, TransactionalTestingSink

AT_ONCE = FixedDelay(delay_s=0.001, attempts=20)
SINKS = ("csv", "log", "sql")
ROWS, BATCH = 100, 20
POINTS = tomllib.loads(Path(__file__).with_name("crash_points.toml").read_text())

pytestmark = pytest.mark.filterwarnings("ignore:job .* has failed and is begun again:UserWarning")


class Failing:
    """Raises at points of the Python side, each once: ``(name, nth)``, one after the other."""

    def __init__(self, monkeypatch, *wanted):
        self._waiting = list(wanted)
        self._passed: dict[str, int] = {}
        self.raised = 0
        for module in list(sys.modules.values()):
            if getattr(module, "crash_point", None) is crash.crash_point and module is not crash:
                monkeypatch.setattr(module, "crash_point", self)

    def __call__(self, name):
        if self._waiting and name == self._waiting[0][0]:
            self._passed[name] = self._passed.get(name, 0) + 1
            if self._passed[name] == self._waiting[0][1]:
                self._waiting.pop(0)
                self._passed.clear()
                self.raised += 1
                raise AbortedError(f"at {name}")


ITEMS = [{"user": f"u{number * 7919 % 7}", "id": number} for number in range(ROWS)]


class Rows(Source):
    """Rows of users, a batch a checkpoint: there is nothing more to read until one is complete."""

    def __init__(self):
        self._may_read = True

    def partitions(self):
        return ["rows"]

    def open(self, partition, position):
        self._may_read = True
        return RowsReader(self, position or 0)

    def taken(self):
        may, self._may_read = self._may_read, False
        return may

    def on_checkpoint_complete(self, checkpoint_id, positions, context):
        self._may_read = True


class RowsReader(SourceReader):
    def __init__(self, source, position):
        self._source = source
        self._next = position

    def read(self, max_records):
        if self._next == ROWS:
            return None
        if not self._source.taken():
            return SourceBatch([])
        start, self._next = self._next, self._next + BATCH
        return SourceBatch(ITEMS[start : self._next])

    def position(self):
        return self._next


def counting(root, function=lambda row: row, source=None):
    """Counts by user, into sinks of all kinds."""

    def nth(state, row):
        state = (state or 0) + 1
        return state, {**row, "nth": state}

    flow = Dataflow("counting")
    counted = flow.source("rows", source or Rows()).map(function).key_by("user").stateful_map("nth", nth)
    for kind in SINKS:
        (root / kind).mkdir(parents=True, exist_ok=True)
        counted.sink(kind, counting_job.KINDS[kind][0](root / kind))
    return flow


def shown(root):
    return {kind: counting_job.KINDS[kind][1](root / kind) for kind in SINKS}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a run shows that does not fail."""
    root = tmp_path_factory.mktemp("expected")
    run(counting(root), root / "state", checkpoint_interval_s=1e-6)
    return shown(root)


def check(root, expected, failing, times):
    events = []
    settings = {"checkpoint_interval_s": 1e-6, "restart": AT_ONCE}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = run(counting(root), root / "state", on_event=events.append, **settings)
    assert failing.raised == times == result.restarts == len(result.failures)
    assert result.finished and result.records_in == ROWS and result.records_out == 3 * ROWS
    assert result.resumed_from is None
    # One that was decided is counted once, whether the attempt that decided it or the next one has shown it.
    done = {event.stats.id for event in events if isinstance(event, CheckpointCompleted)}
    gone_on_from = {event.checkpoint_id for event in events if isinstance(event, Recovered)} - {None}
    assert result.checkpoints == len(done | gone_on_from | {result.last_checkpoint})
    assert [warning.category for warning in told] == [RestartWarning] * times
    assert {warning.filename for warning in told} <= {__file__}
    assert shown(root) == expected


PASSED = {**POINTS["points"], **POINTS["outbox"], **POINTS["log"], **POINTS["sql"]}
#: The first attempt must have begun, and what is passed before that is passed by the second one.
OPENING = [name for name in PASSED if name.startswith("recover.") or name.endswith(("_fence", "pre_clean"))]


@pytest.mark.parametrize(("name", "nth"), [(name, max(PASSED[name])) for name in PASSED if name not in OPENING])
def test_a_failure_at_each_point(tmp_path, expected, monkeypatch, name, nth):
    """Output that is lost, doubled or left half open by an attempt that failed at the worst moment."""
    failing = Failing(monkeypatch, (name, nth))
    check(tmp_path, expected, failing, 1)


@pytest.mark.parametrize("name", OPENING)
def test_a_second_failure_while_everything_is_opened_again(tmp_path, expected, monkeypatch, name):
    """A recovery that is cut short, over what a failed attempt has decided and not shown."""
    failing = Failing(monkeypatch, ("decide.post_wait", 2), (name, 1), ("task.post_snapshot", 2), (name, 1))
    check(tmp_path, expected, failing, 4)


def test_one_failure_after_the_other(tmp_path, expected, monkeypatch):
    """Attempts that come no further than a checkpoint or two, for as long as the job is."""
    names = ["sink.pre_commit", "barrier.pre_inject", "file.pre_rename", "decide.pre", "log.pre_append", "job.end"]
    failing = Failing(monkeypatch, *((name, 1) for name in names))
    check(tmp_path, expected, failing, len(names))


def test_the_last_checkpoint_is_decided_and_not_shown(tmp_path, expected, monkeypatch):
    """A job that another attempt finds finished: its output is brought up, and nobody is told that nothing was done."""
    root = tmp_path
    failing = Failing(monkeypatch, ("sink.pre_commit", 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FinishedJobWarning)
        flow = counting(root, source=IterableSource(ITEMS))
        result = run(flow, root / "state", checkpoint_interval_s=1000, savepoint="end", restart=AT_ONCE)
    assert failing.raised == 1 and shown(root) == expected
    assert (result.finished, result.checkpoints, result.last_checkpoint) == (True, 1, 1)


def test_functions_sources_and_sinks_that_fail(tmp_path, state):
    """Faults of the parts that users write: reading, processing right after a recovery, and closing."""
    troubles = {"read": [3, 7], "map": [25, 26, 27, 55], "close": [1]}

    def due(kind, number):
        if number in troubles[kind]:
            troubles[kind].remove(number)
            raise OSError(f"no answer in {kind}")

    class Reader(SourceReader):
        def __init__(self, position):
            self._next = position or 0

        def read(self, max_records):
            due("read", self._next // 10)
            if self._next == 100:
                return None
            self._next += 10
            return SourceBatch(list(range(self._next - 10, self._next)))

        def position(self):
            return self._next

        def close(self):
            due("close", int(self._next == 100))

    class Numbers(Source):
        def partitions(self):
            return ["0"]

        def open(self, partition, position):
            return Reader(position)

    def function(number):
        due("map", number)
        return {"number": number}

    flow = Dataflow("troubles")
    flow.source("in", Numbers()).map(function).sink("out", CsvSink(tmp_path / "out"))
    result = run(flow, state, batch_size=10, checkpoint_interval_s=1e-6, restart=AT_ONCE)
    assert not any(troubles.values())
    assert (result.restarts, result.records_in) == (7, 100)
    assert [reason.partition(":")[0] for reason in result.failures].count("UserFunctionError") == 4
    assert read_parts(tmp_path / "out") == b"number\n" + b"".join(b"%d\n" % number for number in range(100))


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_of_an_attempt_stays_behind(tmp_path, monkeypatch):
    """Threads, files and locks that pile up from failure to failure."""
    root = tmp_path
    names = ["sink.pre_commit", "task.post_snapshot", "log.pre_append", "file.pre_rename", "sql.pre_commit"]
    seen = []

    def listen(event):
        if isinstance(event, Restarting):
            gc.collect()
            seen.append((threading.active_count(), open_files()))

    def waited(self, wait_s):
        gc.collect()
        jobs.append(sum(id(each) not in others for each in all_jobs()))
        return True

    def all_jobs():
        return [each for each in gc.get_objects() if isinstance(each, Job)]

    # The errors of other tests may have some.
    jobs, others = [], {id(each) for each in all_jobs()}
    monkeypatch.setattr(Attempts, "_waited", waited)
    gc.collect()
    before = (threading.active_count(), open_files())
    failing = Failing(monkeypatch, *((name, 1) for name in names))
    settings = {"checkpoint_interval_s": 1e-6}
    run(counting(root), root / "state", on_event=listen, restart=AT_ONCE, **settings)
    gc.collect()
    assert failing.raised == len(names) == len(seen)
    assert jobs == [0] * len(names)
    assert threading.active_count() == before[0] and {threads for threads, _ in seen} == {before[0]}
    # The error of an attempt is at hand while it is told, and the handle that woke its thread with it.
    assert max(files for _, files in seen) <= before[1] + 1 and open_files() == before[1]


def test_the_memory_of_an_attempt_is_given_back(state):
    """State that is kept by the error of the attempt that had it: some attempts would fill the machine."""
    keys, sizes = 100_000, []

    def listen(event):
        if isinstance(event, Restarting):
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())

    failures = iter(range(6))

    def numbers(position):
        yield from range(position, keys)
        for _ in failures:
            raise OSError("the end of the line")

    flow = Dataflow("memory")
    (
        flow.source("in", IterableSource(numbers, deterministic=False))
        .key_by(lambda number: number)
        .aggregate("totals", n=of.count(), mean=of.mean(lambda number: number), emit="final")
        .sink("out", TransactionalTestingSink())
    )
    result = run(flow, state, checkpoint_interval_s=1000, restart=AT_ONCE, on_event=listen)
    assert result.restarts == 6 and result.records_out == keys
    # The state of one is some 10 MB.
    assert sizes[-1] - sizes[1] < 10 << 20


def test_a_run_that_another_one_has_replaced_meanwhile(tmp_path, expected):
    """A run that comes back after its wait, over the one that somebody has begun since."""
    root, told, troubles = tmp_path, [], [60]

    def fail(row):
        if row["id"] in troubles:
            troubles.clear()
            raise OSError("no answer")
        return row

    def listen(event):
        told.append(event)
        if isinstance(event, Restarting):
            assert run(counting(root), root / "state").finished

    with pytest.raises(FencedError, match="another run of the job has taken over"):
        run(counting(root, fail), root / "state", checkpoint_interval_s=1e-6, restart=AT_ONCE, on_event=listen)
    assert shown(root) == expected
    assert sum(isinstance(event, Recovered) for event in told) == 1


OWNING = """
import sys
from onceflow.embed import StateBackend
input()
with StateBackend.open(sys.argv[1], job="owned") as backend:
    print("open", flush=True)
    input()
    backend.check_epoch()
    print("mine")
"""


def test_a_run_that_owns_the_state_is_not_taken_over_by_a_restart(state):
    """``take_over`` said once, and meant for the run that was there then."""
    flow = Dataflow("owned")
    flow.source("in", TestingSource([1, 2, ABORT, 3])).sink("out", TransactionalTestingSink())
    with subprocess.Popen(
        [sys.executable, "-c", OWNING, str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:

        def listen(event):
            if isinstance(event, Restarting):
                other.stdin.write("now\n")
                other.stdin.flush()
                assert other.stdout.readline() == "open\n"

        with pytest.raises(FencedError):
            run(flow, state, restart=AT_ONCE, take_over=True, on_event=listen)
        assert other.communicate("now\n", timeout=20)[0] == "mine\n"


@pytest.mark.parametrize("goes_to", [None, 0, 1])
def test_a_run_that_goes_back_does_so_once(state, goes_to):
    """A lineage for each attempt, each of which writes again what the one before had written."""
    sink, points = TransactionalTestingSink(), []

    def made(*troubles):
        left = list(troubles)

        def fail(row):
            if row["id"] in left:
                left.remove(row["id"])
                raise OSError("no answer")
            return row["id"]

        flow = Dataflow("back")
        flow.source("in", Rows()).map(fail).sink("out", sink)
        return flow

    def listen(event):
        if isinstance(event, CheckpointCompleted):
            points.append(event.stats.id)

    settings = {"checkpoint_interval_s": 1e-6, "retain": 99, "restart": AT_ONCE}
    with pytest.raises(UserFunctionError):
        run(made(60), state, on_event=listen, **{**settings, "restart": None})
    sink.committed.clear()
    chosen = "none" if goes_to is None else points[goes_to]
    result = run(made(50, 70, 90), state, resume_from=chosen, **settings)
    assert (result.restarts, result.resumed_from) == (3, None if goes_to is None else chosen)
    assert sink.records == list(range(0 if goes_to is None else BATCH * (goes_to + 1), ROWS))


def test_an_error_that_comes_again_ends_the_run(state):
    """A function that fails for one record for ever: the policy's attempts are its bound, and the error says so."""
    flow = Dataflow("poison")
    flow.source("in", TestingSource(range(9))).map(lambda n: 1 / (n - 5)).sink("out", TransactionalTestingSink())
    events = []
    with pytest.raises(UserFunctionError, match="ZeroDivisionError") as caught:
        run(flow, state, restart=FixedDelay(delay_s=0.001, attempts=3), on_event=events.append)
    assert any("begun again 3 times" in note for note in caught.value.__notes__)
    assert [event.restarts for event in events if isinstance(event, Restarting)] == [1, 2, 3]
    assert "ZeroDivisionError" in next(event for event in events if isinstance(event, Restarting)).reason


@pytest.mark.parametrize("error", [ConfigurationError("no"), FencedError("no"), StoreLockedError("no")])
def test_errors_that_do_not_heal_end_the_run_at_once(state, error):
    """An error that is tried again for hours, or that another run has caused on purpose."""
    calls = []

    def poll(position):
        calls.append(position)
        yield 1
        raise error

    flow = Dataflow("refused")
    source = IterableSource(poll)
    flow.source("in", source).sink("out", TransactionalTestingSink())
    with pytest.raises(type(error)):
        run(flow, state, restart=AT_ONCE)
    assert len(calls) == 1


def test_what_is_wrong_from_the_start_is_told_at_once(tmp_path, state):
    """A wrong path that a run waits for instead of naming it."""
    flow = Dataflow("missing")
    flow.source("in", CsvSource(tmp_path / "none.csv")).sink("out", TransactionalTestingSink())
    with pytest.raises(OnceflowError, match=r"none\.csv"), warnings.catch_warnings():
        warnings.simplefilter("error", RestartWarning)
        run(flow, state, restart=AT_ONCE)


def test_an_error_of_the_program_around_the_run(state):
    """What ``on_event`` raises to end a run that is begun again instead."""

    def listen(event):
        raise RuntimeError("enough")

    flow = Dataflow("around")
    flow.source("in", TestingSource([1])).sink("out", TransactionalTestingSink())
    with pytest.raises(RuntimeError, match="enough"):
        run(flow, state, restart=AT_ONCE, on_event=listen)


#: What is not tried again; every other class is.
DO_NOT_HEAL = """
    BackendClosedError CheckpointNotFoundError ConfigurationError DataflowChangedError DeliveryGuaranteeError
    FencedError LengthMismatchError MalformedRecordError MissingExtraError NotANumberError OffsetOutOfRangeError
    ProducerFencedError RecordTooLargeError SchemaMismatchError SerializationError SourceChangedError StateError
    StateOverflowError StoreCorruptError StoreError StoreForkedError StoreFormatError StoreLockedError
    StoreMismatchError StoreMissingError StoreNetworkFilesystemError StoreReadOnlyError TopicExistsError
    TypeMismatchError UnknownNameError UnknownTopicOrPartitionError
"""


@pytest.mark.parametrize("kind", ERRORS_BY_KIND)
def test_which_errors_may_heal(kind):
    """A new error that nobody has thought about; also where a sink or function has wrapped it."""
    error = ERRORS_BY_KIND[kind]("no")
    heals = type(error).__name__ not in DO_NOT_HEAL.split()
    assert may_heal(error) == heals
    wrapped = SinkError("cannot commit")
    wrapped.__cause__ = error
    assert may_heal(wrapped) == heals
    error.__cause__ = wrapped
    assert may_heal(wrapped) == heals


@pytest.mark.parametrize("error", [ValueError("no"), RestartWarning("no"), MemoryError()])
def test_what_is_no_error_of_a_job(error):
    """A fault of a program, taken for one of a server."""
    assert not may_heal(error)
    wrapped = SinkError("cannot commit")
    wrapped.__cause__ = error
    assert may_heal(wrapped)


def waits(policy, *failures):
    restarts, told = Restarts(policy), []
    for now_s, lasted_s in failures:
        told.append(restarts.next_wait_s(now_s=now_s, lasted_s=lasted_s))
    return told


def test_attempts_within_a_time():
    """Failures of long ago that count for ever, or recent ones that do not."""
    policy = FixedDelay(delay_s=7, attempts=2, within_s=100)
    assert waits(policy, (0, 0), (50, 9), (100, 9), (149, 9)) == [7, 7, 7, None]
    assert waits(FixedDelay(delay_s=7, attempts=2), (0, 0), (1e9, 9), (2e9, 9)) == [7, 7, None]


def test_waits_that_grow():
    """Waits that stay short while a server is away for hours, or stay long when it is back; all jobs at once."""
    policy = ExponentialBackoff(first_s=1, longest_s=30, multiplier=3, jitter=0, reset_after_s=60, attempts=5)
    row = [(0, 1)] * 5
    assert waits(policy, *row) == [1, 3, 9, 27, 30]
    assert waits(policy, *row, (0, 59)) == [1, 3, 9, 27, 30, None]
    assert waits(policy, *row, (0, 60), (0, 1)) == [1, 3, 9, 27, 30, 1, 3]
    spread = ExponentialBackoff(first_s=10, longest_s=10, jitter=0.5, attempts=None)
    found = waits(spread, *[(0, 1)] * 2000)
    assert 5 <= min(found) < 6 and 14 < max(found) <= 15
    assert ExponentialBackoff(multiplier=1e300, attempts=None, jitter=0).wait_s(9, 0.5) == 60


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: FixedDelay(delay_s=0), "delay_s"),
        (lambda: FixedDelay(delay_s=float("nan")), "delay_s"),
        (lambda: FixedDelay(attempts=0), "attempts"),
        (lambda: FixedDelay(attempts=True), "attempts"),
        (lambda: FixedDelay(within_s="1h"), "within_s"),
        (lambda: ExponentialBackoff(first_s=-1), "first_s"),
        (lambda: ExponentialBackoff(multiplier=0.5), "multiplier"),
        (lambda: ExponentialBackoff(jitter=1.5), "jitter"),
        (lambda: ExponentialBackoff(first_s=9, longest_s=8), None),
        (lambda: run(Dataflow("x"), "x", restart=3), "restart"),
    ],
)
def test_policies_that_cannot_be(make, setting):
    """A wait of nothing, or of another unit, that is found out when the server is away."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.setting == setting


FORKING = """
import os, sys
import onceflow as of
from onceflow.restart import FixedDelay
from onceflow.testing import TestingSource, TransactionalTestingSink

home, sink = os.getpid(), TransactionalTestingSink()
def forks(number):
    if number == 5 and os.fork() == 0:
        raise ValueError("the child leaves here")
    return number
flow = of.Dataflow("forks")
flow.source("in", TestingSource(range(20), batch_size=4)).map(forks).sink("out", sink)
try:
    result = of.run(flow, sys.argv[1], restart=FixedDelay(delay_s=0.01), on_event=lambda event: None)
except BaseException as error:
    os.write(1, f"{'parent' if os.getpid() == home else 'child'} {type(error).__name__}\\n".encode())
    os._exit(0)
os.wait()
os.write(1, f"parent {result.restarts} {sink.records == list(range(20))}\\n".encode())
"""


def test_a_forked_child_begins_nothing_again(state):
    """A child that comes back into the run by an exception, waits, and takes its parent's state directory."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(state)], check=False, capture_output=True, text=True, timeout=60
    )
    assert sorted(done.stdout.splitlines()) == ["child UserFunctionError", "parent 0 True"], done.stderr


WAITING = """
import sys
import onceflow as of
from onceflow.restart import FixedDelay
from onceflow.testing import TestingSource, TransactionalTestingSink

flow = of.Dataflow("waits")
flow.source("in", TestingSource([1, 2])).map(lambda n: 1 / (n - 2)).sink("out", TransactionalTestingSink())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_at_once(tmp_path, number):
    """A service that cannot be stopped while its server is away."""
    (tmp_path / "job.py").write_text(WAITING)
    command = [sys.executable, "-m", "onceflow", "run", "job.py:flow", "--state", "state"]
    command += ["--restart", "fixed-delay:delay=10m,attempts=2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if "is begun again in 10 min 0 s (restart 1)" in line:
                    break
            # The handlers are there when it waits, right after it has told so.
            time.sleep(0.3)
            process.send_signal(number)
            rest = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert process.returncode == 1
    assert "ZeroDivisionError" in rest and "told to stop before it was begun again" in rest


def test_the_command_tells_of_restarts(tmp_path):
    """A job that fails again and again, which nobody sees in its output."""
    job = WAITING.replace("TestingSource([1, 2])", "TestingSource([1, ABORT, 3, ABORT, 4])")
    (tmp_path / "job.py").write_text(job.replace("import TestingSource", "import ABORT, TestingSource"))
    command = [sys.executable, "-m", "onceflow", "run", "job.py:flow", "--state", "state"]
    command += ["--restart", "exponential-backoff:first=1ms,longest=1ms,jitter=0"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("waits: failed, and is begun again in 1 ms") == 2
    assert "RestartWarning" not in done.stderr
    assert "restarts   2, the last one after AbortedError: partition 0 met ABORT" in done.stderr


@pytest.mark.parametrize(
    "text", ["often", "never:attempts=1", "fixed-delay:first=1s", "fixed-delay:delay=soon", "fixed-delay:attempts=0"]
)
def test_policies_that_the_command_line_refuses(tmp_path, text):
    """A policy that is half understood."""
    (tmp_path / "job.py").write_text(WAITING)
    command = [sys.executable, "-m", "onceflow", "run", "job.py:flow", "--state", "state", "--restart", text]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--restart" in done.stderr
    assert not (tmp_path / "state").exists()
