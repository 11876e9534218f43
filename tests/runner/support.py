"""Input of the kill tests, lives of their job, and what it should write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from onceflow.connectors.files import read_parts

JOB = Path(__file__).with_name("killed_job.py")
ROWS = 4000


def write_input(root: Path, rows: int = ROWS) -> None:
    """Two partitions of rows in nearly ascending time."""
    root.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        lines = ["id,user,amount,at"]
        for number in range(part, rows, 2):
            second = number // 10 - number % 3
            at = f"2024-01-01T{max(second, 0) // 3600:02d}:{max(second, 0) // 60 % 60:02d}:{max(second, 0) % 60:02d}Z"
            lines.append(f"{number},u{number * 7919 % 23},{number % 100},{at}")
        (root / f"in-{part}.csv").write_text("\n".join(lines) + "\n")


def life(root: Path, guarantee: str, kind: str, *, crash_at: str | None = None, interval_ms: float = 2) -> int:
    """One life of the job; its exit code (-9 if it was killed)."""
    env = {name: value for name, value in os.environ.items() if name not in ("CRASH_AT", "STOP_AT")}
    if crash_at is not None:
        env["CRASH_AT"] = crash_at
    return subprocess.run(
        [sys.executable, str(JOB), str(root), guarantee, kind, str(interval_ms)], env=env, check=False, timeout=120
    ).returncode


def outputs(root: Path) -> dict[str, bytes]:
    """What the transactional job shows."""
    return {path.name: read_parts(path) for path in sorted((root / "out").iterdir())}


def ids(root: Path) -> list[int]:
    """Ids of the rows that the plain or idempotent job wrote, in order."""
    path = root / "out" / "plain.txt"
    return [int(line.split(",")[0]) for line in path.read_text().splitlines()] if path.exists() else []
