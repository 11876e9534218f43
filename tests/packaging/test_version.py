"""The version that users ask for first is that of the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import onceflow


def test_the_version_is_that_of_the_package():
    cargo = tomllib.loads(Path("Cargo.toml").read_text())
    assert onceflow.__version__ == cargo["workspace"]["package"]["version"]
