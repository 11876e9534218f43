"""Redis: upserts by key and streams, each with the marker of their checkpoint. Needs ``onceflow[redis]``."""

from onceflow.connectors.redis.sinks import RedisSink, RedisStreamSink, RedisUpsertSink
from onceflow.connectors.redis.source import RedisStreamSource

__all__ = ["RedisSink", "RedisStreamSink", "RedisStreamSource", "RedisUpsertSink"]
