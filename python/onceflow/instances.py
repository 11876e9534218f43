"""Several runs of one job that divide its input among them: which of them a run is.

Each is a job of its own, with a name of its own: its state, and all that it writes, names or keeps in a target belongs
to that name. So nothing of two instances can meet, and nothing of one is taken for another's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from onceflow.exceptions import ConfigurationError

__all__ = ["REPARTITION", "Instance", "count_of", "job_and_instance", "run_of", "what_it_is"]

#: What can be done where a topic is not partitioned by the key of a step.
REPARTITION = (
    "repartition through a topic: have a job without keyed steps, which may be divided as well, write the records with "
    "KafkaSink(..., key='FIELD') or LogSink(..., key='FIELD'), and let this job read that topic with "
    "partitioned_by='FIELD' and key_by('FIELD')"
)
_MOST = 10_000
#: No name of a dataflow has such a sign.
_SIGN = "@"
_JOB = re.compile(rf"(.+){_SIGN}(\d+)of(\d+)")


@dataclass(frozen=True, slots=True)
class Instance:
    """One of the runs.

    Attributes:
        index: Its number, from 0 to ``count`` - 1.
        count: How many there are.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def job(self, name: str) -> str:
        """The name of its job: ``clicks@2of8``."""
        return f"{name}{_SIGN}{self.index}of{self.count}"

    @property
    def shown(self) -> str:
        """Its partitions: ``2, 10, 18 and so on``."""
        return f"{self.index}, {self.index + self.count}, {self.index + 2 * self.count} and so on"

    def has(self, partition: int) -> bool:
        """Whether it reads a partition: so those of the same number of several topics come to one instance."""
        return partition % self.count == self.index

    @classmethod
    def checked(cls, setting: str, given: object) -> Instance:
        """What a user gave: ``(2, 8)``.

        Raises:
            ConfigurationError: It is none.
        """
        if isinstance(given, cls):
            return given
        numbers = tuple(given) if isinstance(given, tuple | list) else ()
        if len(numbers) != 2 or not all(type(number) is int for number in numbers):
            raise ConfigurationError(
                f"{setting}={given!r}: give (index, count), such as (2, 8): the third of eight", setting=setting
            )
        index, count = numbers
        if not 1 <= count <= _MOST:
            raise ConfigurationError(f"{setting}={given!r}: give a count from 1 to {_MOST:,}", setting=setting)
        if not 0 <= index < count:
            raise ConfigurationError(
                f"{setting}={given!r}: indexes begin with 0, so those of {count} are 0 to {count - 1}", setting=setting
            )
        return cls(index, count)

    @classmethod
    def read(cls, setting: str, text: str) -> Instance:
        """What a command line gives: ``2/8``.

        Raises:
            ConfigurationError: It is none.
        """
        index, slash, count = text.partition("/")
        if not slash or not index.isdecimal() or not count.isdecimal():
            raise ConfigurationError(
                f"{setting} {text}: give INDEX/COUNT, such as 2/8: the third of eight, since indexes begin with 0",
                setting=setting,
            )
        try:
            return cls.checked(setting, (int(index), int(count)))
        except ConfigurationError as error:
            raise ConfigurationError(
                str(error).replace(f"={(int(index), int(count))!r}", f" {text}"), setting=setting
            ) from None


def job_and_instance(job: str) -> tuple[str, Instance | None]:
    """The dataflow that a job's name is made of, and its instance; None if it is all of the job."""
    found = _JOB.fullmatch(job)
    return (job, None) if found is None else (found[1], Instance(int(found[2]), int(found[3])))


def count_of(instance: Instance | None) -> int | None:
    """How many runs divide the job; None: it is not divided."""
    return None if instance is None else instance.count


def run_of(instance: Instance | None) -> str:
    """Whose something is, in words: of ``instance 2/8``."""
    return "a run that is all of the job" if instance is None else f"instance {instance}"


def what_it_is(instance: Instance | None) -> str:
    """What a run is, in words: it ``is instance 2/8``."""
    return "is all of the job" if instance is None else f"is instance {instance}"
