"""How tests are spread over several processes: some folders stay together, any other test goes where there is room."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Folders whose tests share something that takes long to make: each goes to one process.
TOGETHER = ("kafka", "benches", "packaging")


class FolderScheduling(LoadScopeScheduling):
    """Gives out the folders that stay together as a whole, and other tests one by one.

    In place of the marks of pytest-xdist: for these it appends a group's name to ``_nodeid`` of an item, which pytest
    no longer reads as of 9.2, so that grouped tests went to any process without a word.
    """

    def _split_scope(self, nodeid: str) -> str:
        parts = PurePosixPath(nodeid.partition("::")[0]).parts
        folder = parts[1] if len(parts) > 1 and parts[0] == "tests" else ""
        return folder if folder in TOGETHER else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return FolderScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None
