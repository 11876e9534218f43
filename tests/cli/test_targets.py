"""Which dataflow a command line names."""

from __future__ import annotations

import importlib
import sys

import pytest

from onceflow.cli.target import TargetError, load_target


@pytest.fixture(autouse=True)
def imports(monkeypatch, home):
    """Imports of a test are undone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(home)
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(home)):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.parametrize("target", ["job:flow", "job:slow", "job.py:flow", "./job.py:slow", "jobs/nightly.py:flow"])
def test_found(home, target):
    (home / "jobs").mkdir()
    (home / "jobs" / "nightly.py").write_text("import beside\nflow = beside.flow\n")
    (home / "jobs" / "beside.py").write_text("import onceflow\nflow = onceflow.Dataflow('totals')\n")
    assert load_target(target).name == "totals"


def test_an_attribute_of_an_attribute(home):
    (home / "nested.py").write_text("import job\n")
    assert load_target("nested:job.flow").name == "totals"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("job.py", "write module:attribute"),
        (":flow", "write module:attribute"),
        ("job:", "write module:attribute"),
        ("missing:flow", "no module 'missing'"),
        ("missing.deep:flow", "no module 'missing'"),
        ("missing.py:flow", "is not a file"),
        ("in.csv/x:flow", "is not a file"),
        ("./in.csv:flow", "must end in .py"),
        ("job.py:nothing", "no 'nothing'; it has flow"),
        ("job.py:number", "of type int"),
        ("job.py:with_argument", "without arguments"),
        ("job.py:HERE.exists", "returned an object of type bool"),
    ],
)
def test_refused_saying_what_is_there(target, message):
    with pytest.raises(TargetError, match=message):
        load_target(target)


@pytest.mark.parametrize("body", ["1 / 0", "import nowhere", "raise SystemExit(0)", "def f(:"])
def test_code_that_fails_is_the_cause(home, body):
    (home / "broken.py").write_text(body + "\n")
    for target in ("broken.py:flow", "broken:flow"):
        with pytest.raises(TargetError, match="cannot be loaded") as caught:
            load_target(target)
        assert caught.value.__cause__ is not None
        assert "broken" not in sys.modules


def test_a_function_that_fails_is_the_cause(home):
    (home / "broken.py").write_text("def make():\n    raise KeyError('x')\n")
    with pytest.raises(TargetError, match=r"make\(\) failed") as caught:
        load_target("broken.py:make")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_file_never_shadows_a_module_of_python(home):
    (home / "json.py").write_text("flow = 1\n")
    with pytest.raises(TargetError, match="rename the file"):
        load_target("json.py:flow")
