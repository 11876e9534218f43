"""The soak of real servers: ``make soak-services MINUTES=30``.

One job reads a topic and writes to Kafka, PostgreSQL, SQLite, Redis and HTTP, while itself and its servers are killed,
stopped, replaced and woken, and connections are cut, held back and delayed: half of the time beside one broker, half
beside a cluster of three. A second job is never killed, and its memory is looked at. In the end the history checker
and the vendors' own clients say what was lost, doubled or contradicts itself. What failed stays for a look.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.console import Console
from rich.progress import Progress
from rough import Brokers, Figures, Wrong, run_rough

BROKERS = {"one": "one broker", "three": "three brokers"}


def told(figures: Figures, seed: int) -> str:
    """Everything of a part, in lines."""
    start, end, most = figures.memory_mib
    totals = sum(figures.wrong.values(), start=Wrong())
    happened = ", ".join(f"{what}: {count:,}" for what, count in sorted(figures.happened.items()))
    stopped = ", ".join(f"{what}: {count}" for what, count in sorted(figures.stopped.items())) or "none"
    lines = [
        f"{BROKERS[figures.brokers]}, seed {seed}: {figures.records:,} records in {figures.seconds:.0f} s",
        *([f"  {figures.repeated} of them written twice by the client that feeds them"] if figures.repeated else []),
        f"  happened: {happened}",
        f"  runs that ended by themselves because their servers were away: {stopped}",
        f"  lost {totals.lost}, doubled {totals.doubled}, contradicting {totals.contradicting}, in "
        f"{len(figures.wrong)} looks at targets; {figures.operations:,} operations in the history, "
        f"{'no anomaly' if not figures.anomalies else 'ANOMALIES'}",
        f"  memory of the job that is not killed: {start:.0f} MiB soon after its start, {end:.0f} MiB at the end, "
        f"{most:.0f} MiB at most",
    ]
    lines += [f"  {name}: {wrong}" for name, wrong in figures.wrong.items() if wrong != Wrong()]
    return "\n".join([*lines, *([figures.anomalies[:4000]] if figures.anomalies else [])])


def main() -> int:
    """Runs the soak; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("minutes", type=float, nargs="?", default=30)
    parser.add_argument("--brokers", choices=["one", "three"], help="only so many")
    parser.add_argument("--rate", type=float, default=100, help="records a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    console = Console()
    kinds: list[Brokers] = [given.brokers] if given.brokers else ["one", "three"]
    seconds = given.minutes * 60 / len(kinds)
    exact = True
    for kind in kinds:
        root = Path(tempfile.mkdtemp(prefix="onceflow-services-"))
        console.print(f"{kind}, seed {given.seed}, in {root}", highlight=False)
        with Progress(console=console) as bar:
            task = bar.add_task("happenings", total=None)
            figures = run_rough(
                root,
                brokers=kind,
                seconds=seconds,
                rate=given.rate,
                seed=given.seed,
                told=lambda so_far, bar=bar, task=task: bar.update(task, completed=so_far.happened.total()),
            )
        console.print(told(figures, given.seed), highlight=False, soft_wrap=True)
        if figures.is_exact:
            shutil.rmtree(root)
        exact = exact and figures.is_exact
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
