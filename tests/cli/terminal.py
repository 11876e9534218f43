"""A pseudo terminal: what a program shows to people, and what they type."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

#: Makes the terminal the controlling one, so that Ctrl-C is a signal, and becomes the command.
_BEGIN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program whose standard streams are a terminal."""

    def __init__(self, command: list[str], directory: Path, env: dict[str, str], columns: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, *command],
            cwd=directory,
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""

    @property
    def text(self) -> str:
        """Everything shown, without colours and movements."""
        return _ESCAPE.sub("", self.raw).replace("\r", "")

    def read_until(self, wanted: str, timeout_s: float = 30.0) -> None:
        """Reads on until the text contains this."""
        until = time.monotonic() + timeout_s
        while wanted not in self.text:
            assert time.monotonic() < until, f"{wanted!r} was not shown:\n{self.text}"
            assert self._read(0.1), f"ended without {wanted!r}:\n{self.text}"

    def type(self, keys: str) -> None:
        """As if a user pressed these keys."""
        os.write(self._master, keys.encode())

    def wait(self, timeout_s: float = 60.0) -> int:
        """Reads to the end; the exit code."""
        until = time.monotonic() + timeout_s
        while self._read(0.1):
            assert time.monotonic() < until, f"it does not end:\n{self.text}"
        return self._process.wait(30)

    def close(self) -> None:
        """Kills what still runs."""
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _read(self, timeout_s: float) -> bool:
        if select.select([self._master], [], [], timeout_s)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return False
            self.raw += data.decode(errors="replace")
            return bool(data)
        return True
