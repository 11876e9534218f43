"""The processes of a job's workers, as the supervisor has them: started, spoken to, watched, ended."""

from __future__ import annotations

import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from onceflow.exceptions import WorkerLostError
from onceflow.runtime.workers.links import all_messages, packed
from onceflow.runtime.workers.messages import Exit, PartDurable, Progressed, WorkerOpened

__all__ = ["Crew", "Member"]

#: Workers give a sign of life each second, whatever they are at.
_LONGEST_SILENCE_S = 60.0
_LAST_WORDS_S = 5.0
#: Who has not looked for so long was stopped itself.
_PAUSE_S = 5.0
_READ = 1 << 20
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; from onceflow.runtime.workers.process import main; main(int(sys.argv[1]))"
)


class Member:
    """One worker.

    Attributes:
        rank: Its number.
        name: What the coordinator calls it.
        peers: The descriptors, in its process, of its connections to the others, by their numbers.
        opened: What it has said when it was ready; None before.
        has_recovered: Its sinks are this run's.
        has_ended: It has nothing more to do.
        progress: The newest that it has told.
        durable: Its part of the checkpoint that is under way, or of the last one.
    """

    def __init__(
        self, rank: int, peers: dict[int, int], process: subprocess.Popen[bytes], control: socket.socket
    ) -> None:
        self.rank = rank
        self.name = f"worker-{rank}"
        self.peers = peers
        self.opened: WorkerOpened | None = None
        self.has_recovered = self.has_ended = False
        self.progress = Progressed({}, {}, {}, holds=False, changed=False, refused={})
        self.durable: PartDurable | None = None
        self._process = process
        self._control = control
        self._read = bytearray()
        self._heard_s = time.monotonic()

    def tell(self, message: object) -> None:
        """Sends a message; that its end is gone is noticed by what comes from it."""
        try:
            self._control.sendall(packed(message))
        except OSError:
            return

    def hear(self) -> tuple[list[Any], bool]:
        """The messages that have come, and whether more can come."""
        try:
            data = self._control.recv(_READ)
        except OSError:
            data = b""
        self._read += data
        self._heard_s = time.monotonic()
        return all_messages(self._read), bool(data)

    def forgive(self) -> None:
        """Counts its silence anew."""
        self._heard_s = time.monotonic()

    def is_silent(self) -> bool:
        """Whether nothing has come from it for so long that something is wrong."""
        return time.monotonic() - self._heard_s > _LONGEST_SILENCE_S

    def how_it_ended(self) -> str:
        """For people, once its connection is closed."""
        try:
            code = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return "has closed its connection"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    def end(self, timeout_s: float) -> None:
        """Waits for its end, and puts one to it."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Kills it if it lives."""
        self._process.kill()
        self._process.wait()
        self._control.close()


class Crew:
    """All workers of a run.

    Args:
        count: How many there are to be; ``start`` starts them.
        lost: Hears of one that is gone, and why, before the error is raised.
    """

    def __init__(self, count: int, lost: Callable[[Member, str], None]) -> None:
        self._count = count
        self._lost = lost
        self._selector = selectors.DefaultSelector()
        self._looked_s = time.monotonic()
        self.members: list[Member] = []

    def start(self) -> None:
        """Starts the processes. Each has a connection to the supervisor and one to every other worker, which nobody
        else can reach: they are made here and handed down."""
        ends: dict[int, dict[int, socket.socket]] = {rank: {} for rank in range(self._count)}
        try:
            for rank in range(self._count):
                for other in range(rank + 1, self._count):
                    ends[rank][other], ends[other][rank] = socket.socketpair()
            for rank, mine in ends.items():
                self._start(rank, {other: end.fileno() for other, end in mine.items()})
        finally:
            for mine in ends.values():
                for end in mine.values():
                    end.close()

    def _start(self, rank: int, peers: dict[int, int]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *peers.values()],
                # Signals of the terminal are the supervisor's to hear.
                process_group=0,
            )
        member = Member(rank, peers, process, ours)
        self.members.append(member)
        self._selector.register(ours, selectors.EVENT_READ, member)

    def hear(self, timeout_s: float) -> Iterator[tuple[Member, Any]]:
        """What they say within a timeout.

        Raises:
            WorkerLostError: One has ended, or gives no sign of life.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s > _PAUSE_S:
            # It was the supervisor that stood still: what workers have said meanwhile is still to be heard.
            for each in self.members:
                each.forgive()
        for key, _ in self._selector.select(timeout_s):
            member: Member = key.data
            messages, lives = member.hear()
            for message in messages:
                yield member, message
            if not lives:
                self._selector.unregister(key.fileobj)
                self._gone(member, member.how_it_ended())
        self._looked_s = time.monotonic()
        for member in self.members:
            if member.is_silent():
                self._gone(
                    member,
                    f"has given no sign of life for {_LONGEST_SILENCE_S:.0f} s: it is stopped, or a function in it "
                    "holds the interpreter for so long",
                )

    def _gone(self, member: Member, how: str) -> None:
        reason = f"worker {member.rank} of {self._count} {how}"
        self._lost(member, reason)
        raise WorkerLostError(
            f"{reason}. All workers have ended; the next run goes on from the last checkpoint", worker=member.rank
        )

    def tell(self, message: object) -> None:
        """Sends a message to all."""
        for member in self.members:
            member.tell(message)

    def end(self) -> None:
        """The run is over: lets them close what they have."""
        self.tell(Exit())
        until_s = time.monotonic() + _LAST_WORDS_S
        for member in self.members:
            member.end(max(until_s - time.monotonic(), 0.0))

    def close(self) -> None:
        """None is left, however the run has ended."""
        for member in self.members:
            member.close()
        self._selector.close()
