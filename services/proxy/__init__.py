"""A TCP proxy on loopback that cuts connections, and holds back or delays what goes through them.

For tests: what a network may do between two bytes.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable

__all__ = ["Proxy"]

_CHUNK = 1 << 16


class Proxy:
    """Carries bytes between clients and a server; a context manager.

    Args:
        messages: A client's bytes go on as whole messages, for which see ``before``; False: as they come.

    Attributes:
        port: Where clients connect, on loopback.
        target: Port of the server, on loopback.
        before: Called with each message of a client before it goes on, and delays what comes after it there for as long
            as it takes. Messages begin with their length, as four bytes, big-endian.
        cuts: How many connections were cut.
    """

    def __init__(self, *, messages: bool = True) -> None:
        self.target = 0
        self._messages = messages
        self.before: Callable[[bytes], None] | None = None
        self.cuts = 0
        self._moments: random.Random | None = None
        self._bytes = (0, 0)
        self._delays: tuple[random.Random, float] | None = None
        self._flows = threading.Event()
        self._flows.set()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, moments: random.Random, least: int, most: int) -> None:
        """From now on new connections are cut, after so many bytes in a direction, anew for each."""
        self._moments, self._bytes = moments, (least, most)

    def delay(self, moments: random.Random, longest_s: float) -> None:
        """From now on whatever is carried waits before it goes on, for up to so long, anew each time."""
        self._delays = (moments, longest_s)

    def hold(self) -> None:
        """From now on nothing goes through, and nothing is cut: as if a cable were pulled."""
        self._flows.clear()

    def heal(self) -> None:
        """New connections are no longer cut, and all goes through at once."""
        self._moments = self._delays = None
        self._flows.set()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._listener.close()
            for each in self._open:
                _end(each)
        self.heal()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for carry in (self._to_server, self._to_client):
                threading.Thread(target=self._carry, args=(client, server, carry), daemon=True).start()

    def _carry(
        self,
        client: socket.socket,
        server: socket.socket,
        carry: Callable[[socket.socket, socket.socket, int | None], bool],
    ) -> None:
        left = self._moments.randint(*self._bytes) if self._moments else None
        with contextlib.suppress(OSError):
            if carry(client, server, left):
                with self._lock:
                    self.cuts += 1
        for each in (client, server):
            _end(each)

    def _to_client(self, client: socket.socket, server: socket.socket, left: int | None) -> bool:
        """Whether it was cut."""
        while data := server.recv(_CHUNK):
            self._wait()
            client.sendall(data[:left])
            if left is not None and (left := left - len(data)) <= 0:
                return True
        return False

    def _to_server(self, client: socket.socket, server: socket.socket, left: int | None) -> bool:
        waiting = b""
        while data := client.recv(_CHUNK):
            self._wait()
            if not self._messages:
                server.sendall(data[:left])
            else:
                waiting += data[:left]
            while len(waiting) >= 4 and len(waiting) >= (size := 4 + int.from_bytes(waiting[:4], "big")):
                if self.before is not None:
                    self.before(waiting[:size])
                server.sendall(waiting[:size])
                waiting = waiting[size:]
            if left is not None and (left := left - len(data)) <= 0:
                server.sendall(waiting)
                return True
        return False

    def _wait(self) -> None:
        if self._delays is not None:
            moments, longest_s = self._delays
            time.sleep(moments.uniform(0, longest_s))
        self._flows.wait()


def _end(which: socket.socket) -> None:
    with contextlib.suppress(OSError):
        which.shutdown(socket.SHUT_RDWR)
    which.close()
