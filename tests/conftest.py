"""Rules for all tests: in CI nothing may be skipped without being listed here."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from scheduling import pytest_xdist_make_scheduler  # noqa: F401 - a hook
from services.kafka import KafkaBroker
from services.mariadb import MariaDBServer
from services.postgres import PostgresServer
from services.process import ServerUnavailableError
from services.redis import RedisServer

import onceflow._native

#: Skips that are right on any machine: name of a test → why. In CI all others are failures.
ALLOWED_SKIPS: dict[str, str] = dict.fromkeys(
    (
        "test_full_disk",
        "test_full_disk_in_a_job",
        "test_read_only_file_system[embedded]",
        "test_read_only_file_system[run]",
    ),
    "mounting a small disk needs root and loop devices; the Rust tests fill a disk by a limit of the process",
)


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and so would the processes that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """A name with an address in it differs by process, and a run on several processes ends before it begins."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid} has an address in its name; give its parameters ids of words")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("CI") and report.skipped and item.name not in ALLOWED_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and in CI nothing is: {report.longrepr}"


@pytest.fixture(scope="session")
def crash_points():
    """The extension must have been built with crash points."""
    assert onceflow._native.CRASH_POINTS, "build the extension with crash points: make test-build"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory that does not exist yet."""
    return tmp_path / "state"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A real Kafka broker, one for all tests: use topics and ids of your own."""
    try:
        broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with broker:
        yield broker


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, one for all tests: ``postgres_dsn`` is a database of one's own."""
    try:
        # What a crash of the machine would lose is no test's question.
        server = PostgresServer(settings={"fsync": "off"})
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def postgres_dsn(postgres: PostgresServer) -> Iterator[str]:
    """DSN of an empty database of the test's own, as its superuser."""
    with postgres.database(f"test_{secrets.token_hex(6)}") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    """A real MariaDB server, one for all tests: ``mariadb_url`` is a database of one's own."""
    try:
        # What a crash of the machine would lose is no test's question.
        server = MariaDBServer(settings={"innodb-flush-log-at-trx-commit": "2"})
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def mariadb_url(mariadb: MariaDBServer) -> Iterator[str]:
    """URL of an empty database of the test's own."""
    with mariadb.database(f"test_{secrets.token_hex(6)}") as url:
        yield url


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """A real Redis server, one for all tests: ``redis_url`` is a database of one's own."""
    try:
        server = RedisServer()
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def redis_url(redis: RedisServer) -> str:
    """URL of an empty database of the test's own."""
    return redis.database()
