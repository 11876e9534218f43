"""The soak: kills a job at N random moments and compares what it wrote (``make crash N=5000``).

Each life of the job is a process of its own, forked from this one so that a life begins in milliseconds, and killed
with SIGKILL at a random moment. After some kills a job is let through to its end; its output must then be byte for byte
that of a run which nobody disturbed, its state directory must verify, and no staged file may be left.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from functools import partial
from pathlib import Path

from lives import Life, killed_until_done
from soaks import soak

sys.path.insert(0, str(Path(__file__).with_name("runner")))

from killed_job import build
from support import outputs, write_input

import onceflow as of
from onceflow._native import verify
from onceflow.exceptions import FinishedJobWarning

KILLS_A_JOB = 25
ROWS = 4000
#: A life of the job takes about twice as long, so most kills fall within one, some before its first checkpoint.
LONGEST_S = 0.15


def live(root: Path) -> None:
    """One life of the job."""
    # The life before may have been killed after its last checkpoint.
    warnings.simplefilter("ignore", FinishedJobWarning)
    of.run(build(root, "transactional"), root / "state", checkpoint_interval_s=0.001, batch_size=50)


def let_through(root: Path) -> None:
    """A life that nobody kills."""
    life = Life(partial(live, root))
    if life.wait() != "done":
        raise SystemExit(f"a life of the job in {root} ended with {life.end}: {life.error}")


def check(root: Path, calm: dict[str, bytes]) -> None:
    """The job went through: is everything as it must be?"""
    if outputs(root) != calm:
        raise SystemExit(f"{root}: the output differs from that of the undisturbed run")
    left = [path for path in root.glob("out/*/.onceflow/*") if path.name.startswith(("open-", "staged-"))]
    if left:
        raise SystemExit(f"{root}: staged files were left behind: {left}")
    damage = verify(root / "state").damage
    if damage:
        raise SystemExit(f"{root}: the state directory is damaged: {damage}")


def main() -> None:
    """Runs the soak."""
    with soak(__doc__ or "", name="soak", unit="kills") as going:
        calm_root = going.top / "calm"
        write_input(calm_root, ROWS)
        let_through(calm_root)
        calm = outputs(calm_root)
        jobs = kills = 0
        while kills < going.wanted:
            jobs += 1
            root = going.top / str(jobs)
            write_input(root, ROWS)
            most = min(KILLS_A_JOB, going.wanted - kills)
            killed = killed_until_done(partial(live, root), longest_s=LONGEST_S, at_most=most, moments=going.chance)
            kills += killed
            going.done(kills)
            if killed == most:
                let_through(root)
            check(root, calm)
            shutil.rmtree(root)
    going.tell(
        f"{kills:,} kills by SIGKILL over {jobs:,} jobs in {{}}: every output byte for byte that of an undisturbed run"
    )


if __name__ == "__main__":
    main()
