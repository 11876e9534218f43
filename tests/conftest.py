"""Rules for all tests: in CI nothing may be skipped without being listed here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import onceflow._native

#: Skips that are right on any machine: name of a test → why. In CI all others are failures.
ALLOWED_SKIPS: dict[str, str] = {}


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
