"""Metrics for Prometheus: what a job tells, as it is scraped by HTTP while the job runs, and what it costs without."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import timedelta

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from onceflow import Dataflow, count, run
from onceflow.clock import ManualClock
from onceflow.connectors.polling import PollingSource
from onceflow.events import Progress
from onceflow.exceptions import ConfigurationError, MissingExtraError
from onceflow.metrics import JobMetrics
from onceflow.restart import FixedDelay
from onceflow.runtime.shares import Shares
from onceflow.sinks import TransactionalSink
from onceflow.testing import ABORT, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

pytestmark = [
    pytest.mark.filterwarnings("ignore:job .* has failed and is begun again:UserWarning"),
    pytest.mark.filterwarnings("ignore:step .*records come too late:UserWarning"),
]


def scraped(port):
    """By name and other labels than the job's, what is served."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["job"] == "measured"
            rest = {name: value for name, value in sample.labels.items() if name != "job"}
            found[(sample.name.removeprefix("onceflow_"), *rest.values())] = sample.value
    return found


def test_a_job_is_scraped(state):
    """Numbers that are not those of the job, or that fall, which a rate takes for an overflow."""
    seconds = 1_000_000
    items = [*range(60), ABORT, 5, *range(60, 100), ABORT, *range(100, 130)]
    flow, sink, seen = Dataflow("measured"), TransactionalTestingSink(), []
    stream = flow.source("in", TestingSource(items, event_time=lambda second: second * seconds))
    stream.key_by(lambda _: "all").window("tens", Tumbling(seconds=10)).aggregate(n=count()).sink("out", sink)
    with JobMetrics("measured", port=0) as metrics:

        def listen(event):
            metrics.on_event(event)
            seen.append(scraped(metrics.port))

        result = run(flow, state, checkpoint_interval_s=1e-6, restart=FixedDelay(delay_s=0.001), on_event=listen)
        last = scraped(metrics.port)
    assert last["restarts_total",] == result.restarts == 2
    # What was read again after a failure was done again.
    assert last["records_in_total",] >= result.records_in == 131
    assert last["records_out_total",] >= result.records_out == 13
    assert last["records_late_total", "tens"] >= result.late["tens"] == 1
    assert 0 < last["checkpoints_completed_total",] <= result.checkpoints
    assert last["checkpoint_duration_seconds_count",] == last["checkpoints_completed_total",]
    assert last["checkpoint_bytes_total",] > 0
    assert 0 <= last["last_checkpoint_age_seconds",] < 1000
    assert last["event_time_lag_seconds",] > 1e9 or np.isnan(last["event_time_lag_seconds",])
    assert ("sink_held_bytes", "out") in last
    for before, after in itertools.pairwise(seen):
        assert all(after[name] >= value for name, value in before.items() if name[0].endswith(("_total", "_count")))


def test_a_resumed_run_counts_what_it_does_itself(state):
    """A counter that begins with what earlier runs had done: a rate of millions at each start."""
    flow, sink = Dataflow("measured"), TransactionalTestingSink()
    flow.source("in", TestingSource([*range(50), ABORT, 50, 51])).sink("out", sink)
    with pytest.raises(Exception, match="ABORT"):
        run(flow, state, checkpoint_interval_s=1000)
    with JobMetrics("measured", port=0) as first:
        assert run(flow, state, until="caught_up", on_event=first.on_event).records_in == 52
        before = scraped(first.port)
    with JobMetrics("measured", port=0) as second:
        assert run(flow, state, until="caught_up", on_event=second.on_event).records_in == 52
        after = scraped(second.port)
    assert (before["records_in_total",], after["records_in_total",]) == (52, 0)


def test_ages_go_on_when_the_job_says_nothing(state):
    """A job that hangs, and whose metrics stand still as if all were well."""
    clock = ManualClock(1000.0)
    metrics = JobMetrics("measured", now=clock.now)

    def value(name):
        return metrics.registry.get_sample_value(name, {"job": "measured"})

    assert np.isnan(value("onceflow_event_time_lag_seconds"))
    metrics.on_event(Progress(1, 1, event_time_s=990.0))
    assert value("onceflow_event_time_lag_seconds") == 10
    clock.advance(600)
    assert value("onceflow_event_time_lag_seconds") == 610


