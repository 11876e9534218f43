"""What becomes of a record that cannot be read."""

from __future__ import annotations

from typing import Literal, get_args

from onceflow.exceptions import ConfigurationError, MalformedRecordError
from onceflow.sources import RejectedRecord

__all__ = ["MalformedPolicy", "Rejections", "check_policy", "check_record_bytes"]

#: ``"fail"``: the job stops; ``"skip"``: counted only; ``"dead_letter"``: handed to ``flow.dead_letters(step)``.
MalformedPolicy = Literal["fail", "skip", "dead_letter"]

_SHOWN = 500


def check_policy(policy: MalformedPolicy) -> MalformedPolicy:
    """The policy, if there is one of this name."""
    if policy in get_args(MalformedPolicy):
        return policy
    raise ConfigurationError(f"on_malformed={policy!r}: 'fail', 'skip' or 'dead_letter'", setting="on_malformed")


def check_record_bytes(max_record_bytes: int) -> int:
    """The bound, if it is one."""
    if not isinstance(max_record_bytes, int) or isinstance(max_record_bytes, bool) or max_record_bytes < 1:
        raise ConfigurationError(
            f"max_record_bytes={max_record_bytes!r}: give a whole number of bytes, at least 1",
            setting="max_record_bytes",
        )
    return max_record_bytes


class Rejections:
    """Collects the refused records of one batch in order, or stops at the first one."""

    def __init__(self, policy: MalformedPolicy, partition: str) -> None:
        self._policy = policy
        self._partition = partition
        self.records: list[RejectedRecord] = []
        self.skipped = 0

    def add(self, line: int | str, reason: str, data: bytes) -> None:
        """Refuses the record that begins at this line, or place of another kind.

        Raises:
            MalformedRecordError: If the policy is to fail.
        """
        position = f"{self._partition}:{line}"
        text = data.decode("utf-8", "backslashreplace")
        if self._policy == "fail":
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
            raise MalformedRecordError(
                f"{position}: {reason}: {shown!r}. Correct the input, or set on_malformed='skip' or 'dead_letter'",
                partition=self._partition,
                position=line,
                text=text,
            )
        if self._policy == "skip":
            self.skipped += 1
        else:
            self.records.append(RejectedRecord("", self._partition, position, reason, text))

    def add_long(self, line: int, size: int, beginning: bytes) -> None:
        """Refuses a record of which only the beginning was kept."""
        self.add(line, f"has {size} bytes, more than max_record_bytes allows", beginning)
