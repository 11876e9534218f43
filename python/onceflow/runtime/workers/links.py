"""The connections of a worker process: to its supervisor, and to every other worker.

One thread reads and writes all of them, so that nothing waits for what the worker is at. What it has read lies in
bounded queues until the worker takes it: of each channel a sender has at most ``_WINDOW`` bytes under way, and gets as
much back as the receiver has taken. Idea: credit-based flow control, H. T. Kung and R. Morris, "Credit-Based Flow
Control for ATM Networks" (1995), which Apache Flink uses too.

Where the supervisor's end closes, the process ends at once: whoever takes its place begins from the last checkpoint.
"""

from __future__ import annotations

import os
import pickle
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, TypeAlias

from onceflow._native import WakeHandle

__all__ = ["ORPHANED", "Channel", "Frame", "Links", "all_messages", "first_message", "packed"]

#: What a worker's process ends with when its supervisor is gone.
ORPHANED = 3

#: Bytes under way in a channel.
_WINDOW = 1 << 20
#: With so many more that wait for it nobody writes on, where that can wait.
_MOST_WAITING = 1 << 18
_HEADER = struct.Struct("<BHI")
_LENGTH = struct.Struct("<I")
_READ = 1 << 20
#: The supervisor hears from a worker so often, whatever that is at.
_ALIVE_EVERY_S = 1.0

#: A channel: the other worker, and which exchange.
Channel: TypeAlias = tuple[int, int]


class Frame(IntEnum):
    """What a frame is."""

    BATCH = 0
    WATERMARK = 1
    BARRIER = 2
    END = 3
    CREDIT = 4


class _Outgoing:
    """What waits to be sent in a channel."""

    __slots__ = ("credit", "frames", "waiting")

    def __init__(self) -> None:
        self.frames: deque[tuple[bytes, bytes]] = deque()
        self.credit = _WINDOW
        self.waiting = 0


class _Connection:
    """One socket, and the bytes that wait on either side of it."""

    __slots__ = ("is_open", "read", "socket", "unsent")

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.unsent: deque[memoryview] = deque()
        self.read = bytearray()
        self.is_open = True


def packed(message: object) -> bytes:
    """A message between a supervisor and a worker as it is sent, with its length before it."""
    data = pickle.dumps(message, protocol=5)
    return _LENGTH.pack(len(data)) + data


def first_message(read: bytearray) -> tuple[Any] | None:
    """The first message that has come whole, taken out of what was read; None if there is none."""
    if len(read) < _LENGTH.size:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(read)[0]
    if len(read) < end:
        return None
    data = bytes(memoryview(read)[_LENGTH.size : end])
    del read[:end]
    # From the other end of a pair of sockets that nobody else has.
    return (pickle.loads(data),)  # noqa: S301


def all_messages(read: bytearray) -> list[Any]:
    """All messages that have come whole, taken out of what was read."""
    found = []
    while (message := first_message(read)) is not None:
        found.append(message[0])
    return found


