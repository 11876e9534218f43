"""Programs of others in an environment of their own, so that what they need does not meet what this project needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

__all__ = ["Peer", "PeerUnavailableError"]

_HOME = Path(__file__).resolve().parents[2] / ".data" / "peers"
_PROGRAMS = Path(__file__).resolve().parents[1] / "peers"


class PeerUnavailableError(Exception):
    """It cannot be installed here."""


class Peer:
    """A library, installed when it is first asked for.

    Args:
        name: Of its environment.
        packages: What pip installs.

    Raises:
        PeerUnavailableError: pip cannot.
    """

    def __init__(self, name: str, packages: list[str]) -> None:
        self._home = _HOME / name
        self._python = self._home / "bin" / "python"
        done = self._home / "installed"
        if done.exists():
            return
        venv.create(self._home, clear=True, with_pip=True)
        install = [self._python, "-m", "pip", "install", "--quiet", *packages]
        ran = subprocess.run(install, check=False, capture_output=True, text=True)
        if ran.returncode != 0:
            raise PeerUnavailableError(f"{name} cannot be installed: {ran.stderr.strip()[-500:]}")
        done.touch()

    def version(self, package: str) -> str:
        """Of one that is installed."""
        program = "import sys, importlib.metadata as found; print(found.version(sys.argv[1]))"
        ran = subprocess.run([self._python, "-c", program, package], check=True, capture_output=True, text=True)
        return ran.stdout.strip()

    def run(self, program: str, *arguments: str, timeout_s: float) -> Any:
        """What a program of ``benches/peers`` prints last, as JSON.

        Raises:
            RuntimeError: It has failed.
        """
        command = self._command(program, arguments)
        ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s, env=_env())
        if ran.returncode != 0:
            sys.stderr.write(ran.stderr[-4000:])
            raise RuntimeError(f"{program} ended with {ran.returncode}")
        return json.loads(ran.stdout.splitlines()[-1])

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A program of ``benches/peers`` that runs until it is killed."""
        return subprocess.Popen(self._command(program, arguments), env=_env())

    def _command(self, program: str, arguments: tuple[str, ...]) -> list[str]:
        return [str(self._python), str(_PROGRAMS / program), *arguments]


def _env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
