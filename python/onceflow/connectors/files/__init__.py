"""Files as sources and sinks: CSV, JSON Lines, text lines, Parquet, Arrow IPC.

Sources: several files are several partitions; a position is a byte offset and a fingerprint of what lies before it,
so that a resumed job notices when a file shrank or changed. Sinks: one part file for each checkpoint that has output,
staged and synced before the checkpoint's decision, renamed into place after it.
"""

from onceflow.connectors.files.arrow import ParquetSink
from onceflow.connectors.files.arrow_source import ArrowIpcSource, ParquetSource
from onceflow.connectors.files.csv import CsvSource
from onceflow.connectors.files.csv_sink import CsvSink
from onceflow.connectors.files.jsonl import JsonLinesSink, JsonLinesSource
from onceflow.connectors.files.parts import read_parts
from onceflow.connectors.files.text import TextSource

__all__ = [
    "ArrowIpcSource",
    "CsvSink",
    "CsvSource",
    "JsonLinesSink",
    "JsonLinesSource",
    "ParquetSink",
    "ParquetSource",
    "TextSource",
    "read_parts",
]
