"""The soak: kills a job at N random moments and compares what it wrote (``make crash N=5000``).

Each life of the job is a process of its own, forked from this one so that a life begins in milliseconds, and killed
with SIGKILL at a random moment. After some kills a job is let through to its end; its output must then be byte for byte
that of a run which nobody disturbed, its state directory must verify, and no staged file may be left.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).with_name("runner")))

from killed_job import build
from support import outputs, write_input

import onceflow as of
from onceflow._native import verify

KILLS_A_JOB = 25
ROWS = 4000
#: A life of the job takes about twice as long, so most kills fall within one, some before its first checkpoint.
LONGEST_S = 0.15


def live(root: Path, kill_after_s: float | None) -> bool:
    """One life of the job; true if it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            of.run(build(root, "transactional"), root / "state", checkpoint_interval_s=0.001, batch_size=50)
            os._exit(0)
        except BaseException as error:
            print(f"the job failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a life of the job in {root} ended with {code}")
    return code == 0


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    console = Console()
    console.print(f"seed {arguments.seed}", highlight=False)
    moments = random.Random(arguments.seed)
    start = time.perf_counter()
    jobs = kills = 0
    # Not a temporary directory that cleans up after itself: what failed stays for a look.
    top = Path(tempfile.mkdtemp(prefix="onceflow-soak-"))
    write_input(top / "calm", ROWS)
    live(top / "calm", None)
    calm = outputs(top / "calm")
    with Progress(console=console) as progress:
        task = progress.add_task("kills", total=arguments.kills)
        while kills < arguments.kills:
            jobs += 1
            root = top / str(jobs)
            write_input(root, ROWS)
            for _ in range(min(KILLS_A_JOB, arguments.kills - kills)):
                if live(root, moments.uniform(0, LONGEST_S)):
                    break
                kills += 1
                progress.advance(task)
            else:
                live(root, None)
            check(root, calm)
            shutil.rmtree(root)
    shutil.rmtree(top)
    console.print(
        f"{kills:,} kills by SIGKILL over {jobs:,} jobs in {time.perf_counter() - start:.0f} s: every output byte for "
        "byte that of an undisturbed run",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
