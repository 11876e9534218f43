"""The soaks of the embedded log at full size: ``make soak-log``.

Kafka's copier soak with 100,000 numbers, bank transfers for a minute, and two jobs in a chain over a million rows, each
in processes that are killed with SIGKILL. What failed stays in its directory for a look.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

from bank import run_bank
from copier import run_copiers
from killed_chain import run_killed_chain
from rich.console import Console


def copiers(root: Path, seed: int, size: float) -> str:
    report = run_copiers(root, records=int(100_000 * size), transaction=750, pause_s=0.02, seed=seed)
    return (
        f"{report.acknowledged // 2:,} numbers copied by {report.committed} transactions; {report.aborted} aborted, "
        f"{report.abandoned} abandoned and {report.indefinite} cut off in their commit by kills; no anomaly in "
        f"{report.operations:,} operations"
    )


def bank(root: Path, seed: int, size: float) -> str:
    result = run_bank(root, seconds=60 * size, longest_s=2.0, seed=seed)
    return f"{result.views:,} views with the same total, {result.transfers:,} transfers, {result.kills} kills"


def jobs(root: Path, seed: int, size: float) -> str:
    rows = int(1_000_000 * size)
    chance = random.Random(seed)
    kills = run_killed_chain(
        root, rows=rows, kills=60, longest_s=1.5, moments=chance, batch=4096, pause_s=0.05, interval_s=0.1
    )
    return f"{rows:,} rows through two jobs, {kills} kills: every row once, in order"


SOAKS = {"copiers": copiers, "bank": bank, "jobs": jobs}


def main() -> None:
    """Runs the soaks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=SOAKS, help="one of them")
    parser.add_argument("--rounds", type=int, default=1, help="of each, with another seed every time")
    parser.add_argument("--size", type=float, default=1.0, help="of the full size")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    console = Console()
    for seed in range(given.seed, given.seed + given.rounds):
        for name, soak in SOAKS.items():
            if given.only in (None, name):
                root = Path(tempfile.mkdtemp(prefix=f"onceflow-{name}-"))
                start = time.perf_counter()
                said = soak(root, seed, given.size)
                shutil.rmtree(root)
                spent = time.perf_counter() - start
                console.print(f"{name}, seed {seed}: {said} ({spent:.0f} s)", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
