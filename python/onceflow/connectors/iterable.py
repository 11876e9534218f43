"""A list, or what a function of a position yields, as a source.

A position is the number of records before it, and a digest: of all of them for a list, of the last one for a function.
So a list that was changed before the position, and a function that does not begin where it was told to, are refused
instead of giving other records, or the same ones twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from hashlib import blake2b
from itertools import islice
from typing import Any

from onceflow.connectors.files.malformed import MalformedPolicy, check_policy
from onceflow.connectors.files.record_times import EventTime, check_event_time
from onceflow.connectors.record_digest import digest_of, digested
from onceflow.connectors.timed import TimedBatches
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader
from onceflow.types import Plain

__all__ = ["IterableSource"]

#: Its only partition.
_PARTITION = "0"


class IterableSource(Source):
    """Records of a list, of a function of the position, or of an iterator; one partition.

    Args:
        records: A list or another sequence: it may grow from run to run, and what was read of it may not change. Or a
            function of the number of records before, which gives an iterable of those that follow, such as a generator
            function: ``def numbers(position): yield from range(position, 100)``. It runs on the job's thread; where a
            record takes long, let batches be small (``run(..., batch_size=...)``), or take a ``PollingSource``. Or an
            iterator, which cannot be read again, so that the job can only be at_most_once.
        event_time: What gives the time of a record: the name of a member, or a function of it: ISO text (UTC without a
            zone), a datetime, or seconds since 1970.
        on_malformed: What to do with records that have no valid time: ``"fail"``, ``"skip"`` (and count them), or
            ``"dead_letter"``.
        deterministic: True: the function gives equal records each time, so that a damaged checkpoint can be worked
            around by reading them again. None: that is not relied on, but the last record before a position is compared
            where a run resumes. False: nor is it compared, as for records with the time or random numbers in them. A
            list needs no word.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    def __init__(
        self,
        records: Sequence[Any] | Callable[[int], Iterable[Any]] | Iterator[Any],
        *,
        event_time: EventTime | None = None,
        on_malformed: MalformedPolicy = "fail",
        deterministic: bool | None = None,
    ) -> None:
        _check_records(records)
        if deterministic not in (True, False, None):
            raise ConfigurationError(
                f"IterableSource: deterministic={deterministic!r}: give True, False or None", setting="deterministic"
            )
        self._records = records
        self.replayable = callable(records) or isinstance(records, Sequence)  # type: ignore[misc]
        self._event_time = check_event_time(event_time)
        self._policy: MalformedPolicy = check_policy(on_malformed)
        self.has_event_time = event_time is not None
        self.has_dead_letters = self._policy == "dead_letter"
        self._compares = deterministic is not False
        known = isinstance(records, Sequence) and not callable(event_time)
        self.deterministic = known if deterministic is None else deterministic

    def partitions(self) -> list[str]:
        """One."""
        return [_PARTITION]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        start, digest = _start(position)
        timed = TimedBatches(self._event_time, self._policy, partition)
        if isinstance(self._records, Sequence):
            return _ListReader(self._records, start, digest, timed)
        if callable(self._records):
            return _IteratorReader(self._begun(start, digest), start, digest, timed, closes=True)
        return _IteratorReader(self._records, start, None, timed, closes=False)

    def _begun(self, start: int, digest: bytes | None) -> Iterator[Any]:
        """The records from a position on, if the one before it is the one that was read."""
        assert callable(self._records)
        if not start or digest is None or not self._compares:
            return iter(self._records(start))
        records = iter(self._records(start - 1))
        last = list(islice(records, 1))
        if not last:
            raise SourceChangedError(
                f"{_named(self._records)}({start - 1}) gives nothing, and {start} records were read of it before the "
                "checkpoint: it must give again what it has given",
                position=start,
            )
        if digest_of(last) != digest:
            raise SourceChangedError(
                f"the first record that {_named(self._records)}({start - 1}) gives is not the one that was read there "
                "before the checkpoint: it must begin after as many records as it is told, and give the same ones "
                "again. If they are other ones each time on purpose, give deterministic=False; to begin anew, start "
                "over with resume_from='none'",
                position=start,
            )
        return records


