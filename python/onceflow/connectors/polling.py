"""A function that is called every so often, with the position, as a source.

It is called on a thread of its own, so that one that takes long, or never answers, keeps no checkpoint, signal or other
source waiting. That thread waits until the next call is due and wakes the job when there is an answer. What a call has
given is handed out in batches; between them a position says before which call it is, how many records of it were handed
out, and what they were, so that a resumed run calls the function with the same position and goes on within its answer.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta
from hashlib import blake2b
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, NamedTuple, TypeAlias

import msgspec

from onceflow.clock import Clock
from onceflow.columns import Columns, rows_of
from onceflow.connectors.files.malformed import MalformedPolicy, check_policy
from onceflow.connectors.files.record_times import EventTime, check_event_time
from onceflow.connectors.record_digest import digested
from onceflow.connectors.timed import TimedBatches
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader, Wake
from onceflow.types import Batch, Plain

__all__ = ["Polled", "PollingSource"]

#: Its only partition.
_PARTITION = "0"
#: The clock is looked at so often at least while a call is not due: it may have been set, or the machine have slept.
_LOOK_S = 1.0
#: How long a round waits for the answer to a call that was made at once.
_MOMENT_S = 0.005


class Polled(NamedTuple):
    """What a call gives.

    Attributes:
        records: Those that follow the position: a list, or ``Columns``; empty if there are none now.
        position: What the next call gets: behind these records.
        more: True: there is more, so the next call is made at once. False: there is nothing more now, so a run until
            caught up ends with these records. None: it is not known, so such a run ends with a call that gives nothing.
    """

    records: Batch
    position: Plain
    more: bool | None = None


#: Records and next position, as a ``Polled`` or a tuple; None if there will never be more.
Answer: TypeAlias = "Polled | tuple[Batch, Plain] | None"


class PollingSource(Source):
    """Records that a function gives for a position; one partition.

    Args:
        poll: Called with the position, gives ``(records, next position)`` or a ``Polled``; None when there will never
            be more. Positions are whatever msgpack can write, such as the highest id or a time. A run calls it from one
            thread, one call at a time; what it raises stops the job.
        every: How long after a call the next one begins, unless that one has said that there is more.
        start: The first position.
        event_time: What gives the time of a record: the name of a member or column, or a function; see ``CsvSource``
            for records and ``ParquetSource`` for columns.
        on_malformed: What to do with records that have no valid time: ``"fail"``, ``"skip"`` (and count them), or
            ``"dead_letter"``.
        replayable: The function, called with a position again, gives again what followed it, from the first record on;
            it may end elsewhere. False: it cannot, as for the present reading of a meter; then the job can only be
            at_most_once.
        deterministic: True: the records are equal then, so that a damaged checkpoint can be worked around by reading
            them again. None: that is not relied on, but those of a call that was handed out in part are compared where
            a run resumes. False: nor are they compared, as for records with the time of the call in them.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    wakes: ClassVar[bool] = True

    def __init__(
        self,
        poll: Callable[[Any], Answer],
        *,
        every: timedelta,
        start: Plain = None,
        event_time: EventTime | None = None,
        on_malformed: MalformedPolicy = "fail",
        replayable: bool = True,
        deterministic: bool | None = None,
    ) -> None:
        if not callable(poll):
            raise ConfigurationError(f"PollingSource: poll={poll!r}: give a function of the position", setting="poll")
        if not isinstance(every, timedelta) or every <= timedelta(0):
            raise ConfigurationError(f"PollingSource: every={every!r}: give a timedelta above 0", setting="every")
        if not isinstance(replayable, bool):
            raise ConfigurationError(
                f"PollingSource: replayable={replayable!r}: give True or False", setting="replayable"
            )
        if deterministic not in (True, False, None):
            raise ConfigurationError(
                f"PollingSource: deterministic={deterministic!r}: give True, False or None", setting="deterministic"
            )
        self._poll = poll
        self._every_s = every.total_seconds()
        self._start = _plain(start, "start")
        self._event_time = check_event_time(event_time)
        self._policy: MalformedPolicy = check_policy(on_malformed)
        self.has_event_time = event_time is not None
        self.has_dead_letters = self._policy == "dead_letter"
        self.replayable = replayable  # type: ignore[misc]
        self.deterministic = deterministic is True
        self._compares = replayable and deterministic is not False

    def partitions(self) -> list[str]:
        """One."""
        return [_PARTITION]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        at = {"at": self._start, "record": 0} if position is None else position
        if not isinstance(at, dict) or "at" not in at or not isinstance(at.get("record"), int):
            raise SourceError(f"{position!r} is not a position of a polled source; start over with resume_from='none'")
        poller = _Poller(self._poll, self._every_s, context.clock, context.wake)
        timed = TimedBatches(self._event_time, self._policy, partition)
        caught_up = context.until == "caught_up"
        return _PollingReader(
            poller, at, timed, caught_up=caught_up, is_whole=not self.replayable, compares=self._compares
        )


