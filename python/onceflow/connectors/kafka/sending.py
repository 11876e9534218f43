"""Output on its way into a transaction: sent ahead, while its checkpoint has not even begun, or all at once.

What is written is also sent, into a transaction of the id that will commit it, so that staging it and sending it go on
side by side, and little is left to send after the decision. Nobody can read it before, and nothing relies on it: the
bytes in the decision record do, and whatever goes wrong with what was sent ahead, they are sent anew.

A transaction has records of one checkpoint only. While that of one is being committed, what is written for the next
one waits, and is sent ahead when the next records are written. Nothing here ever waits for the broker: what the client
has no room for is sent later.

An open transaction holds back readers of what is committed from what others have written behind its first record.
So none is opened for little output, which is sent in no time, nor where checkpoints are far apart.
"""

from __future__ import annotations

import threading
import time

from onceflow.connectors.kafka.frame import Frame
from onceflow.connectors.kafka.transaction import TransactionalProducer, UnsureError
from onceflow.connectors.topics.staged import Part
from onceflow.crash import crash_point

__all__ = ["Sending"]

#: Less is not sent ahead.
_LEAST_BYTES = 256 << 10
#: A transaction is not held open for longer, or for a larger share of what the broker allows, where it can be helped.
_LONGEST_S = 10.0
_LONGEST_SHARE = 1 / 3


class Sending:
    """The transactions of one producer. ``ahead`` is called on the job's thread, all else on the checkpoint thread.

    Args:
        producer: With the id of the worker.
        topic: Where output goes.
        eager: Whether anything is sent ahead.
    """

    def __init__(self, producer: TransactionalProducer, topic: str, *, eager: bool) -> None:
        self._producer = producer
        self._topic = topic
        self._eager = eager
        self._longest_s = min(_LONGEST_S, producer.timeout_ms / 1_000 * _LONGEST_SHARE)
        #: Whose transaction it is: held while a checkpoint's output is committed.
        self.lock = threading.Lock()
        #: What the open transaction is of, and how far it was sent: frames, and records of the one after.
        self._open: list[Frame] | None = None
        self._frames = self._records = 0
        #: What was committed last, what has to be before more is sent ahead, and what is written now: its bytes, and
        #: when that began.
        self._committed: list[Frame] | None = None
        self._before: list[Frame] | None = None
        self._written: list[Frame] | None = None
        self._bytes = 0
        self._began = 0.0
        self._is_late = False

    def ahead(self, frames: list[Frame], newest: Part) -> None:
        """Sends what can be sent by now of a checkpoint's output.

        Args:
            frames: All of it so far; the same list until the checkpoint is cut.
            newest: The records of the last one, which was added just now.
        """
        if not self._eager:
            return
        now = time.monotonic()
        if frames is not self._written:
            self._is_late = self._written is not None and now - self._began > self._longest_s
            self._before, self._written = self._written, frames
            self._bytes, self._began = 0, now
        self._bytes += frames[-1].nbytes
        if self._is_late or now - self._began > self._longest_s or self._bytes < _LEAST_BYTES:
            return
        # Else another checkpoint's output is being committed, by the same producer.
        if self.lock.acquire(blocking=False):
            try:
                self._go_on(frames, newest)
            finally:
                self.lock.release()

    def _go_on(self, frames: list[Frame], newest: Part) -> None:
        if not self._producer.is_taken or (self._before is not None and self._committed is not self._before):
            return
        try:
            self._send(self._topic, frames, 0.0, newest)
        except UnsureError:
            # The commit takes the id anew, if it is still this run that writes, and sends all of it.
            self.forget()
            self._producer.drop()
        else:
            crash_point("kafka.sent_ahead")

    def finish(self, topic: str, frames: list[Frame], until: float) -> None:
        """Sends all that is left of a checkpoint's output, or all of it in a new transaction.

        Raises:
            UnsureError: It was not taken.
        """
        if self._send(topic, frames, until) < len(frames):
            raise UnsureError("the client's queue stayed full")

    def _send(self, topic: str, frames: list[Frame], until: float, newest: Part | None = None) -> int:
        if self._open is not frames:
            self._producer.begin()
            self._open, self._frames, self._records = frames, 0, 0
        while self._frames < len(frames):
            frame = frames[self._frames]
            part = newest if newest is not None and frame is frames[-1] else frame.part()
            self._records = self._producer.send(topic, part, frame.written_ms, until, self._records)
            if self._records < part.count:
                break
            self._frames, self._records = self._frames + 1, 0
        return self._frames

    def is_open(self, *, but_for: list[Frame] | None = None) -> bool:
        """Whether there is an open transaction, or one of other output than this."""
        return self._open is not None and self._open is not but_for

    def committed(self, frames: list[Frame]) -> None:
        """A checkpoint's output is there: that of the next one may be sent."""
        self._committed = frames

    def forget(self) -> None:
        """Whatever was sent counts for nothing any more, or is about to be committed."""
        self._open = None
