"""The states of a consumer, and what may be called in each of them.

A consumer is moved by its own calls and by its group, of which it hears through heartbeats: that is acted on by the
next ``poll``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Final

from onceflow.exceptions import ConfigurationError

__all__ = ["REFUSALS", "TRANSITIONS", "Call", "ConsumerState", "check"]


class ConsumerState(Enum):
    """What a consumer is doing: ``Consumer.state``."""

    IDLE = "idle"
    """It reads nothing."""
    ASSIGNED = "assigned"
    """It reads partitions that it chose itself."""
    JOINING = "joining"
    """It has subscribed; the next ``poll`` joins the group."""
    MEMBER = "member"
    """It reads its share of the group's partitions."""
    REBALANCING = "rebalancing"
    """The group gives it partitions or takes some away; the next ``poll`` does it."""
    LOST = "lost"
    """It was declared dead, or its membership failed: the next ``poll`` says so, and the one after it joins again."""
    CLOSED = "closed"
    """It was closed, or belongs to the process that this one was forked from."""


class Call(StrEnum):
    """A call that changes the state, or that not every state allows. ``poll`` stands for all that read."""

    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    ASSIGN = "assign"
    POLL = "poll"
    COMMIT = "commit"


_S = ConsumerState
_READING: Final = frozenset({_S.MEMBER, _S.REBALANCING, _S.LOST})

#: The calls that a state allows, and the states that they may lead to.
TRANSITIONS: Final[Mapping[ConsumerState, Mapping[Call, frozenset[ConsumerState]]]] = {
    _S.IDLE: {
        Call.SUBSCRIBE: frozenset({_S.JOINING}),
        Call.UNSUBSCRIBE: frozenset({_S.IDLE}),
        Call.ASSIGN: frozenset({_S.ASSIGNED, _S.IDLE}),
        Call.POLL: frozenset({_S.IDLE}),
        Call.COMMIT: frozenset({_S.IDLE}),
    },
    _S.ASSIGNED: {
        Call.SUBSCRIBE: frozenset({_S.JOINING}),
        Call.UNSUBSCRIBE: frozenset({_S.IDLE}),
        Call.ASSIGN: frozenset({_S.ASSIGNED, _S.IDLE}),
        Call.POLL: frozenset({_S.ASSIGNED}),
        Call.COMMIT: frozenset({_S.ASSIGNED}),
    },
    _S.JOINING: {
        Call.SUBSCRIBE: frozenset({_S.JOINING}),
        Call.UNSUBSCRIBE: frozenset({_S.IDLE}),
        Call.POLL: _READING,
        Call.COMMIT: frozenset({_S.JOINING}),
    },
    _S.MEMBER: {
        Call.SUBSCRIBE: frozenset({_S.JOINING}),
        Call.UNSUBSCRIBE: frozenset({_S.IDLE}),
        # Who slept through its session hears of it by the heartbeat that comes first, and is lost within the call.
        Call.POLL: _READING | {_S.JOINING},
        Call.COMMIT: _READING,
    },
    _S.REBALANCING: {
        Call.SUBSCRIBE: frozenset({_S.JOINING}),
        Call.UNSUBSCRIBE: frozenset({_S.IDLE}),
        Call.POLL: _READING | {_S.JOINING},
        Call.COMMIT: _READING,
    },
    _S.LOST: {
        Call.SUBSCRIBE: frozenset({_S.JOINING}),
        Call.UNSUBSCRIBE: frozenset({_S.IDLE}),
        # Raises why, after ``on_lost``.
        Call.POLL: frozenset({_S.JOINING}),
        # The log refuses it.
        Call.COMMIT: frozenset({_S.LOST}),
    },
    _S.CLOSED: {Call.UNSUBSCRIBE: frozenset({_S.CLOSED})},
}

#: What a state says to ``assign``, the one call that others than ``CLOSED`` refuse.
REFUSALS: Final[Mapping[ConsumerState, str]] = dict.fromkeys(
    (_S.JOINING, _S.MEMBER, _S.REBALANCING, _S.LOST),
    "the group assigns this consumer's partitions; seek, or unsubscribe first",
)


def check(state: ConsumerState, call: Call) -> None:
    """Refuses a call that the state does not allow.

    Raises:
        ConfigurationError: Says what to call instead.
    """
    if call not in TRANSITIONS[state]:
        raise ConfigurationError(f"{call}: {REFUSALS[state]}")
