"""What processes write down at the same time is one history afterwards, whatever kills them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from onceflow.exceptions import ConfigurationError
from onceflow.testing.histories import (
    Abort,
    Commit,
    History,
    HistoryError,
    Outcome,
    PartitionOffset,
    Poll,
    Record,
    Recorder,
    Returned,
    Send,
    SendOffsets,
    check,
)

WRITER = """
import os, signal, sys
from onceflow.testing.histories import Recorder

directory, client, dies = sys.argv[1:]
with Recorder(directory, client) as recorder:
    for number in range(500):
        call = recorder.send("t", f"{client}-{number}", 0)
        recorder.sent(call)
    recorder.begin()
    recorder.send("t", f"{client}-last", 0)
    with recorder.commit():
        if dies == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_write_at_the_same_time_and_one_is_killed(tmp_path):
    clients = {"a": "lives", "b": "dies", "c": "lives"}
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), *client]) for client in clients.items()]
    assert [process.wait(60) for process in processes] == [0, -signal.SIGKILL, 0]
    history = History.load(tmp_path)
    assert len(history) == 3 * 1003 + 2
    times = [operation.at_ns for operation in history]
    assert times == sorted(times)
    last = history.clients["b"][-1]
    assert isinstance(last, Commit)
    report = check(history, atomic_commits=True)
    assert (report.committed, report.indefinite, report.anomalies) == (2, 1, ())


def test_everything_that_is_written_is_read_again(tmp_path):
    recorder = Recorder(tmp_path, "c", definite=lambda error: isinstance(error, ValueError))
    recorder.assigned([PartitionOffset("t", 0, 0)], group="g", start_ns=recorder.now())
    recorder.rebalanced("g", revoked=[PartitionOffset("t", 1)], assigned=[PartitionOffset("t", 2, 7)])
    recorder.sought("t", 0, 3)
    recorder.polled([Record("t", 0, 3, "a"), Record("t", 0, 4, 17)], start_ns=5, reached=[PartitionOffset("t", 0, 5)])
    name = recorder.begin()
    call = recorder.send("t", "b")
    recorder.sent(call, 0, 9)
    recorder.not_sent(recorder.send("t", "c"), ValueError("too large"))
    recorder.not_sent(recorder.send("t", "d"), TimeoutError("no answer"))
    with recorder.send_offsets("g", [PartitionOffset("t", 0, 5)]):
        pass
    with pytest.raises(TimeoutError), recorder.commit():
        raise TimeoutError
    with pytest.raises(ValueError, match="fenced"), recorder.commit():
        raise ValueError("fenced")
    with recorder.abort():
        pass
    recorder.close()

    operations = History.load(tmp_path).clients["c"]
    poll = next(each for each in operations if isinstance(each, Poll))
    assert poll.records == (Record("t", 0, 3, "a"), Record("t", 0, 4, 17))
    assert poll.reached == (PartitionOffset("t", 0, 5),)
    assert {each.transaction for each in operations if isinstance(each, Send | SendOffsets | Commit | Abort)} == {name}
    answers = [(each.outcome, each.offset, each.error) for each in operations if isinstance(each, Returned)]
    assert answers == [
        (Outcome.OK, 9, None),
        (Outcome.FAILED, None, "ValueError: too large"),
        (Outcome.INDEFINITE, None, "TimeoutError: no answer"),
        (Outcome.OK, None, None),
        (Outcome.INDEFINITE, None, "TimeoutError: "),
        (Outcome.FAILED, None, "ValueError: fenced"),
        (Outcome.OK, None, None),
    ]


def test_threads_share_a_recorder(tmp_path):
    with Recorder(tmp_path, "c") as recorder:

        def send(first):
            for number in range(first, first + 300):
                recorder.sent(recorder.send("t", number))

        threads = [threading.Thread(target=send, args=(first,)) for first in (0, 1000, 2000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report = check(History.load(tmp_path), atomic_commits=True)
    assert (report.acknowledged, report.anomalies) == (900, ())


def test_a_line_that_a_kill_cut_off_is_dropped_and_damage_is_not(tmp_path):
    with Recorder(tmp_path, "c") as recorder:
        recorder.send("t", "a")
        recorder.send("t", "b")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert len(History.load(tmp_path)) == 1
    path.write_bytes(whole[:20] + whole[21:])
    with pytest.raises(HistoryError, match="line 1 of"):
        History.load(tmp_path)


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    with pytest.raises(ConfigurationError, match="also a file's name"):
        Recorder(tmp_path, name)


def test_a_second_client_of_a_name_is_refused(tmp_path):
    Recorder(tmp_path, "c").close()
    with pytest.raises(ConfigurationError, match="name of its own"):
        Recorder(tmp_path, "c")


def test_an_end_without_a_transaction_is_refused(tmp_path):
    with (
        Recorder(tmp_path, "c") as recorder,
        pytest.raises(ConfigurationError, match="no open transaction"),
        recorder.commit(),
    ):
        pass
