"""Faults of how modules hang together: circles, doors into what is private, and an engine where only data should be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "python" / "onceflow"


def names(path):
    parts = ("onceflow", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {names(path): path for path in sorted(ROOT.rglob("*.py"))}


def targets(node):
    """The modules of ours that an import statement names."""
    if isinstance(node, ast.Import):
        wanted = [alias.name for alias in node.names]
    else:
        assert not node.level, "imports are written out"
        wanted = [f"{node.module}.{alias.name}" for alias in node.names]
        wanted = [name if name in FILES or name == "onceflow._native" else node.module for name in wanted]
    return {name for name in wanted if name.split(".")[0] == "onceflow"}


def imports(name, *, lazy, typing=False):
    """What a module imports when it is loaded; with ``lazy`` also what its functions import."""
    found = set()
    waiting = list(ast.parse(FILES[name].read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= targets(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing:
            waiting.extend(node.orelse)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return found - {name}


def circle(graph):
    """Modules that import one another in a circle, if there are any."""
    done, trail = set(), []

    def visit(name):
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done or name not in graph:
            return None
        trail.append(name)
        for target in sorted(graph[name]):
            found = visit(target)
            if found:
                return found
        trail.pop()
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := visit(name))), None)


def closure(name):
    seen, waiting = set(), [name]
    while waiting:
        for target in imports(waiting.pop(), lazy=True) - seen:
            seen.add(target)
            if target in FILES:
                waiting.append(target)
    return seen


@pytest.mark.parametrize("lazy", [False, True])
def test_no_modules_import_one_another_in_a_circle(lazy):
    """A circle, whether all of it is closed when modules are loaded or a part by functions."""
    graph = {name: imports(name, lazy=lazy) for name in FILES}
    assert len(graph["onceflow.dataflow"]) > 5
    assert circle(graph) is None


def test_a_circle_is_seen():
    """The look itself."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_an_import_within_a_function_says_why():
    """An import that was put into a function to get round a circle, without a word."""
    silent = []
    for name, path in FILES.items():
        lines = path.read_text().splitlines()
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                silent += [
                    f"{name}:{node.lineno}"
                    for node in ast.walk(function)
                    if isinstance(node, ast.Import | ast.ImportFrom) and "PLC0415 - " not in lines[node.lineno - 1]
                ]
    assert silent == []


def test_only_run_and_the_command_line_know_the_runtime():
    """Something public that stands on what is private."""
    users = {
        name
        for name in FILES
        if not name.startswith("onceflow.runtime")
        and any(target.startswith("onceflow.runtime") for target in imports(name, lazy=True, typing=True))
    }
    assert {name for name in users if not name.startswith("onceflow.cli")} == {"onceflow"}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("onceflow.graph.")] + ["onceflow.dataflow"])
def test_a_dataflow_is_data(name):
    """An operator, a runtime module or the extension, which a plan then could not do without."""
    engines = ("onceflow.operators", "onceflow.runtime", "onceflow.connectors", "onceflow._native")
    assert {target for target in closure(name) if target.startswith(engines)} == set()
