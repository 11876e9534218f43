"""The producer: what users call, its states, its buffer, and what writes from it to the log."""

from onceflow.log.producer.batches import OnDelivery, Produced
from onceflow.log.producer.producer import Producer
from onceflow.log.producer.state import ProducerState

__all__ = ["OnDelivery", "Produced", "Producer", "ProducerState"]
