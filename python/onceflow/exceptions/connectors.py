"""What sources and sinks refuse."""

from __future__ import annotations

from onceflow.exceptions.base import OnceflowError

__all__ = ["MalformedRecordError", "SinkError", "SourceChangedError", "SourceError"]


class SourceError(OnceflowError):
    """Input that cannot be read; the text names the file and what to do.

    Attributes:
        step_id: The source.
        partition: Name of the partition.
    """

    kind = "source"

    def __init__(self, message: str = "", *, step_id: str | None = None, partition: str | None = None) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.partition = partition


class SourceChangedError(SourceError):
    """The input shrank or changed since the checkpoint: resuming would not be exact.

    Attributes:
        step_id: The source.
        partition: Name of the partition.
        position: Byte, row or offset up to which it was read; records where the run counts them.
    """

    kind = "source_changed"

    def __init__(
        self,
        message: str = "",
        *,
        step_id: str | None = None,
        partition: str | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.partition = partition
        self.position = position


class MalformedRecordError(SourceError):
    """A record that does not parse, with its source, position and text.

    Attributes:
        step_id: The source.
        partition: Name of the partition.
        position: Line, row or offset of the record, or how its format says it.
        text: Of the record; bytes that are no UTF-8 are escaped.
    """

    kind = "malformed_record"

    def __init__(
        self,
        message: str = "",
        *,
        step_id: str | None = None,
        partition: str | None = None,
        position: int | str | None = None,
        text: str | None = None,
    ) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.partition = partition
        self.position = position
        self.text = text


class SinkError(OnceflowError):
    """Output that cannot be written.

    Attributes:
        step_id: The sink.
    """

    kind = "sink"

    def __init__(self, message: str = "", *, step_id: str | None = None) -> None:
        super().__init__(message)
        self.step_id = step_id
