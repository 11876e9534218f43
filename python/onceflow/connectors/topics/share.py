"""The share of a topic that one of several runs of a job reads, and whether the topic is partitioned by a key.

That a key's records lie in one partition nobody can see from a part of them. But how producers choose the partition of
a key is a function of its bytes and of the number of partitions; so each record that is read is checked to lie where
that function puts it. A record that lies elsewhere ends the run, before it is in any state.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from onceflow._native import _kafka_partitions, partition_of
from onceflow.checks import Finding
from onceflow.columns import Columns, to_list
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError
from onceflow.instances import REPARTITION, Instance
from onceflow.sources import SourceReader
from onceflow.types import Batch, Plain

__all__ = ["Partitioner", "Placement", "Share"]

#: How producers choose the partition of a key. ``"murmur2"``: Java clients and onceflow's ``KafkaSink``. ``"crc32"``:
#: librdkafka, so confluent-kafka too, unless it is told otherwise. ``"log"``: the embedded log.
Partitioner: TypeAlias = Literal["murmur2", "crc32", "log"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the records of a key must lie.

    Attributes:
        topic: For messages.
        field: Of the records: their key.
        partitioner: Puts it there.
        partitions: So many the topic has.
    """

    topic: str
    field: str
    partitioner: Partitioner
    partitions: int

    def check(self, partition: int, records: Batch) -> None:
        """That records which were read from a partition belong there.

        Raises:
            SourceError: One does not.
        """
        wrong = self.first_elsewhere(records, lambda places: places == partition)
        if wrong is None:
            return
        raise SourceError(
            f"partition {partition} of topic {self.topic!r} has a record whose {self.field} is {_shown(wrong[0])}, "
            f"and {self.partitioner} puts that into partition {wrong[1]} of {self.partitions}: so the topic is not "
            f"partitioned by {self.field!r} in this way, or was when it had another number of partitions, and other "
            f"instances may have records of the same key. {_TELL_PARTITIONER}{REPARTITION}",
            partition=str(partition),
        )

    def first_elsewhere(
        self, records: Batch, are_here: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
    ) -> tuple[bytes, int] | None:
        """The first key that does not lie where it should, and its partition; None if all do.

        Args:
            records: With their keys.
            are_here: Which of some partitions are right.

        Raises:
            SourceError: One has no key.
        """
        if not len(records):
            return None
        keys = self._keys(records)
        places = np.array(self._places(keys), np.int64)
        here = are_here(places)
        return None if here.all() else next(compress(zip(keys, places.tolist(), strict=True), ~here))

    def _keys(self, records: Batch) -> list[bytes]:
        try:
            found = (
                to_list(records[self.field])
                if isinstance(records, Columns)
                else [record[self.field] for record in records]
            )
        except (KeyError, TypeError, IndexError) as error:
            raise SourceError(
                f"topic {self.topic!r} is said to be partitioned by {self.field!r}, and a record has no such field"
            ) from error
        if set(map(type, found)) == {bytes}:
            return found
        return [self._bytes(key) for key in found]

    def _bytes(self, key: Any) -> bytes:
        """As ``KafkaSink`` and ``LogSink`` write it. Of other types equal values may be written in different ways."""
        match key:
            case bytes():
                return key
            case str():
                return key.encode()
            case bool() | np.bool_():
                return b"true" if key else b"false"
            case int() | np.integer():
                return b"%d" % int(key)
        what = "None" if key is None else f"a {type(key).__name__}"
        raise SourceError(
            f"topic {self.topic!r} is said to be partitioned by {self.field!r}, and a record has {what} there, which "
            "does not say where it lies: let decode= give bytes, a str, an int or a bool, and raise for records "
            f"without a key, which on_malformed leaves out; or {REPARTITION}"
        )

    def _places(self, keys: list[bytes]) -> Sequence[int]:
        match self.partitioner:
            case "murmur2":
                return _kafka_partitions([*keys], self.partitions, 0)
            case "crc32":
                return [zlib.crc32(key) % self.partitions for key in keys]
            case "log":
                return [partition_of(key, self.partitions) for key in keys]


