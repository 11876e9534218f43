"""Names of test cases that are the same in every process, so that tests can be spread over several."""

from __future__ import annotations

import re


def stable(value: object) -> str:
    """The value's repr without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
