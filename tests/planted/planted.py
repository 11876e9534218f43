"""Faults that are planted in a copy of the package, and the tests that notice each: ``make planted``.

``faults.toml`` has them: one for each fact that a recovery asks for, each bound, and each message between a job and its
worker. A copy of the package has links to all files but the broken one, so what tests start in processes of their own
is broken as well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "onceflow"
#: Of the tests of one fault; each by itself has less.
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault.

    Attributes:
        name: What is wrong then.
        file: Where, below the package.
        old: What stands there, once.
        new: What is planted in its place.
        tests: The tests that fail then.
    """

    name: str
    file: str
    old: str
    new: str
    tests: list[str]

    @property
    def broken(self) -> str:
        """The file with the fault in it."""
        text = (PACKAGE / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has {text.count(self.old)} places with {self.old!r}, not one")
        return text.replace(self.old, self.new)


def faults() -> list[Fault]:
    """All of them."""
    return [Fault(**fault) for fault in tomllib.loads((Path(__file__).parent / "faults.toml").read_text())["fault"]]


def copy_of_package(top: Path, fault: Fault | None) -> Path:
    """The package with a fault in it, or without one; where it is imported from."""
    shutil.copytree(PACKAGE, top / "onceflow", copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    if fault is not None:
        broken = top / "onceflow" / fault.file
        broken.unlink()
        broken.write_text(fault.broken)
    return top


def play(tests: list[str], fault: Fault | None = None) -> str:
    """The tests with the package as it is then; the one that failed, or nothing."""
    with tempfile.TemporaryDirectory(prefix="onceflow-planted-") as top:
        package = copy_of_package(Path(top), fault)
        pytest = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "--timeout=150",
            *tests,
        ]
        environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                pytest, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the tests do not come to their end: {tests}") from None
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode != 1 or not failed:
        raise RuntimeError(f"the tests could not be run: {done.stdout}{done.stderr}")
    return failed[0]


def main() -> None:
    """Plants each fault by itself."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="those with this in their names")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    chosen = [fault for fault in faults() if given.only in fault.name]

    def one(fault: Fault) -> tuple[Fault, str, float]:
        start = time.perf_counter()
        return fault, play(fault.tests, fault), time.perf_counter() - start

    unnoticed = 0
    with ThreadPoolExecutor(given.processes) as several:
        sound = several.submit(play, sorted({test for fault in chosen for test in fault.tests}))
        for fault, failed, took_s in several.map(one, chosen):
            unnoticed += not failed
            print(f"{'noticed ' if failed else 'UNNOTICED'} {took_s:4.0f} s  {fault.name}: {failed}", flush=True)
        if failed := sound.result():
            sys.exit(f"without any fault a test fails: {failed}")
    print(f"{len(chosen) - unnoticed} of {len(chosen)} faults noticed")
    sys.exit(unnoticed > 0)


if __name__ == "__main__":
    main()