class _Failed(NamedTuple):
    error: BaseException


class _Poller:
    """Calls the function on a thread of its own, when it is asked to and the time has come."""

    def __init__(self, poll: Callable[[Any], Answer], every_s: float, clock: Clock, wake: Wake) -> None:
        self._poll = poll
        self._every_s = every_s
        self._clock = clock
        self._wake = wake
        self._asked: SimpleQueue[tuple[Plain, bool]] = SimpleQueue()
        self._answers: SimpleQueue[Answer | _Failed] = SimpleQueue()
        self._closed = threading.Event()
        # It ends with the process: a call that never returns keeps nothing.
        self._thread = threading.Thread(target=self._run, name="onceflow-poll", daemon=True)
        self._thread.start()

    def ask(self, position: Plain, *, at_once: bool) -> None:
        """Has the function called with a position: at once, or when it is due."""
        self._asked.put((position, at_once))

    def answer(self, wait_s: float) -> Answer | _Failed:
        """What a call has given. Raises ``queue.Empty`` where that is nothing for so long."""
        return self._answers.get(timeout=wait_s) if wait_s else self._answers.get_nowait()

    def close(self) -> None:
        """No call begins any more; the answer of one under way is nobody's."""
        self._closed.set()
        self._asked.put((None, True))

    def _run(self) -> None:
        due_s = self._clock.monotonic()
        while True:
            position, at_once = self._asked.get()
            while not at_once and not self._closed.is_set() and (left_s := due_s - self._clock.monotonic()) > 0:
                self._closed.wait(min(left_s, _LOOK_S))
            if self._closed.is_set():
                return
            due_s = self._clock.monotonic() + self._every_s
            try:
                answer: Answer | _Failed = self._poll(position)
            except BaseException as error:
                answer = _Failed(error)
            self._answers.put(answer)
            if not self._closed.is_set():
                self._wake.set()


