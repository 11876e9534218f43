"""The embedded log as source and sink of a dataflow: a chain log → job → log is exactly-once end to end.

Source: the topic's partitions are its partitions, offsets its positions. Sink: the output of a checkpoint becomes
visible at once, in one transaction of the log, after the checkpoint was decided.
"""

from onceflow.connectors.log.sink import LogSink
from onceflow.connectors.log.source import LogSource

__all__ = ["LogSink", "LogSource"]
