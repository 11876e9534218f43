"""Standard output, for looking at results."""

from __future__ import annotations

import sys

from onceflow.columns import Columns
from onceflow.connectors.values import json_line, plain_columns
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
        try:
            if isinstance(records, Columns):
                records = plain_columns(records).to_rows()
            lines = [record if isinstance(record, str) else json_line(record).decode() for record in records]
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            # Nothing stays behind in a buffer: a process that user code forks would print it a second time.
            sys.stdout.flush()
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise SinkError(f"a record cannot be printed as JSON: {error}; map it to plain values first") from error
        except OSError as error:
            raise _unwritable(error) from error

    def flush(self) -> None:
        try:
            sys.stdout.flush()
        except OSError as error:
            raise _unwritable(error) from error


def _unwritable(error: OSError) -> SinkError:
    return SinkError(f"standard output cannot be written: {error.strerror}; is its reader still there?")
