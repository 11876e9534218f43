"""``help()`` of the extension says what its stub says: the text is in the Rust sources, and the stub must not drift."""

from __future__ import annotations

import ast
import inspect
import pydoc
from pathlib import Path

import pytest

from onceflow import _native
from onceflow.embed import StateBackend

STUB = ast.parse(Path(_native.__file__).with_name("_native.pyi").read_text(encoding="utf-8"))


def documented():
    """Name and docstring of each function, class, method and property of the stub."""
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, ast.get_docstring(node)
        elif isinstance(node, ast.ClassDef) and hasattr(_native, node.name):
            yield node.name, ast.get_docstring(node)
            for member in node.body:
                # Python itself has the texts of special methods.
                if isinstance(member, ast.FunctionDef) and member.name[:2] != "__":
                    # The name of a property may say all.
                    text = ast.get_docstring(member) or ("" if _is_property(member) else None)
                    yield f"{node.name}.{member.name}", text


def _is_property(member):
    return any(isinstance(each, ast.Name) and each.id == "property" for each in member.decorator_list)


@pytest.mark.parametrize(("name", "text"), [pytest.param(*pair, id=pair[0]) for pair in documented()])
def test_help_says_what_the_stub_says(name, text):
    """``help(StateBackend)`` said "See onceflow.StateBackend"."""
    thing = _native
    for part in name.split("."):
        thing = getattr(thing, part)
    assert text is not None, f"{name} has no docstring in _native.pyi"
    assert inspect.cleandoc(thing.__doc__ or "") == text, (
        f"copy the docstring of {name} from _native.pyi to rust/py/src"
    )


def test_every_class_of_the_extension_is_in_the_stub():
    """A class that nobody compares, because the stub does not have it, or only a subset of its methods."""
    stub = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
    classes = {name: each for name, each in vars(_native).items() if inspect.isclass(each)}
    assert len(classes) > 20
    for name, cls in classes.items():
        members = {getattr(each, "name", None) or each.target.id for each in stub[name].body if not _is_text(each)}
        assert {each for each in vars(cls) if each[:2] != "__"} <= members, name


def _is_text(node):
    return isinstance(node, ast.Expr)


def test_help_of_the_state_backend():
    text = pydoc.plaintext.document(StateBackend)
    for part in (
        "Opens or creates a state directory",
        "max_state_bytes=68719476736",
        "begin, freeze, keep ``positions``",
    ):
        assert part in text