class _ListReader(SourceReader):
    def __init__(self, records: Sequence[Any], start: int, digest: bytes | None, timed: TimedBatches) -> None:
        if len(records) < start:
            raise SourceChangedError(
                f"the list has {len(records)} records, and {start} of it were read before the checkpoint; give it as "
                "it was, or start over with resume_from='none'",
                position=start,
            )
        self._digest = blake2b(digest_size=8)
        digested(self._digest, records[:start])
        if start and self._digest.digest() != digest:
            raise SourceChangedError(
                f"the first {start} records of the list are not those that were read before the checkpoint: give it as "
                "it was, also where functions of the dataflow change what they were given; or start over with "
                "resume_from='none'",
                position=start,
            )
        self._records = records
        self._next = start
        # What comes while it is read is for a later run.
        self._end = len(records)
        self._timed = timed

    def read(self, max_records: int) -> SourceBatch | None:
        if self._next >= self._end:
            return None
        first = self._next
        found = self._records[first : min(first + max_records, self._end)]
        digested(self._digest, found)
        self._next += len(found)
        # Many a function puts something into the dict that it was given, and the list must stay as it is.
        return self._timed.batch([record.copy() if type(record) is dict else record for record in found], first)

    def position(self) -> Plain:
        return {"next": self._next, "digest": self._digest.digest()}


class _IteratorReader(SourceReader):
    def __init__(
        self, records: Iterator[Any], start: int, digest: bytes | None, timed: TimedBatches, *, closes: bool
    ) -> None:
        self._closes = closes
        self._records = records
        self._next = start
        self._digest = digest
        self._timed = timed

    def read(self, max_records: int) -> SourceBatch | None:
        found = list(islice(self._records, max_records))
        if not found:
            return None
        first = self._next
        self._next += len(found)
        # Before a function of the dataflow may change it.
        self._digest = digest_of(found[-1:])
        return self._timed.batch(found, first)

    def position(self) -> Plain:
        return {"next": self._next, "digest": self._digest}

    def close(self) -> None:
        # A generator releases what it holds; an iterator that was given goes on in the next run.
        if self._closes and inspect.isgenerator(self._records):
            self._records.close()


def _start(position: Plain) -> tuple[int, bytes | None]:
    if position is None:
        return 0, None
    if not isinstance(position, dict) or not isinstance(position.get("next"), int):
        raise SourceError(f"{position!r} is not a position in an iterable; start over with resume_from='none'")
    start, digest = position["next"], position.get("digest")
    assert isinstance(start, int)
    return start, digest if isinstance(digest, bytes) else None


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _check_records(records: Any) -> None:
    if hasattr(records, "__arrow_c_stream__") or hasattr(records, "__arrow_c_array__"):
        raise ConfigurationError("IterableSource: a data frame, table or result is read by an ArrowSource")
    if isinstance(records, (str, bytes, bytearray, Mapping, Set)):
        raise ConfigurationError(
            f"IterableSource: records is a {type(records).__name__}: give a list, a function of the position, or an "
            "iterator",
            setting="records",
        )
    if callable(records):
        try:
            inspect.signature(records).bind(0)
        except TypeError:
            raise ConfigurationError(
                f"IterableSource: {_named(records)} must take the position, the number of records before the first one "
                "that it is to give; what it gives without can be read once, as an iterator: "
                f"IterableSource(iter({_named(records)}()))"
            ) from None
        except ValueError:
            # Of some functions in C nobody knows what they take.
            return
    elif not isinstance(records, (Sequence, Iterator)):
        raise ConfigurationError(
            f"IterableSource: records is a {type(records).__name__}: give a list, a function of the position, or an "
            "iterator",
            setting="records",
        )
