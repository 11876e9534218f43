"""The states of a producer, and what may be called in each of them.

The native producer knows how far the transaction has come in the log; the buffer before it knows two things more:
whether it takes records, and whether one of them was refused. ``Lifecycle`` puts them together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final

from onceflow._native import LogProducerPhase as Phase
from onceflow.exceptions import BackendClosedError, InvalidTransactionStateError, OnceflowError, StoreForkedError

if TYPE_CHECKING:
    from onceflow import _native

__all__ = ["REFUSALS", "TRANSITIONS", "Call", "Lifecycle", "ProducerState"]


class ProducerState(Enum):
    """What a producer is doing: ``Producer.state``."""

    IDEMPOTENT = "idempotent"
    """It has no transactional id: it takes records until it is closed."""
    UNINITIALIZED = "uninitialized"
    """``init_transactions`` was not called, or got no answer."""
    READY = "ready"
    """No transaction is open."""
    IN_TRANSACTION = "in transaction"
    """A transaction is open and takes records."""
    ENDING = "ending"
    """The end of the transaction was asked for, and what came before it has no answer: commit or abort it."""
    ABORTABLE = "abortable"
    """Part of the transaction was refused: it can only be aborted."""
    COMMITTING = "committing"
    """The commit got no answer: nobody knows whether it is applied, and it can only be repeated."""
    ABORTING = "aborting"
    """The abort got no answer: it can only be repeated."""
    FENCED = "fenced"
    """A newer producer has taken over: this one can only be closed."""
    TIMED_OUT = "timed out"
    """The transaction was open for too long and is aborted: ``init_transactions`` begins anew."""
    CLOSED = "closed"
    """It was closed, or belongs to the process that this one was forked from."""


class Call(StrEnum):
    """A call that not every state allows; ``flush``, ``poll``, ``purge`` and ``close`` are allowed in all of them."""

    PRODUCE = "produce"
    SEND_OFFSETS = "send_offsets_to_transaction"
    INIT = "init_transactions"
    BEGIN = "begin_transaction"
    COMMIT = "commit_transaction"
    ABORT = "abort_transaction"


_S = ProducerState
_COMMITTED: Final = frozenset({_S.READY, _S.ENDING, _S.COMMITTING, _S.ABORTABLE})
_ABORTED: Final = frozenset({_S.READY, _S.ABORTING, _S.ABORTABLE})

#: The calls that a state allows, and the states that they may lead to. Besides these, every call that reaches the log
#: may find the producer fenced or timed out.
TRANSITIONS: Final[Mapping[ProducerState, Mapping[Call, frozenset[ProducerState]]]] = {
    _S.IDEMPOTENT: {Call.PRODUCE: frozenset({_S.IDEMPOTENT})},
    _S.UNINITIALIZED: {Call.INIT: frozenset({_S.READY, _S.UNINITIALIZED})},
    _S.READY: {
        Call.INIT: frozenset({_S.READY}),
        Call.BEGIN: frozenset({_S.IN_TRANSACTION}),
    },
    _S.IN_TRANSACTION: {
        Call.PRODUCE: frozenset({_S.IN_TRANSACTION, _S.ABORTABLE}),
        Call.SEND_OFFSETS: frozenset({_S.IN_TRANSACTION}),
        Call.COMMIT: _COMMITTED,
        Call.ABORT: _ABORTED,
    },
    _S.ENDING: {Call.COMMIT: _COMMITTED, Call.ABORT: _ABORTED},
    _S.ABORTABLE: {Call.ABORT: _ABORTED},
    _S.COMMITTING: {Call.COMMIT: frozenset({_S.READY, _S.COMMITTING, _S.ABORTABLE})},
    _S.ABORTING: {Call.ABORT: _ABORTED},
    _S.FENCED: {},
    _S.TIMED_OUT: {Call.INIT: frozenset({_S.READY, _S.TIMED_OUT})},
    _S.CLOSED: {},
}

#: What a state says to a call that it does not allow. Of ``FENCED`` and ``TIMED_OUT`` the log says it, by an error of
#: its own; so does ``Lifecycle.check_usable`` of ``CLOSED``.
REFUSALS: Final[Mapping[ProducerState, str]] = {
    _S.IDEMPOTENT: "the producer has no transactional_id; give it one",
    _S.UNINITIALIZED: "call init_transactions first",
    _S.READY: "no transaction is open; call begin_transaction first",
    _S.IN_TRANSACTION: "a transaction is open; end it first",
    _S.ENDING: "the end of the transaction was asked for, but no answer came: commit or abort it",
    _S.ABORTABLE: "part of the transaction was refused, so abort it",
    _S.COMMITTING: "the commit was asked for, but no answer came: repeat commit_transaction until it has one, which is "
    "recognised",
    _S.ABORTING: "the abort was asked for, but no answer came: repeat abort_transaction until it has one, which is "
    "recognised",
}

_STATES: Final[Mapping[Phase, ProducerState]] = {
    Phase.NEW: _S.UNINITIALIZED,
    Phase.READY: _S.READY,
    Phase.FAILED: _S.ABORTABLE,
    Phase.COMMITTING: _S.COMMITTING,
    Phase.ABORTING: _S.ABORTING,
    Phase.FENCED: _S.FENCED,
    Phase.TIMED_OUT: _S.TIMED_OUT,
}


class Lifecycle:
    """In which state a producer is.

    Attributes:
        accepting: Whether records are taken: always, or while a transaction is open whose end nobody has asked for.
        refused: Why the open transaction can only be aborted.
        closed: Whether ``close`` was called.
    """

    def __init__(self, native: _native.LogProducer, *, transactional: bool) -> None:
        self._native = native
        self._transactional = transactional
        self._pid = os.getpid()
        self.accepting = not transactional
        self.refused: OnceflowError | None = None
        self.closed = False

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made the producer."""
        return self._pid != os.getpid()

    @property
    def state(self) -> ProducerState:
        """Of this moment; while another thread is in a call to the log it waits for that."""
        if self.closed or self.forked:
            return ProducerState.CLOSED
        if not self._transactional:
            return ProducerState.IDEMPOTENT
        phase = self._native.phase
        if phase != Phase.OPEN:
            return _STATES[phase]
        if self.refused is not None:
            return ProducerState.ABORTABLE
        return ProducerState.IN_TRANSACTION if self.accepting else ProducerState.ENDING

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, or its end has not been answered."""
        return not self.closed and not self.forked and self._native.in_transaction

    @property
    def takes_records(self) -> bool:
        """Whether the buffer does; unlike ``state`` it never waits."""
        return self.accepting and self.refused is None

    def check_usable(self) -> None:
        """Refuses every call of a producer that is closed.

        Raises:
            StoreForkedError: It belongs to the process that this one was forked from.
            BackendClosedError: It was closed.
        """
        if self.forked:
            raise StoreForkedError(
                f"the producer was made by process {self._pid} and is used in process {os.getpid()}, forked from it: "
                "fork before the log is opened, or start the process by spawning it",
                pid=self._pid,
            )
        if self.closed:
            raise BackendClosedError("the producer was closed; make a new one")

    def check(self, call: Call) -> None:
        """Refuses a call that the state does not allow; what concerns fencing is left to the log.

        Raises:
            InvalidTransactionStateError: Says which call is allowed.
        """
        state = self.state
        if call in TRANSITIONS[state] or state not in REFUSALS:
            return
        cause = self.refused if state is ProducerState.ABORTABLE else None
        why = "" if cause is None else f": {cause}"
        refusal = InvalidTransactionStateError(f"{call}: {REFUSALS[state]}{why}", state=state)
        refusal._requires_abort = state is ProducerState.ABORTABLE
        raise refusal from cause

    def begun(self) -> None:
        """A transaction is open."""
        self.refused = None
        self.accepting = True

    def ending(self) -> None:
        """The end of the transaction was asked for, or there is none: no more records are taken."""
        self.accepting = False

    def refuse(self, error: OnceflowError) -> None:
        """Part of the open transaction was refused; the first reason counts."""
        self.refused = self.refused or error

    def failed(self, error: OnceflowError) -> None:
        """The log refused a call, and with it the transaction perhaps."""
        if self._transactional and self.state is not ProducerState.IN_TRANSACTION:
            self.refuse(error)
            error._requires_abort = self.state is ProducerState.ABORTABLE
