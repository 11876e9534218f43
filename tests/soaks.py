"""What soaks share: how many and with which seed, a directory that stays where something failed, a bar, a figure."""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

__all__ = ["Soak", "soak"]


@dataclass(frozen=True, slots=True)
class Soak:
    """A soak that goes on.

    Attributes:
        wanted: How many there are to be.
        chance: Decides what is random.
        top: A directory of its own.
    """

    wanted: int
    chance: random.Random
    top: Path
    began_s: float
    console: Console
    bar: Progress
    task: TaskID

    def done(self, count: int) -> None:
        """So many there have been."""
        self.bar.update(self.task, completed=count)

    def tell(self, text: str) -> None:
        """What came of it; ``{}`` stands for the seconds."""
        text = text.format(f"{time.perf_counter() - self.began_s:.0f} s")
        self.console.print(text, highlight=False, soft_wrap=True)


@contextmanager
def soak(description: str, *, name: str, unit: str) -> Iterator[Soak]:
    """Reads the command line, and removes the directory at the end; what failed stays for a look."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("wanted", metavar=unit, type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    console = Console()
    console.print(f"seed {given.seed}", highlight=False)
    top = Path(tempfile.mkdtemp(prefix=f"onceflow-{name}-"))
    with Progress(console=console) as bar:
        task = bar.add_task(unit, total=given.wanted)
        yield Soak(given.wanted, random.Random(given.seed), top, time.perf_counter(), console, bar, task)
    shutil.rmtree(top)
