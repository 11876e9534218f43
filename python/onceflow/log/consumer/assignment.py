"""Which partitions a consumer reads, and from where on: chosen by itself, or given by its group."""

from __future__ import annotations

from collections.abc import Iterable

from onceflow.exceptions import ConfigurationError
from onceflow.log.consumer.arguments import check_partition, checked_partitions
from onceflow.log.consumer.state import Call, check
from onceflow.log.consumer.subscription import Subscription
from onceflow.log.topic_partition import Place, TopicPartition

__all__ = ["Assignment"]


class Assignment(Subscription):
    """What a consumer can do with the partitions that it reads; a part of ``Consumer``.

    In ``on_assign`` and ``on_revoke`` the calls that assign are about the partitions that come or go there, and no
    others: as in ``confluent_kafka`` they may say where those are read from, and which of them are not read.
    """

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads these partitions and no others, without sharing; in ``on_assign``, those that came from where it says.

        Args:
            partitions: From their offsets on; without one (or with ``OFFSET_STORED``) from what the group has
                committed, else from what ``auto_offset_reset`` says.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
            ConfigurationError: The consumer has subscribed to topics, and no callback of it runs.
        """
        partitions = checked_partitions("assign", partitions)
        with self._lock:
            self._check_usable()
            if self._moving is not None:
                self._read_moving(self._moving, partitions)
                return
            check(self.state, Call.ASSIGN)
            self._reader.assign({each.place: each.offset for each in partitions})

    def unassign(self) -> None:
        """Reads nothing; in ``on_assign`` and ``on_revoke``, nothing of what comes or goes."""
        self.assign([])

    def incremental_assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads these partitions too; in ``on_assign`` as ``assign``.

        Args:
            partitions: As of ``assign``.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
            ConfigurationError: One is read already; or the consumer has subscribed, and no callback of it runs.
        """
        partitions = checked_partitions("incremental_assign", partitions)
        with self._lock:
            self._check_usable()
            if self._moving is not None:
                self._read_moving(self._moving, partitions)
                return
            check(self.state, Call.ASSIGN)
            for topic, partition in (each.place for each in partitions):
                if (topic, partition) in self._reader.positions:
                    raise ConfigurationError(f"partition {partition} of {topic!r} is assigned to this consumer already")
            self._reader.add({each.place: each.offset for each in partitions})

    def incremental_unassign(self, partitions: Iterable[TopicPartition]) -> None:
        """Does not read these partitions any more, and goes on with the others.

        Raises:
            ConfigurationError: Not one of this consumer's partitions; or it has subscribed, and no callback of it runs.
        """
        partitions = checked_partitions("incremental_unassign", partitions)
        with self._lock:
            self._check_usable()
            if self._moving is None:
                check(self.state, Call.ASSIGN)
                self._reader.remove(self._own(partitions))
            else:
                self._check_moving(self._moving, partitions)
                self._reader.remove(each.place for each in partitions)

    def _read_moving(self, moving: frozenset[Place], partitions: list[TopicPartition]) -> None:
        self._check_moving(moving, partitions)
        self._reader.remove(moving)
        self._reader.add({each.place: each.offset for each in partitions})

    @staticmethod
    def _check_moving(moving: frozenset[Place], partitions: list[TopicPartition]) -> None:
        for topic, partition in (each.place for each in partitions):
            if (topic, partition) not in moving:
                raise ConfigurationError(
                    f"partition {partition} of {topic!r} is not among those that the callback is about"
                )

    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read now."""
        with self._lock:
            return [TopicPartition(*place) for place in self._reader.positions]

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Does not read these partitions until ``resume``, and keeps them.

        Raises:
            ConfigurationError: Not one of this consumer's partitions.
        """
        partitions = checked_partitions("pause", partitions)
        with self._lock:
            for place in self._own(partitions):
                self._reader.pause(place)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads paused partitions again.

        Raises:
            ConfigurationError: Not one of this consumer's partitions.
        """
        partitions = checked_partitions("resume", partitions)
        with self._lock:
            for place in self._own(partitions):
                self._reader.resume(place)

    def seek(self, partition: TopicPartition) -> None:
        """Reads a partition on from an offset, or from ``OFFSET_BEGINNING``, ``OFFSET_END`` or ``OFFSET_STORED``.

        Raises:
            ConfigurationError: Not one of this consumer's partitions.
        """
        check_partition("seek", partition)
        with self._lock:
            self._check_usable()
            (place,) = self._own([partition])
            self._reader.seek(place, partition.offset)

    def _own(self, partitions: Iterable[TopicPartition]) -> list[Place]:
        places = [each.place for each in partitions]
        for topic, partition in places:
            if (topic, partition) not in self._reader.positions:
                raise ConfigurationError(f"partition {partition} of {topic!r} is not assigned to this consumer")
        return places
