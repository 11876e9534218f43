"""As many transactions of a producer as its epoch can count, and its id taken as often: ``make soak-transactions``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from many_transactions import run_many
from services.kafka import KafkaBroker
from soaks import soak


def main() -> None:
    """Runs the soak."""
    with (
        soak(__doc__ or "", name="transactions", unit="transactions") as transactions,
        KafkaBroker(transactions.top / "broker") as broker,
    ):
        found = run_many(broker, transactions.wanted // 2, transactions.wanted // 2, transactions.done)
        for partition, numbers in found.read.items():
            assert numbers == list(range(partition, found.committed, 2)), f"partition {partition}"
        assert found.last.producer != found.first.producer, f"the producer is still {found.last}"
        transactions.tell(
            f"{found.committed:,} transactions of one sink, {found.aborted:,} that were aborted, and the sink's id "
            f"taken as often in {{}}: producer {found.first.producer} with epoch {found.first.epoch} became producer "
            f"{found.last.producer} with epoch {found.last.epoch}; each record was read once, in order, up to offsets "
            f"of {found.end:,} in all"
        )


if __name__ == "__main__":
    main()
