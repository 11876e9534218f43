"""Every error as a program uses it: by its class, its kind, its fields; across the border of a process."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

import onceflow.exceptions
from onceflow.exceptions import ERRORS_BY_KIND, OnceflowError
from onceflow.log import ProducerState

CLASSES = sorted(ERRORS_BY_KIND.values(), key=lambda each: each.__name__)
#: A value for each type of a field.
VALUES = {
    "int": 7,
    "str": "seven",
    "int | str": "seven",
    "ProducerState": ProducerState.READY,
    "tuple[str, ...]": ("a", "b"),
    "Plain": 7,
    "Mapping[str, str]": {"a": "drop"},
}


def fields(cls: type[OnceflowError]) -> dict[str, object]:
    """A value for each field that the constructor takes."""
    own = next(
        (each for each in cls.__mro__ if each.__module__ == OnceflowError.__module__ and "__init__" in vars(each)), None
    )
    if own is None:
        return {}
    parameters = list(inspect.signature(own).parameters.values())
    assert parameters[0].name == "message"
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters[1:])
    return {each.name: VALUES[each.annotation.removesuffix(" | None")] for each in parameters[1:]}


@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("cls", CLASSES, ids=lambda each: each.__name__)
def test_a_copy_is_the_same(cls, way):
    """An error that crosses to another process as a TypeError of its constructor, or without its fields."""
    error = cls("what to do", **fields(cls))
    error.add_note("a note")
    match way:
        case "pickle":
            other = pickle.loads(pickle.dumps(error))
        case "copy":
            other = copy.copy(error)
        case _:
            other = copy.deepcopy(error)
    assert type(other) is cls
    assert str(other) == str(error) == "what to do"
    assert vars(other) == vars(error)
    assert {name: getattr(other, name) for name in fields(cls)} == fields(cls)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda each: each.__name__)
def test_what_is_not_known_is_none(cls):
    """Code that reads a field of an error that somebody raised with a text only."""
    error = cls("text")
    for name in fields(cls):
        assert getattr(error, name) in (None, "", (), {})


@pytest.mark.parametrize("cls", CLASSES, ids=lambda each: each.__name__)
def test_each_field_is_documented(cls):
    """Fields that nobody finds."""
    text = inspect.getdoc(cls) or ""
    documented = set(re.findall(r"^    (\w+): ", text.partition("Attributes:")[2], re.MULTILINE))
    own = set(fields(cls)) if "__init__" in vars(cls) else set()
    assert documented == own


def test_the_tree_is_drawn_as_it_is():
    """A class that the map of errors does not show, or shows under another base."""
    drawn: list[tuple[int, str]] = [
        (len(indent), name)
        for indent, name in re.findall(r"^    ([│├└─ ]*)(\w+Error)\b", onceflow.exceptions.__doc__ or "", re.MULTILINE)
    ]
    parents: dict[str, str] = {}
    line: list[tuple[int, str]] = []
    for depth, name in drawn:
        line = [each for each in line if each[0] < depth]
        parents[name] = line[-1][1] if line else ""
        line.append((depth, name))
    tree = {
        each.__name__: next((b.__name__ for b in each.__bases__ if issubclass(b, OnceflowError)), "")
        for each in CLASSES
    }
    assert parents == tree


def test_errors_are_seen_where_they_are_imported_from():
    """A traceback that names a module of which nobody imports."""
    for cls in CLASSES:
        assert cls.__module__ == "onceflow.exceptions"
        assert getattr(onceflow.exceptions, cls.__name__) is cls
        assert cls.__name__ in onceflow.exceptions.__all__
