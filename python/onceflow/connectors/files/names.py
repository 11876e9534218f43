"""Lists of names that a user gives: columns to read, texts that mean nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from onceflow.exceptions import ConfigurationError

__all__ = ["check_names", "check_texts"]


def check_texts(setting: str, texts: Any) -> list[str]:
    """The texts, if they are a list of them, and not one text whose letters would be taken for several.

    Raises:
        ConfigurationError: Something else.
    """
    if isinstance(texts, str) or not isinstance(texts, Collection) or not all(isinstance(text, str) for text in texts):
        raise ConfigurationError(f"{setting}={texts!r}: give a list of str", setting=setting)
    return list(texts)


def check_names(setting: str, names: Any) -> list[str]:
    """The names of columns, each once.

    Raises:
        ConfigurationError: Something else, none, or one twice.
    """
    listed = check_texts(setting, names)
    if not listed:
        raise ConfigurationError(
            f"{setting}={names!r}: give at least one name, or leave {setting} away", setting=setting
        )
    if len(set(listed)) != len(listed):
        raise ConfigurationError(f"{setting}={names!r} names a column twice", setting=setting)
    return listed
