"""What an error becomes: one message on standard error, and an exit code; and what a warning does: one line there.

==== ============================================================================================
code meaning
==== ============================================================================================
0    finished, or stopped with a last checkpoint; the guarantee is kept; no damage
1    the job failed; the guarantee is not kept; damage was found
2    wrong usage: an argument, a dataflow, a topic or a setting that cannot be; nothing was run
3    the state directory cannot be used: missing, locked, damaged, full, of another job
4    fenced: a newer run of the job, or a newer producer, has taken over
130  interrupted at once (Ctrl-C, or the second Ctrl-C of a running job)
141  the reader of the output went away (as in ``| head``)
==== ============================================================================================
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TextIO

import typer

from onceflow.cli.console import error, note, warning
from onceflow.cli.target import TargetError
from onceflow.exceptions import (
    CheckpointNotFoundError,
    ConfigurationError,
    FencedError,
    OnceflowError,
    OnceflowWarning,
    ProducerFencedError,
    StoreCorruptError,
    StoreError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
    UserFunctionError,
)

__all__ = ["ExitCode", "errors_as_messages", "warnings_as_lines"]

_PACKAGE = Path(__file__).parents[1]
#: What a program can do, which says nothing to who calls a command.
_FOR_PROGRAMS = (", or give create=True", ", or give take_over=True to fence it")


class ExitCode(IntEnum):
    """See the module."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STATE = 3
    FENCED = 4
    INTERRUPTED = 130
    READER_GONE = 141


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Whatever a command raises ends the program with a message and an exit code.

    An exception that is neither ours nor expected is a bug, in a user's source or sink or here: it keeps its traceback.
    """
    try:
        yield
    except TargetError as failure:
        error(str(failure))
        if failure.__cause__ is not None:
            _print_traceback(failure.__cause__)
        raise typer.Exit(ExitCode.USAGE) from None
    except OnceflowError as failure:
        _explain(failure)
        raise typer.Exit(_code(failure)) from None
    except BrokenPipeError:
        # What is still buffered has nowhere to go; without this Python would complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.READER_GONE) from None
    except (KeyboardInterrupt, typer.Abort):
        note("interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Warnings are lines on standard error: ours without a place in the code, since they say what to do by themselves;
    others, such as those of a user's module, with it."""
    with warnings.catch_warnings():
        # Also the second one of a place: which step or partition it is about is in its text.
        warnings.simplefilter("always", OnceflowWarning)
        warnings.showwarning = _show
        yield


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = " ".join(str(message).split())
    if issubclass(category, OnceflowWarning) or _is_ours(filename):
        warning(text)
    else:
        warning(f"{text} ({category.__name__}, {filename}:{lineno})")


def _code(failure: OnceflowError) -> ExitCode:
    usage = (ConfigurationError, CheckpointNotFoundError, TopicExistsError, UnknownTopicOrPartitionError)
    if isinstance(failure, usage):
        return ExitCode.USAGE
    if isinstance(failure, StoreError):
        return ExitCode.STATE
    if isinstance(failure, (FencedError, ProducerFencedError)):
        return ExitCode.FENCED
    return ExitCode.FAILED


def _explain(failure: OnceflowError) -> None:
    text = str(failure)
    for advice in _FOR_PROGRAMS:
        text = text.replace(advice, "")
    error(text)
    if isinstance(failure, UserFunctionError):
        note(f"  step      {failure.step_id}")
        if failure.position is not None:
            note(f"  position  {failure.position}")
        if failure.__cause__ is not None and not isinstance(failure.__cause__, OnceflowError):
            _print_traceback(failure.__cause__)
    elif isinstance(failure, StoreCorruptError):
        note("  onceflow checkpoints verify DIR says what is damaged")
    for told in getattr(failure, "__notes__", ()):
        # Where the record came from is said already.
        if not isinstance(failure, UserFunctionError) or not told.startswith("while processing "):
            note(f"  {told}")


def _print_traceback(cause: BaseException) -> None:
    """The traceback without our own frames: what is left is the user's."""
    shown = traceback.TracebackException.from_exception(cause)
    link: traceback.TracebackException | None = shown
    while link is not None:
        link.stack = traceback.StackSummary.from_list([frame for frame in link.stack if not _is_ours(frame.filename)])
        link = link.__cause__ or link.__context__
    sys.stderr.write("".join(shown.format()))


def _is_ours(filename: str) -> bool:
    importing = filename.startswith("<frozen importlib") or filename == importlib.__file__
    return importing or _PACKAGE in Path(filename).parents
