"""Changes of accounts sent to a server, each of them once, although the job is killed again and again.

The changes lie in a topic of the embedded log. The job makes a request of each; the server books them, and keeps each
request's Idempotency-Key in the transaction that books it. Now and then it books and cuts the line before its answer.
The balances must come out as if every change had been sent once.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from onceflow import Dataflow, Log, Producer, run
from onceflow.connectors.http import HttpSink
from onceflow.connectors.log import LogSource
from onceflow.exceptions import FinishedJobWarning

CHANGES, ACCOUNTS, KILLS = 300, 20, 3


def write_changes(path: Path) -> Counter[str]:
    """Writes the topic; returns the balances that come of it, in cents."""
    chance, expected = random.Random(1), Counter[str]()
    with Log.open(path) as log, Producer(log) as producer:
        log.create_topic("changes", partitions=2, exist_ok=True)
        for _ in range(CHANGES):
            account, cents = f"account-{chance.randrange(ACCOUNTS)}", chance.randrange(-500, 1000)
            expected[account] += cents
            producer.produce("changes", key=account, value=json.dumps({"account": account, "cents": cents}))
    return expected


class Bank(BaseHTTPRequestHandler):
    """Books a change once, by its key."""

    protocol_version = "HTTP/1.1"
    lock, chance = threading.Lock(), random.Random(2)
    db: sqlite3.Connection
    requests = 0

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # The client was killed within its request.
            self.close_connection = True
            return
        change = json.loads(body)
        with self.lock, self.db as transaction:
            Bank.requests += 1
            known = "insert or ignore into keys values (?)"
            if transaction.execute(known, (self.headers["Idempotency-Key"],)).rowcount:
                book = "insert into balances values (?, ?) on conflict do update set cents = cents + excluded.cents"
                transaction.execute(book, (change["account"], change["cents"]))
        if self.chance.random() < 0.02:
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Server(ThreadingHTTPServer):
    """Clients that are killed are no news."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Says nothing."""


def slowly(changes: list[Any]) -> list[Any]:
    """As slowly as changes come while a job runs."""
    time.sleep(0.05)
    return changes


def work(top: Path, url: str) -> None:
    """The job."""
    flow = Dataflow("booking")
    changes = flow.source("changes", LogSource(top / "log", "changes", decode="json"))
    changes.map_batch(slowly).sink("bank", HttpSink(url, key="account", concurrency=4, backoff_s=0.01))
    # The last life may find that nothing was left but to send again.
    warnings.simplefilter("ignore", FinishedJobWarning)
    run(flow, top / "state", checkpoint_interval_s=0.05, batch_size=20)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as resources:
        top = Path(name)
        expected = write_changes(top / "log")
        Bank.db = sqlite3.connect(top / "bank.sqlite", check_same_thread=False)
        resources.callback(Bank.db.close)
        Bank.db.execute("create table keys (key primary key)")
        Bank.db.execute("create table balances (account primary key, cents)")
        server = resources.enter_context(Server(("127.0.0.1", 0), Bank))
        resources.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, __file__, str(top), f"http://127.0.0.1:{server.server_port}/changes"]
        for life in range(KILLS):
            job = subprocess.Popen(command)
            until = (life + 1) * CHANGES // (KILLS + 1)
            while Bank.requests < until:
                time.sleep(0.01)
            job.kill()
            job.wait()
            print(f"killed after {Bank.requests} requests")
        subprocess.run(command, check=True)
        assert dict(Bank.db.execute("select account, cents from balances")) == dict(expected)
        print(f"{CHANGES} changes of {ACCOUNTS} accounts, each booked once, by {Bank.requests} requests")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
