"""The whole matrix of zombies: ``make zombies``.

Each kind of sink, each point at which a run may be stopped and replaced, each point of the run that replaces it: see
``matrix``. Several processes play, each pair in a directory of its own; what failed stays for a look.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from counting_job import KINDS
from matrix import Tally, pairs_of, play, prepare

from onceflow import _native


def play_share(top: Path, kind: str, number: int, of: int) -> tuple[Tally, list[str]]:
    """Every so manyth pair of a kind; what was wrong."""
    top.mkdir()
    prepared = prepare(top, kind)
    pairs = pairs_of(kind, prepared)
    random.Random(1).shuffle(pairs)
    tally = Tally()
    wrong = []
    for pair in pairs[number::of]:
        try:
            play(top, pair, prepared, tally)
        except (AssertionError, TimeoutError) as error:
            wrong.append(f"{pair}: {error}")
            print(wrong[-1], file=sys.stderr, flush=True)
    return tally, wrong


def main() -> None:
    """Plays the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, action="append", help="of sink; may be repeated; default: all")
    parser.add_argument("--one-of", type=int, default=1, help="play one of so many pairs")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    if not _native.CRASH_POINTS:
        parser.error("build the extension with crash points: make test-build")
    console = Console()
    start = time.perf_counter()
    top = Path(tempfile.mkdtemp(prefix="onceflow-zombies-"))
    total, wrong = Tally(), 0
    for kind in given.kind or KINDS:
        shares = {}
        for process in range(given.processes):
            report = top / f"{kind}-{process}.pickle"
            shares[report] = os.fork()
            if shares[report] == 0:
                of = given.processes * given.one_of
                said = play_share(top / f"{kind}-{process}", kind, process * given.one_of, of)
                report.write_bytes(pickle.dumps(said))
                os._exit(0)
        for report, pid in shares.items():
            if os.waitpid(pid, 0)[1]:
                raise SystemExit(f"a player of {kind} failed; see {top}")
            tally, bad = pickle.loads(report.read_bytes())
            total.add(tally)
            wrong += len(bad)
        console.print(f"{kind}: {total.pairs:,} pairs so far, {wrong} of them wrong", highlight=False)
    if wrong:
        raise SystemExit(f"{wrong} pairs went wrong; what they left is in {top}")
    shutil.rmtree(top)
    ends = ", ".join(f"{end} {count:,}" for end, count in total.ends.most_common())
    console.print(f"how the first and the second run ended: {ends}", highlight=False, soft_wrap=True)
    console.print(
        f"{total.pairs:,} pairs of runs, {total.lives:,} lives, in {time.perf_counter() - start:.0f} s: whoever was "
        "replaced changed nothing, every output exact",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
