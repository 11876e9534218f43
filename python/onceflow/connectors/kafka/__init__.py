"""Topics of Apache Kafka as source and sink of a dataflow (extra ``kafka``: confluent-kafka)."""

__all__: list[str] = []
