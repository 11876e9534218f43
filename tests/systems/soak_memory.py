"""The soak of memory: ``make soak-memory MINUTES=60``.

A job counts by key and window from a real Kafka into a real PostgreSQL and Kafka, and nothing happens to it. Its memory
is looked at each second, and judged without the first quarter: neither what it has nor what is its own may grow by more
than a few MiB an hour.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.console import Console
from rich.progress import Progress
from services.kafka import KafkaBroker
from services.postgres import PostgresServer
from steady import Memory, Steady, growth, run_steady

#: Above it memory is not flat: it would be 100 MiB in a day.
_MOST_MIB_PER_HOUR = 4.0


def told(name: str, memory: Memory) -> str:
    """A line of it."""
    return (
        f"  {name}: {memory.start_mib:.1f} MiB after the warm-up, {memory.end_mib:.1f} MiB at the end, "
        f"{memory.most_mib:.1f} MiB at most; slope {memory.mib_per_hour:+.2f} MiB an hour"
    )


def main() -> int:
    """Runs the soak; 1 if memory grows, or the output is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("minutes", type=float, nargs="?", default=60)
    parser.add_argument("--rate", type=float, default=200, help="records a second")
    given = parser.parse_args()
    console = Console()
    root = Path(tempfile.mkdtemp(prefix="onceflow-memory-"))
    with Progress(console=console) as bar, KafkaBroker(root / "kafka") as broker, PostgresServer() as database:
        task = bar.add_task("seconds", total=60 * given.minutes)

        def looked(so_far: Steady) -> None:
            second, mib = so_far.resident_mib[-1]
            bar.update(task, completed=second, description=f"{mib:.0f} MiB")

        found = run_steady(
            root, broker.bootstrap, database.dsn, seconds=60 * given.minutes, rate=given.rate, told=looked
        )
    resident, own = growth(found.resident_mib), growth(found.own_mib)
    is_flat = max(resident.mib_per_hour, own.mib_per_hour) <= _MOST_MIB_PER_HOUR
    lines = [
        f"{found.records:,} records into {found.windows:,} windows in {given.minutes:g} minutes, on "
        f"{found.processor:.0%} of a core: {found.wrong or 'each in table and topic, once'}",
        told("all that is in memory", resident),
        told("without pages of files", own),
        "memory is flat" if is_flat else f"MEMORY GROWS by more than {_MOST_MIB_PER_HOUR:g} MiB an hour",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    if is_flat and not found.wrong:
        shutil.rmtree(root)
        return 0
    # For a look, with what the job has left.
    (root / "resident.json").write_text(json.dumps(found.resident_mib))
    (root / "own.json").write_text(json.dumps(found.own_mib))
    console.print(f"what there is to look at lies in {root}", highlight=False, soft_wrap=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
