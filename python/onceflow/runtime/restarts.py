"""When a run that failed is begun again: which errors may heal by that, how often, and how soon."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

from onceflow.exceptions import (
    CapacityExceededError,
    CheckpointNotFoundError,
    ConfigurationError,
    DataflowChangedError,
    FencedError,
    MalformedRecordError,
    OffsetOutOfRangeError,
    OnceflowError,
    ProducerFencedError,
    RecordTooLargeError,
    SourceChangedError,
    StateError,
    StoreError,
    StoreFullError,
    StoreIOError,
    StorePoisonedError,
    TopicExistsError,
    TransactionTimedOutError,
    UnknownTopicOrPartitionError,
    WorkerLostError,
)
from onceflow.restart import ExponentialBackoff, RestartPolicy

__all__ = ["Restarts", "may_heal"]

#: Whether an error of a class may be over when the run is begun again; the nearest base of an error's class counts.
_MAY_HEAL: dict[type[BaseException], bool] = {
    # Of sources, sinks, functions and checkpoints: a server that was away, a service that answers again. One that
    # comes of the records themselves comes again, which the policy's attempts bound.
    OnceflowError: True,
    # Of several workers one was killed.
    WorkerLostError: True,
    # What was asked for cannot be, or does not fit what is there.
    ConfigurationError: False,
    DataflowChangedError: False,
    CheckpointNotFoundError: False,
    TopicExistsError: False,
    UnknownTopicOrPartitionError: False,
    # Somebody else goes on.
    FencedError: False,
    ProducerFencedError: False,
    TransactionTimedOutError: True,
    # Input that is not what it was, or is gone, or will be as it is: somebody has to look at it.
    SourceChangedError: False,
    MalformedRecordError: False,
    OffsetOutOfRangeError: False,
    RecordTooLargeError: False,
    # The same values are refused again, but how much is held at once is also a matter of time.
    StateError: False,
    CapacityExceededError: True,
    # Damaged, another's, of another version, left in a child. What a failed write has left is read anew when the store
    # is opened again, which is how it is to be taken up.
    StoreError: False,
    StoreFullError: True,
    StoreIOError: True,
    StorePoisonedError: True,
}
#: So many reasons are kept.
_REASONS = 100


def may_heal(error: BaseException) -> bool:
    """Whether the run that an error ended may go well when it is begun again.

    Not where it, or one of ours that it came of, is of a kind that does not; nor what is no error of ours: sources,
    sinks and functions raise none that is not, so it is one of the program around the run, or a fault of this package.
    """
    if not isinstance(error, OnceflowError):
        return False
    for one in _chain(error):
        if isinstance(one, OnceflowError):
            known = next(kind for kind in type(one).__mro__ if kind in _MAY_HEAL)
            if not _MAY_HEAL[known]:
                return False
    return True


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, the one that it came of, and so on; each once, should they be linked in a circle."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and all(one is not other for other in seen):
        seen.append(one)
        yield one
        one = one.__cause__


class Restarts:
    """The failures of one run, and what its policy says of the next one.

    Args:
        policy: None: no failure is followed by another attempt.
    """

    def __init__(self, policy: RestartPolicy | None) -> None:
        self._policy = policy
        #: How often the run was begun again.
        self.count = 0
        self.reasons: deque[str] = deque(maxlen=_REASONS)
        #: Times of the restarts that count, oldest first: never more than the policy allows.
        self._counted: deque[float] = deque()
        #: The same, where no number of them is bounded.
        self._in_a_row = 0

    def next_wait_s(self, *, now_s: float, lasted_s: float) -> float | None:
        """Seconds until the run is begun again; None if it is not.

        Args:
            now_s: By the job's clock.
            lasted_s: For so long the attempt that has failed had gone well.
        """
        policy = self._policy
        if policy is None:
            return None
        if isinstance(policy, ExponentialBackoff):
            if lasted_s >= policy.reset_after_s:
                self._in_a_row = 0
            before = self._in_a_row
        else:
            while self._counted and policy.within_s is not None and self._counted[0] <= now_s - policy.within_s:
                self._counted.popleft()
            before = len(self._counted)
            self._counted.append(now_s)
        if policy.attempts is not None and before >= policy.attempts:
            return None
        self._in_a_row += 1
        return policy.wait_s(before, random.random())  # noqa: S311 - spreads restarts

    def begun_again(self, reason: str) -> None:
        """The run is begun again, since it failed for this reason."""
        self.count += 1
        self.reasons.append(reason)
