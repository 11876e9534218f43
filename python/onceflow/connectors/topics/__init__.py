"""What sinks to topics share: those of the embedded log and those of Kafka."""
