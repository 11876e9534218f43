"""A server for each test."""

from __future__ import annotations

import gc
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The client leaves some sockets of requests that were given up to the garbage collector."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


@pytest.fixture(autouse=True)
def no_socket_is_left_to_other_tests() -> Iterator[None]:
    """It would be told of in a test of something else."""
    yield
    gc.collect()
