"""CSV → job → log → job → CSV, both jobs killed at random moments while they run side by side."""

from __future__ import annotations

import random
import time
from pathlib import Path

import chain
from killing import Life, no_survivors

from onceflow._native import Log

__all__ = ["run_killed_chain"]


@no_survivors()
def run_killed_chain(
    root: Path,
    *,
    rows: int,
    kills: int,
    longest_s: float,
    moments: random.Random,
    batch: int = 50,
    pause_s: float = 0.004,
    interval_s: float = 0.005,
) -> int:
    """Runs the chain, kills its jobs so many times in all at most, lets it through, and checks what came out.

    Returns:
        How many times a job was killed.
    """
    chain.write_input(root, rows)
    with Log.open(root / "log") as log:
        log.create_topic("events", partitions=chain.PARTITIONS)

    def start(stage: str, follow: bool) -> Life:
        return Life(lambda: chain.run(stage, root, interval_s=interval_s, pause_s=pause_s, batch=batch, follow=follow))

    done = 0
    first, second = start("first", False), start("second", True)
    while first.poll() is None and done < kills:
        time.sleep(moments.uniform(0, longest_s))
        if moments.random() < 0.5:
            done += first.kill()
            if first.wait() != 0:
                first = start("first", False)
        else:
            done += second.kill()
            second = start("second", True)
    first.wait()
    done += second.kill()
    # Now that everything is in the log, the second job ends where the log does.
    while done < kills:
        second = start("second", False)
        time.sleep(moments.uniform(0, longest_s))
        if not second.kill():
            break
        done += 1
    assert start("second", False).wait() == 0
    found = chain.wrong(root, rows)
    assert found is None, f"{root}: {found}"
    return done
