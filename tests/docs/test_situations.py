"""The tests that ``docs/situations.md`` names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_situation_names_tests_that_exist():
    """Kind: a table that promises a proof which was renamed or removed."""
    text = (ROOT / "docs" / "situations.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| situation |" not in line]
    rows = [line for line in rows if not line.startswith("| situation")]
    assert len(rows) > 30
    sources = "\n".join(
        path.read_text() for folder in ("kafka", "postgres") for path in (ROOT / "tests" / folder).glob("test_*.py")
    )
    there = set(re.findall(r"^def (test_\w+)\(", sources, re.MULTILINE))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert not set(named) - there, row
