"""Standard output, for looking at results."""

from __future__ import annotations

import sys

import msgspec

from onceflow.columns import Columns
from onceflow.connectors.files.parts import plain_columns
from onceflow.exceptions import SinkError
from onceflow.sinks import PlainSink, SinkContext, SinkWriter
from onceflow.types import Batch

__all__ = ["StdoutSink"]


class StdoutSink(PlainSink):
    """One line a record: text as it is, anything else as JSON. What was printed cannot be taken back."""

    def open(self, context: SinkContext) -> SinkWriter:
        """See ``Sink``."""
        return _StdoutWriter()


class _StdoutWriter(SinkWriter):
    def write(self, records: Batch) -> None:
        if isinstance(records, Columns):
            records = plain_columns(records).to_rows()
        try:
            lines = [record if isinstance(record, str) else msgspec.json.encode(record).decode() for record in records]
        except (TypeError, ValueError) as error:
            raise SinkError(f"a record cannot be printed as JSON: {error}; map it to plain values first") from error
        sys.stdout.write("".join(f"{line}\n" for line in lines))

    def flush(self) -> None:
        sys.stdout.flush()
