"""The list of planted faults fits the code, and planting one works: ``make planted`` plants them all."""

from __future__ import annotations

import ast

import pytest
from planted import ROOT, Fault, faults, play


def names(path):
    """The tests of a file, and those of its classes."""
    return {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.name)
def test_a_fault_can_be_planted_and_its_tests_are_there(fault):
    """Kind: the code has changed, so that what was planted is planted no more, and nobody notices."""
    compile(fault.broken, fault.file, "exec")
    for test in fault.tests:
        path, _, name = test.partition("::")
        assert name.partition("[")[0] in names(path)


def test_a_planted_fault_is_noticed_and_nothing_else_is(tmp_path):
    """Kind: the tests run with the package as it is, whatever is planted, or fail for another reason."""
    test = tmp_path / "test_of_a_package.py"
    test.write_text(
        "import subprocess, sys\n"
        "WORD = 'from onceflow.runtime.channel import _CAPACITY; print(_CAPACITY)'\n\n\n"
        "def test_here():\n    from onceflow.runtime.channel import _CAPACITY\n\n    assert _CAPACITY == 2\n\n\n"
        "def test_in_a_process_of_its_own():\n"
        "    assert subprocess.check_output([sys.executable, '-c', WORD]).strip() == b'2'\n"
    )
    fault = Fault("a bound", "runtime/channel.py", "_CAPACITY = 2", "_CAPACITY = 7", [str(test)])
    assert play(fault.tests) == ""
    for name in ("test_here", "test_in_a_process_of_its_own"):
        assert name in play([f"{test}::{name}"], fault)
