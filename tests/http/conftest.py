"""A server for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A real server in a process of its own, with a durable store of the keys that it has seen."""
    process = ServerProcess(tmp_path)
    yield process
    process.kill()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached without the proxies of the machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
