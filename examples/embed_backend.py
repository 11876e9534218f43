"""Payments counted exactly once, with the state backend in our own loop.

A log of payments was written by producers that retry, so some batches stand in it twice. A worker reads it: a
Deduplicator drops what came before, a table keeps the totals by account, and a checkpoint now and then makes both
durable together with the place in the log. The worker is killed by SIGKILL again and again. The totals must come out
as if every batch had been written once and the worker had never died.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from onceflow.embed import StateBackend

PRODUCERS, BATCHES, BATCH, KILLS = 4, 150, 20, 3


def write_log(path: Path) -> Counter[str]:
    """Writes the log; returns what each account should hold, in cents."""
    chance, expected, lines = random.Random(1), Counter[str](), []
    for first in range(0, BATCHES * BATCH, BATCH):
        for producer in range(PRODUCERS):
            accounts = [f"account-{chance.randrange(50)}" for _ in range(BATCH)]
            cents = [chance.randrange(1, 10_000) for _ in range(BATCH)]
            for account, amount in zip(accounts, cents, strict=True):
                expected[account] += amount
            batch = {"producer": producer, "first": first, "accounts": accounts, "cents": cents}
            # An answer was lost, so the producer sent the batch again.
            lines += [json.dumps(batch)] * chance.choice([1, 1, 1, 2, 3])
    path.write_text("\n".join(lines) + "\n")
    return expected


def work(log: Path, state: Path) -> None:
    """Reads on from where the newest checkpoint left off."""
    with StateBackend.open(state, job="payments") as backend, log.open("rb") as file:
        totals = backend.table("totals", key="str", columns={"cents": "i64", "payments": "i64"})
        seen = backend.deduplicator("producers")
        file.seek(int(backend.positions.get("log", 0)))
        for number, line in enumerate(iter(file.readline, b"")):
            batch = json.loads(line)
            last = batch["first"] + len(batch["cents"]) - 1
            if seen.check_many([batch["producer"]], [0], [batch["first"]], [last]).accepted[0]:
                totals.update(batch["accounts"], {"cents": ("add", batch["cents"]), "payments": ("count", None)})
            if number % 10 == 9:
                backend.checkpoint({"log": file.tell()})  # written while we go on
                print("checkpoint", flush=True)
        backend.checkpoint({"log": file.tell()}).wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        log, state = Path(directory) / "payments.jsonl", Path(directory) / "state"
        expected = write_log(log)
        for life in range(KILLS + 1):
            command = [sys.executable, __file__, str(log), str(state)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
                stop_at = random.randrange(8, 20) if life < KILLS else -1
                for number, _ in enumerate(worker.stdout or ()):
                    if number == stop_at:
                        worker.kill()
            with StateBackend.open(state, job="payments", read_only=True) as backend:
                place = int(backend.positions.get("log", 0))
                print(f"life {life + 1}: exit code {worker.returncode}, byte {place} of {log.stat().st_size}")
                totals = backend.table("totals", key="str", columns={"cents": "i64", "payments": "i64"}).scan()
        found = dict(zip(totals.keys, totals.columns["cents"].tolist(), strict=True))
        assert found == dict(expected), "a payment was lost or counted twice"
        print(f"{totals.columns['payments'].sum()} payments of {len(found)} accounts, each counted once")


if __name__ == "__main__":
    work(*map(Path, sys.argv[1:])) if len(sys.argv) > 1 else main()
