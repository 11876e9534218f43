"""The consumer: what users call, its states, its subscription and its group's offsets."""

from onceflow.log.consumer.consumer import Consumer, IsolationLevel, OnRebalance
from onceflow.log.consumer.state import ConsumerState

__all__ = ["Consumer", "ConsumerState", "IsolationLevel", "OnRebalance"]