@dataclass(frozen=True, slots=True)
class Share:
    """What of a topic is read.

    Attributes:
        topic: Its name.
        instance: Of the run; None: all of the topic.
        field: By which the topic is partitioned, as far as it is said.
        partitioner: How.
        is_keyed: There are steps with state by it.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    topic: str
    instance: Instance | None
    field: str | None
    partitioner: Partitioner
    is_keyed: bool = False

    def __post_init__(self) -> None:
        if self.field is not None and (not isinstance(self.field, str) or not self.field):
            raise ConfigurationError(
                f"partitioned_by={self.field!r}: give the name of a field of the records", setting="partitioned_by"
            )
        if self.partitioner not in get_args(Partitioner):
            raise ConfigurationError(
                f"partitioner={self.partitioner!r}: give 'murmur2' or 'crc32'", setting="partitioner"
            )

    def of(self, instance: Instance, keys: Sequence[tuple[str, frozenset[str]]]) -> Share:
        """That of an instance.

        Args:
            instance: Which.
            keys: See ``Source.shared``.

        Raises:
            ConfigurationError: The topic is not said to be partitioned by the key of a step.
        """
        for step_id, fields in keys:
            if self.field is None or self.field not in fields:
                said = "is not said to be partitioned by anything"
                if self.field is not None:
                    said = f"is partitioned by {self.field!r}"
                raise ConfigurationError(
                    f"step {step_id!r} is keyed by {', '.join(map(repr, sorted(fields))) or 'no field of it'}, and "
                    f"topic {self.topic!r} {said}: instance {instance} would have only a part of a key's records. If "
                    "producers choose the partition by that field, say so with partitioned_by='FIELD' of the source, "
                    f"and each record is checked; else {REPARTITION}",
                    setting="instance",
                )
        return replace(self, instance=instance, is_keyed=bool(keys))

    def numbers(self, partitions: Iterable[int]) -> list[int]:
        """Those of its partitions."""
        return [number for number in partitions if self.instance is None or self.instance.has(number)]

    def placement(self, partitions: int) -> Placement | None:
        """What each record is checked by; None: it may lie anywhere."""
        if not self.is_keyed or self.field is None:
            return None
        return Placement(self.topic, self.field, self.partitioner, partitions)

    def check_unchanged(self, partitions: int, records: Batch) -> None:
        """That records which were read and checked are still those of this instance.

        Raises:
            SourceError: One has another key now, whose state is another instance's, or none.
        """
        placement = self.placement(partitions)
        instance = self.instance
        if placement is None or instance is None:
            return
        wrong = placement.first_elsewhere(records, lambda places: places % instance.count == instance.index)
        if wrong is not None:
            raise SourceError(
                f"a record has the {self.field} {_shown(wrong[0])} here, and had another one when it was read from "
                f"topic {self.topic!r}: that key lies in partition {wrong[1]} of {partitions}, so its state is that of "
                f"instance {Instance(wrong[1] % instance.count, instance.count)}, and this run is {instance}"
            )

    def check_count(self, before: int | None, now: int) -> None:
        """A topic that is partitioned by a key has as many partitions as it had, or its keys have moved.

        Args:
            before: As state was begun by them; None: it is not known that there were fewer.
            now: As it is.

        Raises:
            SourceChangedError: It has not.
        """
        if self.is_keyed and before != now:
            had = "fewer when the state of this instance was begun" if before is None else f"{before} before"
            raise SourceChangedError(
                f"topic {self.topic!r} has {now} partitions, and had {had}: keys lie in other partitions now, and so "
                f"come to other instances than their state is in. A topic that is read by key keeps its number of "
                f"partitions. To go on: {REPARTITION}; the new topic may have as many partitions as you like, and this "
                "job starts over, with new state directories"
            )

    def findings(self, partitions: int) -> Iterator[Finding]:
        """What an instance reads of a topic that has so many."""
        if self.instance is None:
            return
        mine = self.numbers(range(partitions))
        subject = f"instance {self.instance}"
        if not mine:
            text = f"reads none of the {partitions} partitions of topic {self.topic!r}"
            yield Finding("warning", subject, text, "it waits for others to come; run fewer instances, or make more")
            return
        shown = ", ".join(map(str, mine[:_MOST_SHOWN])) + (", …" if len(mine) > _MOST_SHOWN else "")
        text = f"reads {len(mine)} of {partitions} partitions of topic {self.topic!r}: {shown}"
        if self.is_keyed:
            text += f"; that {self.partitioner} puts each record there by {self.field!r} is checked as it is read"
        yield Finding("ok", subject, text)

    def sampled(
        self,
        partitions: Iterable[int],
        open_reader: Callable[[str, Plain], SourceReader],
        positions: Mapping[str, Plain] | None,
    ) -> Iterator[Finding]:
        """Whether the next records of some partitions lie where they must; nothing if they may lie anywhere.

        Args:
            partitions: Of the topic.
            open_reader: Of a partition, at a position.
            positions: Where the job has come to.
        """
        if not self.is_keyed:
            return
        until_s, records = time.monotonic() + _SAMPLE_S, 0
        for number in self.numbers(partitions)[:_MOST_SAMPLED]:
            name = str(number)
            try:
                with closing(open_reader(name, (positions or {}).get(name))) as reader:
                    batch = reader.read(_SAMPLE)
                    while batch is not None and not len(batch.records) and time.monotonic() < until_s:
                        # A client that fetches them meanwhile.
                        time.sleep(0.02)
                        batch = reader.read(_SAMPLE)
            except SourceError as error:
                yield Finding("error", f"partition {number} of topic {self.topic!r}", str(error))
                return
            records += 0 if batch is None else len(batch.records)
        text = f"{records} records that were read lie where {self.partitioner} puts them"
        yield Finding("ok", f"topic {self.topic!r}", text)


_SAMPLE, _MOST_SAMPLED, _SAMPLE_S = 100, 4, 3.0
_MOST_SHOWN = 20
_TELL_PARTITIONER = "If other clients than Java's wrote it, partitioner='crc32' of KafkaSource may be theirs; else "


def _shown(key: bytes) -> str:
    text = repr(key)
    return text if len(text) <= 80 else f"{text[:77]}…"
