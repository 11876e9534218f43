"""Text files, a record a line."""

from __future__ import annotations

from typing import Any

from onceflow.connectors.files.lines import LineReader
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections, check_policy
from onceflow.connectors.files.partitions import Paths, partitions_of
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.types import Plain

__all__ = ["TextSource"]


class TextSource(Source):
    """Lines of text, without their ends.

    Args:
        paths: A file, a pattern, or several; each file is a partition.
        encoding: Of the text; an ASCII superset such as utf-8 or latin-1.
        on_malformed: What to do with lines that do not decode.
    """

    def __init__(self, paths: Paths, *, encoding: str = "utf-8", on_malformed: str = "fail") -> None:
        self._paths = paths
        self._encoding = encoding
        self._policy: MalformedPolicy = check_policy(on_malformed)
        self.has_dead_letters = self._policy == "dead_letter"

    def partitions(self) -> list[str]:
        """The files."""
        return partitions_of(self._paths)

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return _TextReader(partition, position, self._encoding, self._policy)

    def describe(self) -> dict[str, Any]:
        """See ``Source``."""
        return {"type": "TextSource", "paths": self._paths}


class _TextReader(SourceReader):
    def __init__(self, partition: str, position: Plain, encoding: str, policy: MalformedPolicy) -> None:
        self._lines = LineReader(partition, position)
        self._encoding = encoding
        self._policy = policy

    def read(self, max_records: int) -> SourceBatch | None:
        first = self._lines.line
        lines = self._lines.read(max_records)
        if not lines:
            return None
        rejections = Rejections(self._policy, self._lines.path)
        records: list[str] = []
        for number, line in enumerate(lines, first):
            try:
                records.append(line.removesuffix(b"\r").decode(self._encoding))
            except UnicodeDecodeError as error:
                rejections.add(number, f"is not {self._encoding} ({error.reason})", line)
        return SourceBatch(records, None, rejections.records, rejections.skipped, first - 1)

    def position(self) -> Plain:
        return self._lines.position()

    def close(self) -> None:
        self._lines.close()
