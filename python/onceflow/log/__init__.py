"""The embedded log: topics of records in a directory, with Kafka's exactly-once and without a daemon.

``Log`` opens the directory, ``Producer`` writes to it (idempotently, or in transactions), ``Consumer`` reads what is
committed, alone or as a member of a group. Several processes may use one directory at the same time. Names and
arguments are those of ``confluent_kafka`` where they mean the same; errors are the exceptions of
``onceflow.exceptions``, raised by the call that they concern.
"""

from onceflow._native import (
    LogGroup,
    LogMaintained,
    LogMember,
    LogPartition,
    LogProducerInfo,
    LogTopic,
    partition_of,
)
from onceflow.log.consumer import Consumer, ConsumerState, IsolationLevel, OnRebalance
from onceflow.log.log import Log
from onceflow.log.membership import ConsumerGroupMetadata
from onceflow.log.message import TIMESTAMP_CREATE_TIME, Message
from onceflow.log.metadata import ClusterMetadata, PartitionMetadata, TopicMetadata
from onceflow.log.producer import OnDelivery, Produced, Producer, ProducerState
from onceflow.log.records import Records
from onceflow.log.topic_partition import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    Positions,
    TopicPartition,
)

__all__ = [
    "OFFSET_BEGINNING",
    "OFFSET_END",
    "OFFSET_INVALID",
    "OFFSET_STORED",
    "TIMESTAMP_CREATE_TIME",
    "ClusterMetadata",
    "Consumer",
    "ConsumerGroupMetadata",
    "ConsumerState",
    "IsolationLevel",
    "Log",
    "LogGroup",
    "LogMaintained",
    "LogMember",
    "LogPartition",
    "LogProducerInfo",
    "LogTopic",
    "Message",
    "OnDelivery",
    "OnRebalance",
    "PartitionMetadata",
    "Positions",
    "Produced",
    "Producer",
    "ProducerState",
    "Records",
    "TopicMetadata",
    "TopicPartition",
    "partition_of",
]
