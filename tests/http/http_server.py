"""A server that honours idempotency keys, durably, and misbehaves when it is told to: python http_server.py DB PORT.

What it did lies in an SQLite database: one effect for each key, in the transaction that notes the key, so that it may
be killed at any moment. A key that comes again has no effect; with another body it is answered 422, as the draft says.

``POST /script`` sets what is done with the next requests: a list of actions, each for one request.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """One connection, which it keeps."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        if self.command == "POST" and "Content-Length" not in self.headers:
            # Its connection was cut within the headers, and this library takes that for their end.
            return self.cut()
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            # Its client was killed within it.
            return self.cut()
        if self.path == "/script":
            self.server.script = json.loads(body)
            return self.answer(200)
        with self.server.lock:
            script = self.server.script
            action = script["next"].pop(0) if script.get("next") else script.get("always", {})
            self.server.under_way += 1
            self.server.db.execute(
                "insert into requests (path, key, headers, body, under_way) values (?, ?, ?, ?, ?)",
                (
                    self.path,
                    self.key(),
                    json.dumps({name.lower(): value for name, value in self.headers.items()}),
                    body,
                    self.server.under_way,
                ),
            )
        try:
            self.act(action, body)
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    do_PUT = do_PATCH = do_DELETE = do_POST

    def act(self, action: dict, body: bytes) -> None:
        time.sleep(action.get("delay_s", 0))
        if action.get("cut") == "before":
            return self.cut()
        status = 200
        if "status" in action and body not in map(str.encode, action.get("but", [])):
            status = action["status"]
        else:
            status = self.effect(body)
        if action.get("cut") == "after":
            return self.cut()
        if action.get("drip"):
            # An answer that never comes to its end.
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                for _ in range(1_000_000):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            return None
        return self.answer(status, action.get("headers", {}), action.get("text", ""), action.get("date"))

    def key(self) -> str | None:
        """The key as it was sent, in its quotation marks."""
        return self.headers.get("Idempotency-Key")

    def effect(self, body: bytes) -> int:
        """Does what the request is for, unless it was done; the status to answer."""
        with self.server.lock:
            if self.key() is None:
                return 400
            known = self.server.db.execute("select body from effects where key = ?", (self.key(),)).fetchone()
            if known is None:
                self.server.db.execute("insert into effects (key, body) values (?, ?)", (self.key(), body))
                return 201
            return 200 if known[0] == body else 422

    def answer(
        self, status: int, headers: dict[str, str] | None = None, text: str = "", date: str | None = None
    ) -> None:
        data = text.encode()
        self.send_response_only(status)
        self.send_header("Date", date or self.date_time_string())
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def cut(self) -> None:
        """Ends the connection without an answer."""
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The server."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.lock = threading.RLock()
        self.script: dict = {}
        self.under_way = 0
        # A commit survives a kill of this process; the machine itself is not under test.
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = off")
        self.db.execute("create table if not exists effects (number integer primary key, key text unique, body blob)")
        self.db.execute(
            "create table if not exists requests (number integer primary key, path, key, headers, body, under_way)"
        )

    def handle_error(self, *_: object) -> None:
        # Clients are killed, and connections cut.
        pass


if __name__ == "__main__":
    server = Server(sys.argv[1], int(sys.argv[2]))
    print("ready", flush=True)
    server.serve_forever()
