"""Options and fixtures of the suites: ``pytest benches/bench_hot_path.py --scale quick`` runs one alone."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.figures import Goal, Table
from harness.machine import Load
from harness.scale import FULL, QUICK, Scale
from harness.workload import label

#: Below the checkout, not in /tmp, which is often memory, where a sync costs nothing.
_STATE = Path(__file__).parent.parent / ".data" / "benches"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scale", choices=["full", "quick"], default="full", help="how long to measure")
    parser.addoption("--state-dir", type=Path, default=_STATE, help="where state directories are made")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(0))


def _scale(config: pytest.Config) -> Scale:
    return QUICK if config.getoption("--scale") == "quick" else FULL


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of ``keys`` runs for those of its module's ``SIZES`` that the scale measures."""
    if "keys" in metafunc.fixturenames:
        sizes = _scale(metafunc.config).keys(*metafunc.module.SIZES)
        metafunc.parametrize("keys", sizes, ids=label)


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Scale:
    """How long to measure."""
    return _scale(request.config)


@pytest.fixture
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on the disk that is measured."""
    root: Path = request.config.getoption("--state-dir")
    root.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=root))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def record(benchmark: Any) -> Iterator[Callable[..., None]]:
    """``record(table, values, *goals)`` adds a row to a table."""
    tables: dict[str, dict[str, Any]] = {}
    load = Load()

    def add(table: Table, values: dict[str, Any], *goals: Goal) -> None:
        kept = tables.setdefault(table.name, table.as_json())
        kept["rows"].append(table.row(values, *goals))

    gc.collect()
    yield add
    benchmark.extra_info["tables"] = list(tables.values())
    benchmark.extra_info["cpu_used_by_others"] = load.others()
