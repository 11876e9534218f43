"""``onceflow state``: the tables of a job, for people and for other programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from onceflow.cli.console import note, print_table
from onceflow.cli.directory import DIRECTORY_HELP, job_record, reader
from onceflow.cli.units import bytes_text, count_text
from onceflow.exceptions import ConfigurationError

if TYPE_CHECKING:
    from onceflow._native import StateBackend, TableSchema

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look at the state of a job; it may be running.")


class _Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"
    ARROW = "arrow"


_Directory = Annotated[Path, typer.Argument(metavar="DIR", help=DIRECTORY_HELP)]
_Checkpoint = Annotated[
    int | None, typer.Option(metavar="N", help="The state as of this checkpoint instead of the newest.")
]


@app.command()
def ls(directory: _Directory, checkpoint: _Checkpoint = None) -> None:
    """List the tables: key, columns, rows, memory. A stateful step's id is the name of its table."""
    with reader(directory, checkpoint or "newest") as backend:
        _tell_damage(backend)
        _list_tables(backend, backend.tables())


@app.command()
def dump(
    directory: _Directory,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A stateful step's id; state ls lists them.")],
    format: Annotated[_Format, typer.Option(help="Of the rows; arrow is an Arrow IPC stream.")] = _Format.CSV,
    checkpoint: _Checkpoint = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of standard output.")
    ] = None,
) -> None:
    """Write all rows of a table: key, then columns.

    A key that is a tuple becomes the columns key_0, key_1 and so on. Cells that the msgpack codec wrote are decoded
    (csv and jsonl); other bytes, also pickles, are written as base64. The rows come in no particular order.

    A step's keys that are None, bools, times or integers beyond 64 bits lie in the table STEP:keys, and their
    type in STEP:type; values that no column of an aggregate holds lie in STEP/RESULT.
    """
    with reader(directory, checkpoint or "newest") as backend:
        _tell_damage(backend)
        schemas = backend.tables()
        schema = schemas.get(table)
        if schema is None:
            known = ", ".join(schemas) or "none"
            raise ConfigurationError(f"{directory} has no table {table!r}; it has {known}")
        if format is _Format.ARROW and output is None and sys.stdout.isatty():
            raise ConfigurationError("an Arrow stream is not for a terminal; redirect it, or give --output FILE")

        from onceflow.cli.export import write_arrow, write_csv, write_jsonl  # noqa: PLC0415 - loads numpy

        restored = backend.recovery.restored
        job = None if restored is None else job_record(restored)
        codec = None if job is None else job.codec
        write = {_Format.CSV: write_csv, _Format.JSONL: write_jsonl, _Format.ARROW: write_arrow}[format]
        rows = backend.table(table, key=schema.key, columns=schema.columns)
        with _opened(output) as file:
            write(file, rows, backend.key_groups, codec)
        if output is not None:
            note(f"{output}: {count_text(len(rows))} rows")


def _tell_damage(backend: StateBackend) -> None:
    from onceflow.cli.console import warning  # noqa: PLC0415 - rare

    recovery = backend.recovery
    for _, reason in recovery.damage:
        warning(f"damage found: {reason}")
    if recovery.damage and recovery.restored is not None:
        warning(f"this is the state of checkpoint {recovery.restored.id}, the newest one that is sound")


def _list_tables(backend: StateBackend, schemas: dict[str, TableSchema]) -> None:
    if not schemas:
        note(f"{backend.path} has no tables{_why_none(backend)}")
        return
    rows = []
    for name, schema in schemas.items():
        key = schema.key if isinstance(schema.key, str) else f"({', '.join(schema.key)})"
        columns = ", ".join(f"{column} {kind}" for column, kind in schema.columns.items())
        table = backend.table(name, key=schema.key, columns=schema.columns)
        rows.append([name, key, columns, count_text(len(table)), bytes_text(table.memory_bytes())])
    print_table(["table", "key", "columns", "rows", "memory"], rows, right=["rows", "memory"])


def _why_none(backend: StateBackend) -> str:
    restored = backend.recovery.restored
    if restored is None:
        return ": there is no checkpoint yet"
    job = job_record(restored)
    if job is None or job.workers == 1:
        return ""
    return f": those of the {job.workers} workers lie in {backend.path}/workers/0 and so on"


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that gets its name when it is complete."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if output.exists() and not output.is_file():
        # A pipe or a device has its name already.
        with _os_errors(output), output.open("wb") as file:
            yield file
        return
    partial = output.with_name(f"{output.name}.partial")
    try:
        with _os_errors(output), partial.open("wb") as file:
            yield file
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _os_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be written: {error.strerror}") from error