class _PollingReader(SourceReader):
    def __init__(
        self,
        poller: _Poller,
        position: dict[str, Plain],
        timed: TimedBatches,
        *,
        caught_up: bool,
        is_whole: bool,
        compares: bool,
    ) -> None:
        self._poller = poller
        self._timed = timed
        self._caught_up = caught_up
        #: An answer is handed out as one batch: its rest could not be asked for again.
        self._is_whole = is_whole
        self._compares = compares
        #: The position that the present answer was asked with, and the number of its first record in the partition.
        self._at: Plain = position["at"]
        self._first = _whole(position["record"])
        #: So many records of it were handed out; their digest, and what it was before the checkpoint.
        self._taken = _whole(position.get("taken", 0))
        self._digest = blake2b(digest_size=8)
        self._kept_digest: Plain = position.get("digest")
        #: The present answer, if there is one.
        self._polled: Polled | None = None
        self._ended = False
        #: How long the next look for an answer waits.
        self._moment_s = 0.0
        self._ask(at_once=True)

    def read(self, max_records: int) -> SourceBatch | None:
        if self._polled is None:
            if self._ended:
                return None
            with contextlib.suppress(Empty):
                wait_s, self._moment_s = self._moment_s, 0.0
                self._take_answer(self._poller.answer(wait_s))
            if self._polled is None:
                return None if self._ended else self._timed.batch([], self._first)
        records = self._polled.records
        start = self._taken
        end = len(records) if self._is_whole else min(len(records), start + max_records)
        batch = records.slice(start, end) if isinstance(records, Columns) else records[start:end]
        self._taken, first = end, self._first + start
        if end == len(records):
            self._next()
        else:
            self._add(batch)
        return self._timed.batch(batch, first)

    def _ask(self, *, at_once: bool) -> None:
        # Most functions answer so soon that it is worth while to wait for it.
        self._moment_s = _MOMENT_S if at_once else 0.0
        self._poller.ask(self._at, at_once=at_once)

    def _take_answer(self, answer: Answer | _Failed) -> None:
        """Makes what a call has given the present answer, if it holds something to hand out."""
        if isinstance(answer, _Failed):
            raise answer.error
        if answer is None:
            self._check_taken([])
            self._ended = True
            return
        polled = _polled(answer)
        self._check_taken(polled.records)
        if len(polled.records) and not self._is_whole and polled.position == self._at:
            raise SourceError(
                f"a call with position {self._at!r} has given {len(polled.records)} records and the same position, so "
                "they would come again: give the position after the last record"
            )
        self._polled = polled
        if self._taken >= len(polled.records):
            self._next()

    def _check_taken(self, records: Batch) -> None:
        """Refuses an answer that does not begin with what was handed out of it before the checkpoint."""
        if not self._taken:
            return
        if len(records) < self._taken:
            raise SourceChangedError(
                f"called again with position {self._at!r}, the function gives {len(records)} records, and "
                f"{self._taken} were handed out before the checkpoint: it must give again what followed a position",
                position=self._first + self._taken,
            )
        self._add(records.slice(0, self._taken) if isinstance(records, Columns) else records[: self._taken])
        if self._compares and self._kept_digest is not None and self._digest.digest() != self._kept_digest:
            raise SourceChangedError(
                f"called again with position {self._at!r}, the function gives other records than the {self._taken} "
                "that were handed out before the checkpoint: it must give again what followed a position, in the same "
                "order. If they differ on purpose, give deterministic=False; to begin anew, start over with "
                "resume_from='none'",
                position=self._first + self._taken,
            )

    def _next(self) -> None:
        """All of the present answer is handed out."""
        polled, self._polled = self._polled, None
        assert polled is not None
        found = len(polled.records)
        self._at, self._first = polled.position, self._first + found
        self._taken, self._digest = 0, blake2b(digest_size=8)
        if self._caught_up and (polled.more is False or (polled.more is None and not found)):
            self._ended = True
            return
        self._ask(at_once=polled.more is True or (self._caught_up and found > 0))

    def _add(self, records: Batch) -> None:
        """Adds records that are handed out to the digest, before a function of the dataflow may change them."""
        if self._compares:
            digested(self._digest, rows_of(records))

    def position(self) -> Plain:
        position: dict[str, Plain] = {"at": self._at, "record": self._first}
        if self._taken:
            # Until the call has answered again, what is known of its answer is what was known before.
            known = self._digest.digest() if self._compares else None
            position |= {"taken": self._taken, "digest": self._kept_digest if self._polled is None else known}
        return position

    def close(self) -> None:
        self._poller.close()


def _polled(answer: Any) -> Polled:
    """An answer, checked."""
    if not isinstance(answer, tuple) or len(answer) not in (2, 3):
        raise SourceError(
            f"poll gave a {type(answer).__name__}: it gives (records, next position), or None when there will never be "
            "more"
        )
    polled = Polled(*answer)
    if not isinstance(polled.records, (list, Columns)):
        raise SourceError(f"poll gave records as a {type(polled.records).__name__}: give a list, or Columns")
    if polled.more not in (True, False, None):
        raise SourceError(f"poll gave more={polled.more!r}: give True, False or None")
    return polled._replace(position=_plain(polled.position, "the next position"))


def _plain(position: Any, what: str) -> Plain:
    """As a later run gets it: a tuple as a list, and a copy."""
    try:
        found: Plain = msgspec.msgpack.decode(msgspec.msgpack.encode(position))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"PollingSource: {what} is {position!r}: {error}; give plain values") from error
    return found


def _whole(value: Plain) -> int:
    if not isinstance(value, int):
        raise SourceError(f"{value!r} is not a number of records; start over with resume_from='none'")
    return value
