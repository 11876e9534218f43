"""Where records are read or written: a log, which is a path or anything that knows its own, and a topic in it."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Protocol, TypeAlias

from onceflow.exceptions import ConfigurationError

__all__ = ["LogDirectory", "directory_of", "topic_of"]


class _HasPath(Protocol):
    @property
    def path(self) -> str: ...


#: The directory of a log, or an open log. In one process all handles of a directory are the same log.
LogDirectory: TypeAlias = str | PathLike[str] | _HasPath


def directory_of(log: LogDirectory) -> Path:
    """The directory of the log.

    Raises:
        ConfigurationError: It is neither a path nor a log.
    """
    path = fspath(log) if isinstance(log, (str, PathLike)) else getattr(log, "path", None)
    if not isinstance(path, str):
        raise ConfigurationError(
            f"log={log!r}: give the directory of a log, such as 'events/', or an open log", setting="log"
        )
    return Path(path)


def topic_of(topic: object) -> str:
    """The name of a topic; whether there is one of that name is found when it is opened.

    Raises:
        ConfigurationError: It is not a name.
    """
    if not isinstance(topic, str) or not topic:
        raise ConfigurationError(f"topic={topic!r}: give the name of a topic", setting="topic")
    return topic
