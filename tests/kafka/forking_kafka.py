"""A job whose function forks at each batch: python forking_kafka.py BOOTSTRAP ROOT NAME WAY; says how children end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from counting_kafka import Job

ENDS: list[int] = []


def fork(way: str) -> None:
    pid = os.fork()
    if pid:
        ENDS.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    elif way == "_exit":
        os._exit(7)
    elif way == "exit":
        sys.exit(7)
    else:
        raise ValueError("a child's own")


if __name__ == "__main__":
    bootstrap, root, name, way = sys.argv[1:]
    Job(bootstrap, Path(root), name, {}).run(on_batch=lambda: fork(way))
    print(*ENDS)
