"""What sources and sinks of topics share: those of the embedded log and those of Kafka."""
