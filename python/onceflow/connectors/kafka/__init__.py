"""Topics of Apache Kafka as source and sink of a dataflow (extra ``kafka``: confluent-kafka)."""

from onceflow.connectors.kafka.codecs import AvroCodec, ProtobufCodec
from onceflow.connectors.kafka.sink import KafkaPlainSink, KafkaSink
from onceflow.connectors.kafka.source import KafkaSource

__all__ = ["AvroCodec", "KafkaPlainSink", "KafkaSink", "KafkaSource", "ProtobufCodec"]
