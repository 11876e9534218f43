"""Finds the dataflow that a command line names: ``module:attribute`` or ``path/to/file.py:attribute``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from onceflow.instances import Instance

if TYPE_CHECKING:
    from onceflow.dataflow import Dataflow

__all__ = ["GUARANTEE_HELP", "INSTANCE_HELP", "TARGET_HELP", "TargetError", "instance_of", "load_target"]

TARGET_HELP = (
    "The dataflow: module:attribute or path/to/file.py:attribute. The attribute is a Dataflow, or a function without "
    "arguments that makes one."
)
GUARANTEE_HELP = "What the output promises: exactly_once, effectively_once, at_least_once or at_most_once."

INSTANCE_HELP = (
    "One of COUNT runs that divide the topics of this dataflow among them, each with a state directory of its own; the "
    "first INDEX is 0."
)


class TargetError(Exception):
    """The dataflow cannot be loaded; ``__cause__`` is what the user's code raised, if it did."""


def load_target(target: str) -> Dataflow:
    """The dataflow.

    The attribute is a ``Dataflow``, or a function without arguments that makes one. A module is looked for as by
    ``python -m``, from the current directory on; a file's own directory comes first, as by ``python file.py``.

    Raises:
        TargetError: Says what was looked for and what is there.
    """
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        raise TargetError(
            f"{target!r} names no dataflow; write module:attribute or path/to/file.py:attribute, such as delays.py:flow"
        )
    is_file = place.endswith(".py") or "/" in place
    module = _load_file(Path(place)) if is_file else _load_module(place)
    return _dataflow(target, _attribute(module, place, attribute))


def instance_of(text: str | None) -> Instance | None:
    """What ``--instance`` says.

    Raises:
        ConfigurationError: It is none.
    """
    return None if text is None else Instance.read("--instance", text)


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise TargetError(
                f"there is no module {error.name!r} in {Path.cwd()} or where Python looks; for a file give its path, "
                "such as jobs/delays.py:flow"
            ) from None
        raise TargetError(f"module {name!r} cannot be loaded") from error
    except (Exception, SystemExit) as error:
        raise TargetError(f"module {name!r} cannot be loaded") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"{path} is not a file")
    path = path.resolve()
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        raise TargetError(f"{path.name} has the name of a module that Python or onceflow needs; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is not a Python file; its name must end in .py")
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    # Where the classes of pickled state are looked for.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TargetError(f"{path} cannot be loaded") from error
    return module


def _attribute(module: ModuleType, place: str, attribute: str) -> Any:
    value: Any = module
    for name in attribute.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            known = _dataflows_of(module)
            hint = f"; it has {', '.join(known)}" if known else ""
            raise TargetError(f"{place} has no {attribute!r}{hint}") from None
    return value


def _dataflows_of(module: ModuleType) -> list[str]:
    from onceflow.dataflow import Dataflow  # noqa: PLC0415 - loads numpy

    return sorted(name for name, value in vars(module).items() if isinstance(value, Dataflow))


def _dataflow(target: str, value: Any) -> Dataflow:
    from onceflow.dataflow import Dataflow  # noqa: PLC0415 - loads numpy

    if isinstance(value, Dataflow):
        return value
    if not callable(value):
        raise TargetError(
            f"{target} is of type {type(value).__name__}; it must be a Dataflow, or a function that makes one"
        )
    try:
        inspect.signature(value).bind()
    except TypeError as error:
        raise TargetError(f"{target} cannot be called without arguments ({error}); give such a function") from None
    except ValueError:
        pass  # Some builtins do not tell their signature.
    try:
        made = value()
    except (Exception, SystemExit) as error:
        raise TargetError(f"{target}() failed") from error
    if isinstance(made, Dataflow):
        return made
    raise TargetError(f"{target}() returned an object of type {type(made).__name__}; it must return a Dataflow")
