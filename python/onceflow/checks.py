"""What a look at the real systems of a dataflow finds before a start: the words of ``Source.check`` and ``Sink.check``.

``explain`` says what a dataflow can promise by what its steps are; whether the file, the topic, the table are such that
the promise holds is only known where they are. A source or sink looks there itself, changes nothing that another
program could notice, and says what it found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from onceflow.clock import Clock, SystemClock
from onceflow.exceptions import OnceflowError, described
from onceflow.types import Guarantee, Plain

__all__ = ["CheckContext", "Checked", "Finding", "Level", "collected"]

#: ``"ok"``: as it has to be. ``"warning"``: the job runs, and something can go wrong or be lost that it cannot help.
#: ``"error"``: the job would not start, or its guarantee would not hold.
Level: TypeAlias = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Nothing in it is a secret: no password, no connection string with one.

    Attributes:
        level: See ``Level``.
        subject: What was looked at: ``topic 'orders'``, ``directory out``.
        text: What was found, with the numbers.
        advice: What to do about it; empty where nothing is to be done.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class CheckContext:
    """Who looks.

    Attributes:
        job: Name of the dataflow.
        step_id: Of the source or sink.
        guarantee: What the job is to promise.
        clock: Where this machine's time comes from, to be compared with that of a server.
        positions: Of a source, by partition, from where the job's next run goes on; None: that is not known.
    """

    job: str
    step_id: str
    guarantee: Guarantee = Guarantee.EXACTLY_ONCE
    clock: Clock = field(default_factory=SystemClock)
    positions: Mapping[str, Plain] | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found for one source or sink.

    Attributes:
        step_id: Its step.
        role: Which of the two it is; ``"job"`` where it is the job's state directory.
        connector: Name of its class.
        findings: In the order in which it looked; none if it has no ``check``, so that nothing is known.
    """

    step_id: str
    role: Literal["source", "sink", "job"]
    connector: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether something is an error."""
        return any(finding.level == "error" for finding in self.findings)


def collected(findings: Iterable[Finding], connector: str, found: list[Finding] | None = None) -> tuple[Finding, ...]:
    """All findings; a look that raises is an error among them, since what it would have looked at is not known.

    Args:
        findings: May be a generator, which raises while it is read.
        connector: Name of the class, as the subject of what it raised.
        found: Gets them one by one, for who does not wait for the last one.
    """
    found = [] if found is None else found
    try:
        # One by one: what was found before stays found.
        found.extend(findings)
    except OnceflowError as error:
        found.append(Finding("error", connector, str(error)))
    except Exception as error:
        found.append(Finding("error", connector, f"check() failed: {described(error)}"))
    return tuple(found)