class Links:
    """The connections of one worker.

    Args:
        control: To the supervisor.
        peers: To the other workers, by their numbers.
        exchanges: How many there are; each is a channel to and from every other worker.
        wake: Set when something has come.
        read: What has been read from the supervisor already.
    """

    def __init__(
        self,
        control: socket.socket,
        peers: Mapping[int, socket.socket],
        exchanges: int,
        wake: WakeHandle,
        read: bytearray,
    ) -> None:
        self._wake = wake
        self._control = _Connection(control)
        self._control.read = read
        self._peers = {rank: _Connection(peer) for rank, peer in peers.items()}
        channels = [(rank, number) for rank in peers for number in range(exchanges)]
        self._outgoing = {channel: _Outgoing() for channel in channels}
        #: What has come in each channel: what it is, and its bytes.
        self._incoming: dict[Channel, deque[tuple[Frame, bytes]]] = {channel: deque() for channel in channels}
        self._messages: deque[Any] = deque(all_messages(read))
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._kick, selectors.EVENT_READ, None)
        for connection in (self._control, *self._peers.values()):
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="onceflow-links", daemon=True).start()

    # -- on the worker's threads ---------------------------------------------------------------

    def tell(self, message: object) -> None:
        """Sends a message to the supervisor."""
        self._put(self._control, packed(message))

    def message(self) -> Any | None:
        """The next message of the supervisor; None if there is none yet."""
        self._check()
        return self._messages.popleft() if self._messages else None

    def send(self, channel: Channel, kind: Frame, payload: bytes = b"") -> None:
        """Appends a frame to a channel."""
        outgoing = self._outgoing[channel]
        head = _HEADER.pack(kind, channel[1], len(payload))
        with self._lock:
            outgoing.frames.append((head, payload))
            outgoing.waiting += len(payload)
            self._move(channel)
        os.eventfd_write(self._kick, 1)

    def receive(self, channel: Channel) -> tuple[Frame, bytes] | None:
        """The next frame of a channel; None if there is none yet. Its sender may send as much again."""
        incoming = self._incoming[channel]
        if not incoming:
            return None
        frame = incoming.popleft()
        if frame[1]:
            head = _HEADER.pack(Frame.CREDIT, channel[1], _LENGTH.size)
            self._put(self._peers[channel[0]], head + _LENGTH.pack(len(frame[1])))
        return frame

    def has_come(self, channel: Channel) -> bool:
        """Whether a frame waits in a channel."""
        return bool(self._incoming[channel])

    def is_full(self, exchange: int) -> bool:
        """Whether so much waits to be sent in an exchange that nothing should be added, where that can wait."""
        return any(
            outgoing.waiting > _MOST_WAITING for (_, number), outgoing in self._outgoing.items() if number == exchange
        )

    def drain(self, timeout_s: float) -> None:
        """Waits until the supervisor has been told everything."""
        until_s = time.monotonic() + timeout_s
        while self._control.unsent and time.monotonic() < until_s:
            time.sleep(0.001)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _put(self, connection: _Connection, data: bytes) -> None:
        with self._lock:
            connection.unsent.append(memoryview(data))
        os.eventfd_write(self._kick, 1)

    def _move(self, channel: Channel) -> None:
        """What there is credit for goes to the connection; a single frame that is larger than the window also does."""
        outgoing, connection = self._outgoing[channel], self._peers[channel[0]]
        while outgoing.frames:
            head, payload = outgoing.frames[0]
            if len(payload) > outgoing.credit and outgoing.credit < _WINDOW:
                return
            outgoing.frames.popleft()
            outgoing.credit -= len(payload)
            outgoing.waiting -= len(payload)
            connection.unsent.append(memoryview(head))
            if payload:
                connection.unsent.append(memoryview(payload))

    # -- on the thread of the connections ------------------------------------------------------

    def _run(self) -> None:
        told_s = time.monotonic()
        try:
            while True:
                ready = self._selector.select(_ALIVE_EVERY_S)
                if time.monotonic() - told_s >= _ALIVE_EVERY_S:
                    told_s = time.monotonic()
                    self.tell(None)
                for key, events in ready:
                    if key.data is None:
                        os.eventfd_read(self._kick)
                        continue
                    if events & selectors.EVENT_READ:
                        self._read(key.data)
                for connection in (self._control, *self._peers.values()):
                    if connection.is_open:
                        self._write(connection)
        except BaseException as error:
            self._error = error
            self._wake.set()

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost(connection)
            return
        connection.read += data
        if connection is self._control:
            self._messages.extend(all_messages(connection.read))
        else:
            self._take_frames(connection)
        self._wake.set()

    def _take_frames(self, connection: _Connection) -> None:
        rank = next(rank for rank, peer in self._peers.items() if peer is connection)
        read, place = connection.read, 0
        while len(read) - place >= _HEADER.size:
            kind, exchange, length = _HEADER.unpack_from(read, place)
            end = place + _HEADER.size + length
            if len(read) < end:
                break
            payload = bytes(memoryview(read)[place + _HEADER.size : end])
            place = end
            if kind == Frame.CREDIT:
                with self._lock:
                    self._outgoing[rank, exchange].credit += _LENGTH.unpack(payload)[0]
                    self._move((rank, exchange))
            else:
                self._incoming[rank, exchange].append((Frame(kind), payload))
        del read[:place]

    def _write(self, connection: _Connection) -> None:
        while True:
            with self._lock:
                pieces = [connection.unsent[number] for number in range(min(len(connection.unsent), 64))]
            if not pieces:
                break
            try:
                sent = connection.socket.sendmsg(pieces)
            except BlockingIOError:
                break
            except OSError:
                self._lost(connection)
                return
            with self._lock:
                while sent:
                    piece = connection.unsent[0]
                    if sent < len(piece):
                        connection.unsent[0] = piece[sent:]
                        break
                    sent -= len(connection.unsent.popleft())
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if self._selector.get_key(connection.socket).events != wanted:
            self._selector.modify(connection.socket, wanted, connection)

    def _lost(self, connection: _Connection) -> None:
        if connection is self._control:
            # Nobody would hear what is done from now on.
            os._exit(ORPHANED)
        # The supervisor sees it too, and ends all.
        connection.is_open = False
        self._selector.unregister(connection.socket)
