"""Restart policies, as the command line says them: ``exponential-backoff:first=1s,attempts=5``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import typer

from onceflow.cli.units import duration_s
from onceflow.exceptions import ConfigurationError
from onceflow.restart import ExponentialBackoff, FixedDelay, RestartPolicy

__all__ = ["RESTART_HELP", "restart_policy"]

#: With places where it can be broken into lines: what is too long for one is cut.
RESTART_HELP = (
    "What is done when the run fails: 'never'; or begin it again from its newest checkpoint, by 'fixed-delay' or "
    "'exponential-backoff'. Settings follow a colon, with commas between: fixed-delay has delay=10s attempts=3 "
    "within=1h, exponential-backoff first=1s longest=1m multiplier=2 jitter=0.1 reset-after=10m attempts=10; such as "
    "fixed-delay:delay=2s,attempts=5"
)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is not a whole number")
    return int(text)


#: By policy: its class, and of each setting what it is there and how it is read.
_POLICIES: Mapping[str, tuple[Callable[..., RestartPolicy], Mapping[str, tuple[str, Callable[[str], Any]]]]] = {
    "fixed-delay": (
        FixedDelay,
        {"delay": ("delay_s", duration_s), "attempts": ("attempts", _whole), "within": ("within_s", duration_s)},
    ),
    "exponential-backoff": (
        ExponentialBackoff,
        {
            "first": ("first_s", duration_s),
            "longest": ("longest_s", duration_s),
            "multiplier": ("multiplier", _number),
            "jitter": ("jitter", _number),
            "reset-after": ("reset_after_s", duration_s),
            "attempts": ("attempts", _whole),
        },
    ),
}


def restart_policy(text: str) -> RestartPolicy | None:
    """The policy that a text says; None for ``never``.

    Raises:
        typer.BadParameter: It says none; the text says what can be.
    """
    name, _, settings = text.strip().partition(":")
    if name == "never" and not settings:
        return None
    if name not in _POLICIES:
        raise typer.BadParameter(f"{text!r} is no restart policy; give never, {' or '.join(_POLICIES)}")
    make, known = _POLICIES[name]
    given: dict[str, Any] = {}
    for each in filter(None, settings.split(",")):
        word, equals, value = (part.strip() for part in each.partition("="))
        if word not in known or not equals or known[word][0] in given:
            raise typer.BadParameter(f"{each!r}: {name} takes {', '.join(f'{word}=…' for word in known)}, each once")
        field, read = known[word]
        given[field] = read(value)
    try:
        return make(**given)
    except ConfigurationError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from None
