"""The soak of a job with several kinds of sinks: ``make crash-mixed``.

A job reads a log while producers write to it, draws a random value for each record, and writes to CSV files, Parquet
files, a topic, and into SQLite by upserts and through an outbox. Its lives, and those of the producers, are killed,
stopped, replaced, woken and ended at random moments. In the end each input must be in each sink once, and all sinks
must show the same value. What failed stays in its directory for a look.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mixed import LIVES_A_JOB, Tally, run_mixed
from soaks import soak


def main() -> None:
    """Runs the soak."""
    tally = Tally()
    with soak(__doc__ or "", name="mixed", unit="lives") as going:
        while tally.lives < going.wanted:
            root = going.top / str(tally.jobs)
            run_mixed(root, lives=LIVES_A_JOB, chance=going.chance, tally=tally)
            shutil.rmtree(root)
            going.done(tally.lives)
    going.tell(
        f"{tally.lives:,} lives of {tally.jobs:,} jobs and their producers in {{}}, {tally.ends['killed']:,} killed, "
        f"{tally.woken:,} stopped and woken: {tally.inputs:,} inputs, each in each of five sinks once, with the same "
        "random value"
    )


if __name__ == "__main__":
    main()
