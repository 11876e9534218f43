"""The soak of a job with several kinds of sinks: ``make crash-mixed``.

A job reads a log while producers write to it, draws a random value for each record, and writes to CSV files, Parquet
files, a topic, and into SQLite by upserts and through an outbox. Its lives, and those of the producers, are killed,
stopped, replaced, woken and ended at random moments. In the end each input must be in each sink once, and all sinks
must show the same value. What failed stays in its directory for a look.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[1]))

from mixed import LIVES_A_JOB, Tally, run_mixed


def main() -> None:
    """Runs the soak."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("lives", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    console = Console()
    console.print(f"seed {given.seed}", highlight=False)
    chance = random.Random(given.seed)
    start = time.perf_counter()
    top = Path(tempfile.mkdtemp(prefix="onceflow-mixed-"))
    tally = Tally()
    with Progress(console=console) as progress:
        task = progress.add_task("lives", total=given.lives)
        while tally.lives < given.lives:
            root = top / str(tally.jobs)
            run_mixed(root, lives=LIVES_A_JOB, chance=chance, tally=tally)
            shutil.rmtree(root)
            progress.update(task, completed=tally.lives)
    shutil.rmtree(top)
    console.print(
        f"{tally.lives:,} lives of {tally.jobs:,} jobs and their producers in {time.perf_counter() - start:.0f} s, "
        f"{tally.ends['killed']:,} killed, {tally.woken:,} stopped and woken: {tally.inputs:,} inputs, each in each "
        "of five sinks once, with the same random value",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
