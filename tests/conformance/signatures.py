"""What the classes of the installed confluent_kafka have: by introspection, and by the stub that comes with them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
from confluent_kafka.admin import AdminClient

__all__ = ["differences", "methods", "theirs"]


def theirs() -> dict[str, type]:
    """The classes of theirs that a program of producers and consumers meets."""
    classes = ("Producer", "Consumer", "TopicPartition", "Message", "KafkaError")
    return {name: getattr(confluent_kafka, name) for name in classes} | {"AdminClient": AdminClient}


def methods(cls: type) -> set[str]:
    """Its public methods and attributes, without the constants of ``KafkaError``."""
    return {name for name in dir(cls) if not name.startswith("_") and not name.isupper()}


def _arguments(cls: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Arguments of the methods of a class in C, with their defaults, as its stub says them; ``...`` if it has none."""
    stub = ast.parse((Path(confluent_kafka.__file__).parent / "cimpl.pyi").read_text())
    (found,) = [each for each in stub.body if isinstance(each, ast.ClassDef) and each.name == cls]
    for method in found.body:
        if isinstance(method, ast.FunctionDef):
            given = method.args
            named = given.args[len(given.args) - len(given.defaults) :]
            defaults = dict(zip([each.arg for each in named], given.defaults, strict=True))
            keyword = dict(zip([each.arg for each in given.kwonlyargs], given.kw_defaults, strict=True))
            every = [each.arg for each in given.args if each.arg != "self"] + list(keyword)
            values = {name: defaults.get(name, keyword.get(name)) for name in every}
            yield (
                method.name,
                {name: ... if value is None else ast.literal_eval(value) for name, value in values.items()},
            )


#: Defaults that mean the same: no bound, nothing given.
_SAME = ({-1, None}, {..., None})


def differences(name: str, ours: type) -> set[str]:
    """``Class.method`` that ours has not, and ``Class.method: argument`` that it has not or with another default."""
    missing = {f"{name}.{each}" for each in methods(theirs()[name]) if not hasattr(ours, each)}
    for method, arguments in _arguments(name):
        if method.startswith("_") or f"{name}.{method}" in missing:
            continue
        taken = inspect.signature(getattr(ours, method)).parameters
        for argument, default in arguments.items():
            if argument not in taken:
                missing.add(f"{name}.{method}: {argument}")
                continue
            own = taken[argument].default
            own = ... if own is inspect.Parameter.empty else own
            if default is not ... and own != default and {own, default} not in _SAME:
                missing.add(f"{name}.{method}: {argument}")
    return missing
