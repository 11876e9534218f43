"""A server that goes away under a connector and comes back, and what the connector says meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from onceflow.connectors import waiting
from onceflow.exceptions import SinkWaitingWarning, SourceWaitingWarning
from onceflow.sinks import Committable, SinkContext, TransactionalSink

__all__ = ["CONTEXT", "check_silence_is_told", "check_sink_tells", "check_tells", "said", "standing_still"]

CONTEXT = SinkContext("job", "out", 1, 1, run="0" * 32, state_id="s")


def check_tells(
    monkeypatch, server: Any, who: str, work: Callable[[], object], kind: type[Warning] = SinkWaitingWarning
) -> None:
    """Work that meets a server which was killed goes on when it is back, and says both."""
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.1)
    server.kill()
    # On a thread of its own: a server ends with the thread that has started it.
    with ThreadPoolExecutor(1) as thread, pytest.warns(kind) as told:
        done = thread.submit(work)
        time.sleep(1)
        server.start()
        done.result(120)
    said(told, who)


def said(told: pytest.WarningsRecorder, who: str) -> None:
    """One word while somebody is away, and one when he is back: no more, however often was asked."""
    texts = [str(each.message) for each in told if issubclass(each.category, SinkWaitingWarning | SourceWaitingWarning)]
    assert texts[0].startswith(f"{who} waits for "), texts
    assert texts[-1].startswith(f"{who} goes on: "), texts
    assert len(texts) % 2 == 0 and len(texts) <= 4, texts


def check_sink_tells(monkeypatch, server: Any, sink: TransactionalSink, records: list[Any]) -> None:
    """Between the decision and the commit, where nothing but waiting helps."""
    with closing(sink.open(CONTEXT)) as writer:
        writer.recover([])
        writer.write(records)
        output = Committable(1, writer.prepare(1, writer.seal(1)))
        check_tells(monkeypatch, server, "sink 'job/out'", partial(writer.commit, output))


@contextmanager
def standing_still(server: Any) -> Iterator[None]:
    """A server that is there, with all its connections, and does nothing."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    stopped = [server.pid, *map(int, children)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def check_silence_is_told(monkeypatch, server: Any, sink: TransactionalSink, records: list[Any]) -> None:
    """A commit that meets a server which stands still says so, goes on when it does, and leaves no thread behind."""
    for name, seconds in {"_PATIENCE_S": 0.1, "_UNANSWERED_S": 0.3, "_LOOK_S": 0.05}.items():
        monkeypatch.setattr(waiting, name, seconds)
    # What another test has opened and not closed is not this connector's.
    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as thread, closing(sink.open(CONTEXT)) as writer:
        writer.recover([])
        writer.write(records)
        output = Committable(1, writer.prepare(1, writer.seal(1)))
        with pytest.warns(SinkWaitingWarning) as told:
            with standing_still(server):
                done = thread.submit(writer.commit, output)
                time.sleep(1)
                assert not done.done()
            done.result(60)
    said(told, "sink 'job/out'")
    assert "it was asked and has not answered" in str(told[0].message)
    left = set(threading.enumerate()) - before
    assert not [each.name for each in left if each.name.startswith("onceflow: ")]
