from __future__ import annotations

from collections.abc import Iterator

import pytest
from databases import KINDS, Database, database


@pytest.fixture(params=KINDS)
def db(request, tmp_path) -> Iterator[Database]:
    """An empty database of each kind."""
    with database(request.param, tmp_path, request) as made:
        yield made
