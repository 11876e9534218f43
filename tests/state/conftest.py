"""A backend for tests of tables: one a module, since opening syncs to the disk; emptied after each test."""

from __future__ import annotations

import pytest

from onceflow.embed import StateBackend


@pytest.fixture(scope="module")
def module_backend(tmp_path_factory):
    with StateBackend.open(tmp_path_factory.mktemp("tables") / "state") as backend:
        yield backend


@pytest.fixture
def backend(module_backend):
    """A backend without tables."""
    yield module_backend
    for name in module_backend.tables():
        module_backend.drop_table(name)
