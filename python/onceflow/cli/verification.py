"""Verifies a state directory in a child process: LMDB follows what a damaged file says, and may die of it.

The parent starts ``python -m onceflow.cli.verification DIR``; the child prints one JSON object: a report, or the kind
and text of what kept it from reading at all. A child that ends without one was killed by the damage.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, field
from os import environ, pathsep
from pathlib import Path

from onceflow.exceptions import ERRORS_BY_KIND, OnceflowError

__all__ = ["Verdict", "verify_in_child"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found.

    Attributes:
        checkpoints: Those whose record and chunks are all sound.
        chunks: Sound chunks that they refer to.
        bytes: Of those chunks.
        damage: Checkpoint (None: not of one alone) and reason.
    """

    checkpoints: list[int] = field(default_factory=list)
    chunks: int = 0
    bytes: int = 0
    damage: list[tuple[int | None, str]] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """True without damage."""
        return not self.damage


def verify_in_child(directory: Path) -> Verdict:
    """Reads everything.

    Raises:
        StoreError: What keeps the directory from being read, other than damage.
    """
    import msgspec  # noqa: PLC0415 - not needed for the help

    # The child finds the modules that this process has found, and none of the current directory (-P).
    env = {**environ, "PYTHONPATH": pathsep.join(path for path in sys.path if path)}
    child = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-P", "-m", __name__, str(directory)], env=env, stdout=subprocess.PIPE, check=False
    )
    if child.returncode < 0:
        number = -child.returncode
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        if number not in (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
            raise OnceflowError(f"the process that verified {directory} was killed by {name}; nothing is known yet")
        return Verdict(damage=[(None, f"reading the file killed the process that verified it ({name})")])
    try:
        answer = msgspec.json.decode(child.stdout)
    except msgspec.DecodeError:
        raise OnceflowError(
            f"the process that verified {directory} ended with exit code {child.returncode} and no verdict"
        ) from None
    if "kind" in answer:
        raise ERRORS_BY_KIND.get(answer["kind"], OnceflowError)(answer["text"])
    return Verdict(
        answer["checkpoints"],
        answer["chunks"],
        answer["bytes"],
        [(number, reason) for number, reason in answer["damage"]],
    )


def _child(directory: str) -> None:
    import msgspec  # noqa: PLC0415 - see above

    from onceflow._native import verify  # noqa: PLC0415 - only the child maps the file

    # Ctrl-C reaches parent and child; the child goes without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        report = verify(directory)
    except OnceflowError as error:
        answer: dict[str, object] = {"kind": error.kind, "text": str(error)}
    else:
        answer = {
            "checkpoints": report.checkpoints,
            "chunks": report.chunks,
            "bytes": report.bytes,
            "damage": report.damage,
        }
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    _child(sys.argv[1])
