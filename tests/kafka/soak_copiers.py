"""Kafka's own soak at full size, through jobs: ``make soak-copiers NUMBERS=100000``. What failed stays for a look."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from copiers import run_copiers
from services.kafka import KafkaBroker
from soaks import soak


def main() -> None:
    """Runs the soak."""
    with (
        soak(__doc__ or "", name="copiers", unit="numbers") as copiers,
        KafkaBroker(copiers.top / "broker") as broker,
    ):
        copied = run_copiers(
            copiers.top / "soak",
            broker,
            numbers=copiers.wanted,
            pace_s=0.1,
            chance=copiers.chance,
            told=copiers.done,
        )
        copiers.tell(
            f"{copied.numbers:,} numbers through two jobs in a chain in {{}}: {copied.kills} kills of jobs and broker, "
            f"{copied.taken} times somebody took the id of a job, {copied.aborted:,} records in transactions that were "
            f"aborted; each number once and in order in each topic, no anomaly in {copied.operations:,} operations"
        )


if __name__ == "__main__":
    main()