class Slow(TransactionalSink):
    """Commits only when it is told to, and has little room."""

    def __init__(self, may_commit):
        self.inner = TransactionalTestingSink()
        self._may_commit = may_commit

    def open(self, context):
        writer = self.inner.open(context)
        commit = writer.commit

        def slowly(committable):
            assert self._may_commit.wait(200)
            commit(committable)

        writer.commit, writer.max_held_bytes = slowly, 100
        return writer


def test_what_the_time_of_a_worker_goes_to(state):
    """A job that is said to be busy while it waits, or for something to read while its sinks hold it up."""
    told, may_commit, phase = [], threading.Event(), ["work"]

    def poll(position):
        return ([], position) if phase[0] == "idle" else (list(range(200)), position + 200)

    def function(number):
        time.sleep(0.001)
        return number

    def listen(event):
        if not isinstance(event, Progress):
            return
        told.append(event)
        if phase[0] == "work" and event.backpressured > 0.9:
            assert event.held_bytes["out"] > 100 and event.busy < 0.1
            phase[0] = "idle"
            may_commit.set()
        elif phase[0] == "idle" and event.busy < 0.1 and event.backpressured < 0.1:
            raise KeyboardInterrupt

    flow = Dataflow("measured")
    flow.source("in", PollingSource(poll, every=timedelta(seconds=0.05), start=0)).map(function).sink(
        "out", Slow(may_commit)
    )
    # Each phase is waited for, so that it takes as long as the machine needs; the test is given up if one never comes.
    with pytest.raises(KeyboardInterrupt):
        run(flow, state, checkpoint_interval_s=1e-3, on_event=listen)
    assert max(event.busy for event in told) > 0.3
    assert all(0 <= event.busy <= 1 and 0 <= event.backpressured <= 1 for event in told)


def test_shares_of_the_time():
    """Shares that are of the whole run, so that nobody sees a job stand still, or more than all of it."""
    clock = ManualClock()
    shares = Shares(clock.monotonic)
    clock.advance(5)
    with shares.idle():
        clock.advance(3)
    with shares.backpressured():
        clock.advance(2)
    assert shares.take() == (0.5, 0.2)
    clock.advance(1)
    assert shares.take() == (1.0, 0.0)
    assert shares.take() == (0.0, 0.0)


def test_a_port_that_is_taken():
    """A second job whose metrics are nowhere, or under the first one's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1"):
            JobMetrics("measured", port=port)
    with pytest.raises(ConfigurationError) as caught:
        JobMetrics("measured", port=70000)
    assert caught.value.setting == "port"


def test_what_was_served_is_given_back():
    """Ports and threads of runs that are over."""
    threads = threading.active_count()
    with JobMetrics("measured", port=0) as metrics:
        scraped(metrics.port)
        port = metrics.port
    with socket.socket() as again:
        again.settimeout(5)
        assert again.connect_ex(("127.0.0.1", port)) != 0
    deadline = time.monotonic() + 60
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_without_the_extra(monkeypatch):
    """An ImportError of a library that nobody has heard of."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'onceflow\[metrics\]'"):
        JobMetrics("measured")


def test_nothing_is_imported_that_nobody_has_asked_for():
    """A library that every run loads, and that has to be there."""
    code = "import sys, onceflow.runtime.run, onceflow.cli.run; assert 'prometheus_client' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


JOB = """
import pathlib, time
from datetime import timedelta
from onceflow import Dataflow
from onceflow.connectors.polling import PollingSource
from onceflow.testing import TransactionalTestingSink

def poll(position):
    return None if pathlib.Path("stop").exists() else ([1, 2, 3], position + 1)

flow = Dataflow("measured")
source = PollingSource(poll, every=timedelta(milliseconds=20), start=0)
flow.source("in", source).sink("out", TransactionalTestingSink())
"""


def test_the_command_serves_metrics(tmp_path):
    """An option that serves nothing, or somewhere else; and a progress line that does not say how the worker is."""
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, "-m", "onceflow", "run", "job.py:flow", "--state", "state", "--metrics-port", "0"]
    with subprocess.Popen(
        [*command, "--checkpoint-interval", "50ms"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = ""
            while not (port := re.search(r"metrics at http://127\.0\.0\.1:(\d+)/metrics", said)):
                said += process.stderr.readline()
            while not (found := scraped(int(port[1]))).get(("checkpoints_completed_total",)):
                time.sleep(0.05)
            assert found["records_in_total",] > 0
            while not re.search(r"records/s.*\d+% busy", said):
                said += (line := process.stderr.readline())
                assert line
            (tmp_path / "stop").touch()
            said += process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 0 and "finished" in said
