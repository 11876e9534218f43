"""The extension module: conversion between Python and the Rust core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict, Unpack, final

import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

from onceflow.types import ColumnType, KeyElementType, Operation

__all__ = [
    "CRASH_POINTS",
    "AlignerAction",
    "BarrierAligner",
    "CheckpointCoordinator",
    "CheckpointInfo",
    "CheckpointStats",
    "CoordinatorEffect",
    "Deduplicator",
    "Log",
    "LogGroup",
    "LogMaintained",
    "LogMember",
    "LogPartition",
    "LogProducer",
    "LogProducerInfo",
    "LogProducerPhase",
    "LogRecords",
    "LogTopic",
    "PendingCheckpoint",
    "Recovery",
    "RecoveryPlan",
    "Rows",
    "StateBackend",
    "Table",
    "TableSchema",
    "Verdicts",
    "VerifyReport",
    "WakeHandle",
    "_CsvBlocks",
    "__version__",
    "_any_moved",
    "_bare_update_loop",
    "_copy_lines",
    "_count_lines",
    "_crc32",
    "_flat_copy",
    "_is_plain",
    "_kafka_partitions",
    "_key_groups",
    "_plain_copy",
    "_split_lines",
    "_uncommon",
    "crash_point",
    "key_group",
    "partition_of",
    "recovery_plan",
    "verify",
]

# Anything that holds keys: a numpy integer array, an Arrow array (any object with
# ``__arrow_c_array__`` or ``__arrow_c_stream__``), or a list of int, str, bytes or tuples;
# for tuple keys also a tuple with one such array for each element.
_Keys: TypeAlias = Any
# Values of one column: a numpy array, an Arrow array, a list, or one scalar for the batch.
_Values: TypeAlias = Any

__version__: str
CRASH_POINTS: bool

def crash_point(name: str) -> None:
    """Kills, stops or holds here as the environment says; does nothing unless built with the feature."""

def _bare_update_loop(
    keys: npt.NDArray[np.int64], values: npt.NDArray[np.float64], cells: npt.NDArray[np.uint64]
) -> None:
    """The yardstick of the benchmarks, of no other use: sum and count in an array indexed by the key.

    What any keyed update does at least, without hashing, a growing table, dirty tracking or
    checks for overflow: a random read, a change and a write. Contiguous arrays.

    Args:
        keys: Numbers of cells.
        values: One a key.
        cells: Two words a cell: the bits of the sum (float64), and the count.

    Raises:
        IndexError: No such cell. Those before it are updated.
        ValueError: Lengths that do not match.
    """

def _copy_lines(columns: list[tuple[str, list[Any]]], keys: int) -> tuple[list[bytes], list[bytes]] | int:
    """Rows as PostgreSQL's COPY reads them.

    Args:
        columns: Kind ("bool", "int2", "int4", "int8", "float8", "text", or "ready" for texts that are escaped) and
            values of each, all of one length.
        keys: How many columns, the first ones, are the key of a row; 0: there is none.

    Returns:
        The key of each row, and its line; without a key none, and all lines in one. Or the number of a column that
        has a value which is not plainly of its kind.

    Raises:
        ConfigurationError: No such kind, or columns of different lengths.
    """

def _count_lines(data: bytes) -> int:
    """How many lines end in a block."""

def _split_lines(data: bytes, start: int, count: int) -> tuple[list[bytes], int]:
    """Up to so many lines of a block from a place in it on, without their ends, and the place behind them.

    Args:
        data: Whole lines.
        start: Where the first one begins.
        count: How many.
    """

def _crc32(data: bytes, value: int = 0) -> int:
    """CRC-32 as ``zlib.crc32`` has it, several times faster.

    Args:
        data: What follows.
        value: Of what lies before.
    """

def _kafka_partitions(keys: list[bytes | None], partitions: int, unkeyed: int) -> list[int]:
    """The partitions of records, as Apache Kafka's Java clients choose them by the key (murmur2).

    Args:
        keys: bytes or None, one a record.
        partitions: How many the topic has.
        unkeyed: The partition of records without a key.
    """

@final
class _CsvBlocks:
    """Reads records of CSV out of blocks of a file where they have one reading only, the one of Python's ``csv`` in its
    strict mode and of ``csv_types.py``. Of any other block it says None: read that by those.

    Args:
        width: Fields of a record.
        delimiter: One ASCII character.
        columns: Those that are asked for: name, number of the field, type as ``COLUMN_TYPES`` names it, and whether the
            type was guessed, so that values must come back as they are written.
        nulls: Texts that mean that a value is missing.
        event_time: The column that holds it, in the same way.
        is_utf8: The text is UTF-8; otherwise what is not ASCII is left to others.

    Raises:
        ConfigurationError: No such type, or no such field.
    """

    def __new__(
        cls,
        *,
        width: int,
        delimiter: str,
        columns: Sequence[tuple[str, int, str, bool]],
        nulls: Sequence[str],
        event_time: tuple[str, int, str, bool] | None,
        is_utf8: bool,
    ) -> _CsvBlocks: ...
    def columns(
        self, data: bytes, start: int, lines: int, *, batch_bytes: int, record_bytes: int, is_end: bool
    ) -> tuple[list[Any], npt.NDArray[np.int64] | None, tuple[int, int, int]] | None:
        """Records as Arrow arrays.

        Args:
            data: Whole lines.
            start: Where the first record begins in them.
            lines, batch_bytes: Records are taken that begin in so many lines, or in so many bytes of lines without
                their ends if that is less, but one line at least.
            record_bytes: A record of several lines has no more.
            is_end: Nothing follows the block.

        Returns:
            An array a column, the event times, and how many records (blank lines too), lines and bytes that is; None
            if something may have another reading.
        """

    def rows(
        self, data: bytes, start: int, lines: int, *, batch_bytes: int, record_bytes: int, is_end: bool
    ) -> tuple[list[Any], npt.NDArray[np.int64] | None, tuple[int, int, int]] | None:
        """Records as dicts; see ``columns``."""

def _any_moved(records: list[Any], results: list[Any]) -> bool:
    """Whether one of the results is a record of another place, by its identity.

    Values that cannot be changed are passed over: equal numbers and texts may be one object.
    """

def _flat_copy(value: Any) -> Any:
    """A copy of a list or dict of values that cannot be changed; such a value, or a tuple of some, as it is.

    Returns:
        None where anything else is in it.
    """

def _is_plain(value: Any) -> bool:
    """Whether msgpack writes a value as what it is: it is None, a bool, an int, a float, a text or bytes, or a list of
    such values, or a dict of such with texts or ints as keys.

    Types are compared exactly. An int may be too large all the same, and a text one that UTF-8 cannot write. False
    where values are nested more than 500 deep.
    """

def _plain_copy(value: Any) -> Any:
    """A copy of a list, tuple or dict, and of those in it to their depths; what cannot be changed is shared.

    Types are compared exactly.

    Returns:
        The copy, or the value itself if nothing in it can be changed. None where something in it is of another
        type, or nested more than 500 deep.
    """

def _uncommon(values: list[Any]) -> list[Any] | None:
    """What is in values, also in their dicts, lists and tuples, besides None, bools, ints, finite floats and texts.

    Types are compared exactly: of a subclass, an encoder may write something else than the value.

    Returns:
        These values in no particular order; None where a dict has a key that is not a text, or where values are
        nested more than a thousand deep.
    """

# ---- state backend (owner: bindings) -----------------------------------------------------

@final
class StateBackend:
    """Tables of keyed state in a directory that a crash at any moment leaves whole.

    One process owns a directory, others may read it. ``open`` restores the newest checkpoint;
    ``checkpoint`` makes what was done since durable, at once or not at all. Safe to use from several
    threads; a context manager that closes.

    What is made by a backend belongs to it. Once it is closed every use of it and of its tables,
    deduplicators and checkpoints raises ``BackendClosedError``; in a child that was forked since it
    was opened, ``StoreForkedError``: open the directory after the fork. (``close`` and ``abort`` do
    nothing in such a child, since all of it is the parent's.)
    """

    @staticmethod
    def open(
        path: str | PathLike[str],
        *,
        job: str | None = None,
        key_groups: int | None = None,
        retain: int = 2,
        create: bool = True,
        read_only: bool = False,
        take_over: bool = False,
        resume_from: int | str = "newest",
        lineage: int | None = None,
        restore_key_groups: tuple[int, int] | None = None,
        max_state_bytes: int = ...,
        map_size_bytes: int = ...,
        chunk_bytes: int = ...,
    ) -> StateBackend:
        """Opens or creates a state directory and restores a checkpoint.

        Args:
            path: The directory; made private to the owner.
            job: Name of the job that it belongs to; another name is refused. None: ``"default"``, or, to a reader,
                whatever job.
            key_groups: A power of two, fixed when the directory is created. None: 128, or, to a reader, as many as it
                has.
            retain: Complete checkpoints kept besides savepoints.
            create: Whether to create what is missing.
            read_only: Only look: no lock, no new epoch.
            take_over: Fence a running or paused owner instead of being refused.
            resume_from: ``"newest"``, ``"none"`` (empty tables) or the number of a checkpoint. Another one than the
                newest starts a new lineage, for good from ``begin_lineage`` or the first checkpoint on.
            lineage: Number of the lineage, if one begins, which no other copy of the directory may get. None: of the
                time, in milliseconds, with six digits behind it that are drawn.
            restore_key_groups: First group, and the one after the last.
            max_state_bytes: Memory bound of each table.
            map_size_bytes: Address space reserved for the file (sparse).
            chunk_bytes: Size at which a state chunk is cut.

        Raises:
            StoreLockedError, StoreMissingError, StoreMismatchError, StoreFormatError,
            StoreCorruptError, StoreReadOnlyError, StoreFullError, StoreNetworkFilesystemError,
            CheckpointNotFoundError, ConfigurationError, StoreIOError.
        """
    @property
    def path(self) -> str: ...
    @property
    def job(self) -> str: ...
    @property
    def store_id(self) -> str:
        """Identity of the directory, drawn when it was created: 32 hex digits. A copy or a backup has the same."""
    @property
    def job_epoch(self) -> int: ...
    @property
    def lineage(self) -> int:
        """The lineage that this run's checkpoints belong to."""
    def raise_lineage(self, above: int) -> bool:
        """Gives a lineage that begins a number above another one, which was found in a target, such as where the clock
        of a copy of the directory was ahead. False if none begins, or it has begun."""
    def begin_lineage(self) -> None:
        """Makes it durable that the job goes on from the checkpoint that was opened: from now on it is resumed in the
        new lineage, also after a crash. Does nothing if the lineage is not new."""
    @property
    def run(self) -> str:
        """Identity of the run that has opened it: 32 hex digits that no other run has, also not of a copy of the
        directory with the same epoch."""
    def begin_run(self) -> None:
        """Makes it durable that this run begins, before it shows anywhere outside."""
    def runs(self) -> dict[int, str]:
        """Job epoch → identity of the runs that have begun, as many as are kept: all of them from the first one on."""
    @property
    def resumes_from(self) -> int | None:
        """The newest checkpoint that the job has not left; None: it would start from nothing."""
    @property
    def key_groups(self) -> int: ...
    @property
    def recovery(self) -> Recovery: ...
    def table(
        self, name: str, *, key: KeyElementType | Sequence[KeyElementType], columns: Mapping[str, ColumnType]
    ) -> Table:
        """The table of this name: the restored one, or a new one.

        Args:
            name: 1 to 400 bytes, not beginning with two underscores.
            key: ``"i64"``, ``"u64"``, ``"str"``, ``"bytes"``, or up to 16 of these for tuple keys.
            columns: Up to 30, by name: ``"i64"``, ``"u64"``, ``"f64"``, ``"f32"``, ``"u32"``,
                ``"bool"`` or ``"bytes"``.

        Raises:
            SchemaMismatchError: It exists with another key or other columns.
            ConfigurationError: A name or type that cannot be.
        """
    def tables(self) -> dict[str, TableSchema]:
        """What tables there are, by name."""
    def drop_table(self, name: str) -> None:
        """Forgets a table from the next checkpoint on; waits for one that was cut with it.

        Using a handle of it that is left raises ``BackendClosedError``.

        Raises:
            UnknownNameError: There is none of this name.
            CheckpointStateError: A checkpoint was begun and neither committed nor aborted.
        """
    def deduplicator(
        self,
        name: str,
        *,
        mode: Literal["strict", "compatible"] = "strict",
        window: int = 5,
        order: Literal["ordered", "unordered"] = "ordered",
        max_producers: int = 1_000_000,
        max_bytes: int = 1 << 30,
        expiry_s: float | None = None,
        now_s: float = 0.0,
    ) -> Deduplicator:
        """A deduplicator whose changes are part of every checkpoint of this backend."""
    def begin_checkpoint(self, *, savepoint: str | None = None) -> PendingCheckpoint:
        """Starts a checkpoint step by step, once the one before is durable.

        Then ``freeze`` (the cut), ``put_blob`` and ``stage``, and at last ``write``, ``commit`` or ``abort``.
        """
    def checkpoint(
        self,
        positions: Mapping[str, int | str | bytes] | None = None,
        *,
        savepoint: str | None = None,
    ) -> PendingCheckpoint:
        """begin, freeze, keep ``positions``, commit: in one call.

        Returns at once but for the checkpoint before, which it waits for; ``wait`` says when it is
        durable. Changes made from now on belong to the next one.

        Args:
            positions: Where each input is read on from, by name; ``positions`` after a restart.
            savepoint: A name: the checkpoint is kept until it is deleted.

        Raises:
            CheckpointStateError: One was begun and neither committed nor aborted.
            FencedError, BackendClosedError, StoreError: As they say.
        """
    @property
    def positions(self) -> dict[str, int | str | bytes]:
        """The positions of the checkpoint that was restored."""
    def checkpoints(self) -> list[CheckpointInfo]:
        """All complete checkpoints, oldest first; a damaged record is in its place, with ``damage``."""
    def delete_checkpoint(self, checkpoint_id: int) -> None:
        """Removes a savepoint or an old checkpoint; ``CheckpointStateError`` for the newest one."""
    def newest_job_epoch(self) -> int:
        """The newest job epoch that the directory knows, whoever has it: to a reader that of the run which owns it, or
        owned it last."""
    def check_epoch(self) -> None:
        """Raises ``FencedError`` if a newer run has taken over."""
    def poll(self) -> None:
        """Lets a checkpoint under way go on for a moment; calls on tables do so anyway."""
    def size(self) -> tuple[int, int]:
        """(file_bytes, used_bytes)."""
    def backup(self, target: str | PathLike[str]) -> None:
        """Copies the directory as it is at one moment to a new one, while everything goes on."""
    def close(self) -> None:
        """Waits for the checkpoint that is being written, aborts one that was not committed, and lets go
        of the directory. Closing twice is no error; in a forked child it does nothing.
        """
    def __enter__(self) -> StateBackend: ...
    def __exit__(self, *_exc: object) -> None: ...

@final
class TableSchema:
    """Types of a table's key and columns."""

    @property
    def key(self) -> KeyElementType | tuple[KeyElementType, ...]: ...
    @property
    def columns(self) -> dict[str, ColumnType]: ...

@final
class Table:
    """Keyed state: one row a key; whole batches at a time, from several threads if need be.

    Keys and values are lists, numpy arrays of any layout and byte order, or Arrow arrays (pyarrow,
    polars and whatever else has ``__arrow_c_array__`` or ``__arrow_c_stream__``); tuple keys also a
    tuple of one such array for each element. A value may also be one scalar for the batch. They are
    converted to the table's types where that changes no value, and refused elsewhere: None and nulls
    (filter them out), masked values, floats for integers, bools for numbers, numbers out of range or
    not exact (0.1 in an f32 column: give ``numpy.float32(0.1)``), Arrow arrays that are not valid.

    Every call on a batch raises, and then leaves the table as it was:
        TypeMismatchError, LengthMismatchError, UnknownNameError, ConfigurationError: What was given.
        StateOverflowError: A sum would leave the range of its column.
        NotANumberError: NaN, or an infinity in a sum.
        CapacityExceededError: The table would pass ``max_state_bytes``.
    """

    @property
    def name(self) -> str: ...
    @property
    def schema(self) -> TableSchema: ...
    def __len__(self) -> int: ...
    def update(self, keys: _Keys, updates: Mapping[str, tuple[Operation, _Values]]) -> None:
        """Several columns in one pass: ``{"sum": ("add", values), "count": ("count", None)}``.

        Operations: add, min, max, first, last (= put), count (adds one to an integer column for
        each key; its values are None).
        """
    def add(self, keys: _Keys, /, **values: _Values) -> None:
        """Adds to number columns; a cell that was never set takes the value."""
    def min(self, keys: _Keys, /, **values: _Values) -> None:
        """Keeps the least value of number columns."""
    def max(self, keys: _Keys, /, **values: _Values) -> None:
        """Keeps the greatest value of number columns."""
    def first(self, keys: _Keys, /, **values: _Values) -> None:
        """Sets cells that were never set."""
    def last(self, keys: _Keys, /, **values: _Values) -> None:
        """Sets cells; the last one of a key counts. The same as ``put``."""
    def count(self, keys: _Keys, column: str) -> None:
        """Adds one to an integer column (or f64) for each key."""
    def put(self, keys: _Keys, /, **values: _Values) -> None:
        """Sets cells; other columns of the row stay as they are."""
    def get(self, keys: _Keys) -> Rows:
        """One row a key in the order of ``keys``; ``found`` says which are there."""
    def get_distinct(self, keys: _Keys) -> tuple[Rows, npt.NDArray[np.int64]]:
        """The rows of those keys that are there, each once, in the order in which the keys first occur; and the index
        in ``keys`` of each one's first occurrence."""
    def get_bytes(self, keys: _Keys, column: str) -> list[bytes | None]:
        """One value a key of a bytes column; None where the key or the cell is missing."""
    def contains(self, keys: _Keys) -> npt.NDArray[np.bool_]:
        """For each key whether it has a row."""
    def delete(self, keys: _Keys) -> npt.NDArray[np.bool_]:
        """Removes rows; for each key whether there was one."""
    def scan(self, first_group: int = 0, end_group: int | None = None, *, sort: bool = False) -> Rows:
        """All rows of key groups ``first_group <= g < end_group``, in hash order, or sorted by key."""
    def drain_below(self, bound: int) -> Rows:
        """Removes and returns the rows whose key (or its first element), an i64, is below ``bound``; sorted by key."""
    def memory_bytes(self) -> int:
        """Memory that the table holds, free slots included."""

@final
class Rows:
    """Rows handed out by a table."""

    def __len__(self) -> int: ...
    @property
    def keys(self) -> Any:
        """numpy array (i64, u64), list of str/bytes, or list of tuples."""
    def key_columns(self) -> tuple[Any, ...]:
        """For each element of the keys a numpy array (i64, u64) or a list of str or bytes."""
    def slice(self, start: int, stop: int) -> Rows:
        """A copy of the rows ``start <= row < stop``."""
    @property
    def found(self) -> npt.NDArray[np.bool_]: ...
    @property
    def columns(self) -> dict[str, Any]:
        """numpy array for each fixed-width column, list of bytes for a bytes column."""
    def is_complete(self, column: str) -> bool:
        """True if no cell of the column is unset."""
    def validity(self, column: str) -> npt.NDArray[np.bool_]:
        """Which rows of a column have a value."""
    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """A struct array: key column(s), then the columns; unset cells are null."""

@final
class PendingCheckpoint:
    """A checkpoint under way: open until ``write``, ``commit`` or ``abort``, then on its way to the disk, then done.

    If the last reference goes before that it is aborted. Names, sinks and values: str and bytes.

    Raises:
        CheckpointStateError: A call that comes too late. BackendClosedError, StoreForkedError: As they say.
    """

    @property
    def id(self) -> int: ...
    def freeze(self, tables: Sequence[str] | None = None) -> None:
        """Cuts the tables (None: all): what changes from now on belongs to the next checkpoint."""
    def put_blob(self, name: str, value: bytes) -> None:
        """Keeps a small value in the decision record."""
    def stage(self, sink: str, value: bytes | list[bytes]) -> None:
        """Keeps what a sink needs to commit its output, in the decision record: pieces are joined."""
    def write(self) -> CheckpointStats:
        """Writes it on the calling thread, without the GIL: returns when it is durable, or raises what it met.

        A signal waits for the end of it; ``commit`` and ``wait`` do the same with a thread that is started for it.
        """
    def commit(self) -> None:
        """Has it written in the background; ``wait`` says when it is durable."""
    def abort(self) -> None:
        """Gives it up: what was cut counts as changed again."""
    def wait(self, timeout_s: float | None = None) -> CheckpointStats:
        """Waits until durable; raises TimeoutError, or what the writer met."""
    @property
    def done(self) -> bool: ...

@final
class CheckpointStats:
    """What a checkpoint cost."""

    @property
    def id(self) -> int: ...
    @property
    def delta_rows(self) -> int: ...
    @property
    def base_rows(self) -> int: ...
    @property
    def bytes_written(self) -> int: ...
    @property
    def freeze_s(self) -> float: ...
    @property
    def capture_s(self) -> float: ...
    @property
    def longest_pause_s(self) -> float: ...
    @property
    def durable_s(self) -> float: ...
    @property
    def encode_s(self) -> float: ...
    @property
    def commit_s(self) -> float: ...

@final
class CheckpointInfo:
    """A decision record."""

    @property
    def id(self) -> int: ...
    @property
    def job_epoch(self) -> int: ...
    @property
    def lineage(self) -> int: ...
    @property
    def created_unix_ms(self) -> int: ...
    @property
    def savepoint(self) -> str | None: ...
    @property
    def tables(self) -> dict[str, int]:
        """Rows by table name."""
    @property
    def blobs(self) -> dict[str, bytes]: ...
    @property
    def positions(self) -> dict[str, int | str | bytes]:
        """What ``StateBackend.checkpoint`` was given."""
    @property
    def staged(self) -> dict[str, bytes]: ...
    @property
    def chunks(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def damage(self) -> str | None:
        """Why the record cannot be read, if so."""

@final
class Recovery:
    """What opening a state directory found."""

    @property
    def restored(self) -> CheckpointInfo | None: ...
    @property
    def decided_after(self) -> list[CheckpointInfo]: ...
    @property
    def damage(self) -> list[tuple[int | None, str]]: ...
    @property
    def rows(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def duration_s(self) -> float: ...

def verify(path: str | PathLike[str]) -> VerifyReport:
    """Checks every record and chunk in this process; damage may kill it (run it in a child)."""

@final
class VerifyReport:
    """What ``verify`` found."""

    @property
    def checkpoints(self) -> list[int]: ...
    @property
    def chunks(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def damage(self) -> list[tuple[int | None, str]]: ...

def key_group(
    key: int | str | bytes | tuple[Any, ...], key_type: KeyElementType | Sequence[KeyElementType], key_groups: int
) -> int:
    """The key group that a key belongs to."""

def _key_groups(
    keys: _Keys, key_type: KeyElementType | Sequence[KeyElementType], key_groups: int
) -> npt.NDArray[np.uint16]:
    """The key group of each key of a batch, of as many groups, a power of two.

    Raises:
        TypeMismatchError: A key is of another type.
    """

# ---- deduplicator (owner: sequence) ------------------------------------------------------

@final
class Deduplicator:
    """Tells apart what idempotent producers send for the first time and what they send again.

    Each batch carries a producer's id, its epoch and a range of sequences; the verdict says whether
    it may be applied. A new one knows no producer.

    Args:
        mode: ``"strict"``: an unknown producer must begin at sequence 0. ``"compatible"``: it may
            begin anywhere, as with Kafka's brokers.
        window: What is remembered of each producer: the last batches (ordered) or the sequences up
            to the highest one (unordered), at most 2**20.
        order: ``"ordered"``: each batch must follow the one before. ``"unordered"``: batches may
            overtake one another inside the window.
        max_producers: Beyond it new producers are refused; live ones are never forgotten.
        max_bytes: Memory that is taken at most; beyond it new producers are refused, too.
        expiry_s: A producer from which nothing was accepted for so long counts as unknown. None:
            never.

    Raises:
        ConfigurationError: A setting that cannot be.
    """

    def __new__(
        cls,
        *,
        mode: Literal["strict", "compatible"] = "strict",
        window: int = 5,
        order: Literal["ordered", "unordered"] = "ordered",
        max_producers: int = 1_000_000,
        max_bytes: int = 1 << 30,
        expiry_s: float | None = None,
    ) -> Deduplicator: ...
    def check_many(
        self,
        producer_ids: _Values,
        producer_epochs: _Values,
        first_sequences: _Values,
        last_sequences: _Values,
        *,
        positions: _Values | None = None,
        now_s: float = 0.0,
    ) -> Verdicts:
        """Judges batches in order, each seeing those before it, then applies what was accepted.

        All columns are integers, one value a batch, or one for all: ids (any int64 but -1), epochs
        (0 or more), sequences (0 to 2**31 - 1, wrapping to 0), positions (any int64; returned for
        a duplicate). ``now_s`` is the time for expiry, in seconds.

        Raises:
            CapacityExceededError: More live producers than ``max_producers`` or ``max_bytes`` allow.
                Nothing was applied.
            ConfigurationError, LengthMismatchError, TypeMismatchError: Columns that cannot be.
        """
    def __len__(self) -> int:
        """Producers remembered."""
    def snapshot(self) -> bytes:
        """Everything that is remembered, as one checksummed blob."""
    def restore(self, snapshot: bytes, *, now_s: float = 0.0) -> None:
        """Replaces everything by a snapshot, without the producers that expired by ``now_s``.

        Restore the input position of the same moment with it.

        Raises:
            StoreCorruptError: Empty, truncated or damaged. Nothing was restored.
            StoreMismatchError: Written by a deduplicator of the other ``order``.
        """
    def expire(self, now_s: float) -> int:
        """Forgets the expired producers; says how many."""

@final
class Verdicts:
    """One verdict a batch, as arrays. Only ``ACCEPT`` may be applied."""

    ACCEPT: int
    DUPLICATE: int
    TOO_OLD: int
    GAP: int
    FENCED: int
    def __len__(self) -> int: ...
    @property
    def codes(self) -> npt.NDArray[np.uint8]: ...
    @property
    def details(self) -> npt.NDArray[np.int64]:
        """Duplicate: the original position, -1 without one (an unordered window keeps none).
        Gap: the sequence expected. Fenced: the current epoch. Else -1."""
    @property
    def accepted(self) -> npt.NDArray[np.bool_]: ...

# ---- aligner, coordinator (owner: align) -------------------------------------------------

@final
class BarrierAligner:
    """Where one operator's checkpoint cuts its input, over several input channels.

    Feed what arrives on each channel, in the channel's order; carry out the actions that come
    back, in the order given. No clock, no threads, no I/O: times are arguments, in seconds, on
    any clock that all calls share (``created_s``: that clock at the source). Safe to call from
    several threads; each call is one step.

    Whatever arrives on a blocked channel (items, newer barriers, cancels, the end) is held back
    in order; only a cancel of the pending checkpoint itself acts at once. Ids of checkpoints
    grow and may be skipped; of one id at most one ``trigger`` or ``abort`` is ever given.

    Semantics: Apache Flink's barrier handlers; algorithm: "Lightweight Asynchronous Snapshots
    for Distributed Dataflows" (Carbone et al., 2015).

    Args:
        channels: Number of input channels, 1 to 2**20; they are numbered from 0.
        mode: ``"aligned"`` (a channel waits from its barrier to the last one: the cut is exact)
            or ``"at_least_once"`` (track up to 50 checkpoints at a time, never block).
        max_buffered_bytes: Bound of what is held back, default 64 MiB. Every event held back
            counts its size and 64 bytes.
        finished_channels: What the end of a channel means to a checkpoint that waits for its
            barrier: ``"count_as_barrier"`` (rule B14) or ``"abort"`` (rule B13).

    Raises:
        ConfigurationError: An argument is none of these, a channel does not exist or has ended,
            a time is not finite. Nothing changed.
    """

    def __new__(
        cls,
        channels: int,
        *,
        mode: Literal["aligned", "at_least_once"] = "aligned",
        max_buffered_bytes: int = ...,
        finished_channels: Literal["count_as_barrier", "abort"] = "count_as_barrier",
    ) -> BarrierAligner: ...
    def receive(self, channel: int, item: Any, size_bytes: int = 0) -> list[_AlignerAction]:
        """An item: delivered, or held back if its channel is blocked.

        Raises:
            CapacityExceededError: No room to hold it back; nothing changed. Ask ``is_blocked``
                first and leave the item in its queue: that is what carries back-pressure on.
        """
    def barrier(
        self, channel: int, checkpoint_id: int, *, created_s: float = 0.0, now_s: float = 0.0
    ) -> list[_AlignerAction]:
        """A barrier, created at ``created_s``. Held back if the channel is blocked."""
    def cancel(self, channel: int, checkpoint_id: int, *, now_s: float = 0.0) -> list[_AlignerAction]:
        """A cancel marker: the sender will not take part in this checkpoint."""
    def end(self, channel: int, *, now_s: float = 0.0) -> list[_AlignerAction]:
        """The end of a channel: nothing may follow on it."""
    def is_blocked(self, channel: int) -> bool:
        """True if what comes on this channel would be held back now."""
    @property
    def pending_checkpoint(self) -> int | None:
        """The newest checkpoint that has a barrier, waits for more, and was not aborted."""
    @property
    def buffered_bytes(self) -> int:
        """What is held back, as ``max_buffered_bytes`` counts it."""

@disjoint_base
class AlignerAction:
    """What the caller must do, in order."""

    @final
    class Deliver(AlignerAction):
        """Process this item."""

        __match_args__ = ("channel", "item")
        def __new__(cls, channel: int, item: Any) -> AlignerAction.Deliver: ...
        @property
        def channel(self) -> int: ...
        @property
        def item(self) -> Any: ...

    @final
    class Trigger(AlignerAction):
        """Take the snapshot now, before any later action, and forward the barrier.

        ``start_delay_s``: from the creation of the barrier to the first one here. ``alignment_s``: from the first
        barrier to the last; 0 with one open channel. ``alignment_bytes``: sizes of the items delivered meanwhile.
        """

        __match_args__ = ("checkpoint_id", "start_delay_s", "alignment_s", "alignment_bytes")
        def __new__(
            cls, checkpoint_id: int, start_delay_s: float, alignment_s: float, alignment_bytes: int
        ) -> AlignerAction.Trigger: ...
        @property
        def checkpoint_id(self) -> int: ...
        @property
        def start_delay_s(self) -> float: ...
        @property
        def alignment_s(self) -> float: ...
        @property
        def alignment_bytes(self) -> int: ...

    @final
    class Abort(AlignerAction):
        """Give this checkpoint up and forward a cancel marker.

        ``reason``: ``"subsumed"`` (by a newer barrier), ``"cancelled"`` or ``"input_ended"``.
        """

        __match_args__ = ("checkpoint_id", "reason")
        def __new__(
            cls, checkpoint_id: int, reason: Literal["subsumed", "cancelled", "input_ended"]
        ) -> AlignerAction.Abort: ...
        @property
        def checkpoint_id(self) -> int: ...
        @property
        def reason(self) -> Literal["subsumed", "cancelled", "input_ended"]: ...

    @final
    class End(AlignerAction):
        """All channels have ended and everything was delivered."""

        __match_args__ = ()
        def __new__(cls) -> AlignerAction.End: ...

# Any of them, as ``match`` wants it.
_AlignerAction: TypeAlias = AlignerAction.Deliver | AlignerAction.Trigger | AlignerAction.Abort | AlignerAction.End

@final
class CheckpointCoordinator:
    """One checkpoint at a time, from barrier to the sinks' commits: a pure state machine.

    ``AwaitingTrigger`` → ``AwaitingAcknowledgements`` (all tasks) → ``AwaitingPrepares`` (all
    sinks) → ``AwaitingDecision`` (the store) → ``AwaitingSinkCommits`` → complete, which is
    ``AwaitingTrigger`` again. Until the decision is asked for, anything that fails aborts; from
    then on nothing does, and after the decision everything rolls forward: what cannot leads to
    ``AwaitingRecovery``, from which only a recovery and a new coordinator lead on.

    Reports that come late (of an aborted or completed checkpoint) or twice change nothing.

    Args:
        tasks: Names of the tasks that acknowledge, at least one.
        sinks: Names of the sinks that prepare and commit, maybe none.
        timeout_s: An undecided checkpoint is aborted this long after its trigger.

    Raises:
        ConfigurationError: Names that repeat, no task, a time that is not finite.
        UnknownNameError: A report of a task or sink that does not exist.
        CheckpointStateError: A report that no correct peer sends in this state. An error
            changes nothing.
    """

    def __new__(
        cls, tasks: Sequence[str], sinks: Sequence[str], *, timeout_s: float = 600.0
    ) -> CheckpointCoordinator: ...
    def trigger(self, checkpoint_id: int, *, now_s: float) -> list[_CoordinatorEffect]:
        """Starts a checkpoint. Ids grow, also past those of aborted ones.

        Refused with CheckpointStateError while another one is under way.
        """
    def acknowledge(self, task: str, checkpoint_id: int, *, now_s: float) -> list[_CoordinatorEffect]:
        """A task's snapshot is taken. Past the timeout it comes too late."""
    def decline(self, task: str, checkpoint_id: int, reason: str) -> list[_CoordinatorEffect]:
        """A task cannot take the snapshot."""
    def task_finished(self, task: str, *, now_s: float) -> list[_CoordinatorEffect]:
        """A task is done for good: it counts as acknowledged, now and from now on."""
    def task_failed(self, task: str, reason: str) -> list[_CoordinatorEffect]:
        """A task is lost: a checkpoint that is not acknowledged whole is aborted, one that is goes on. No other one may
        begin.
        """
    def prepared(self, sink: str, checkpoint_id: int) -> list[_CoordinatorEffect]:
        """A sink's output is durable, and invisible."""
    def prepare_failed(self, sink: str, checkpoint_id: int, reason: str) -> list[_CoordinatorEffect]:
        """A sink could not prepare: the checkpoint is aborted."""
    def decided(self, checkpoint_id: int) -> list[_CoordinatorEffect]:
        """The decision record is durable."""
    def decision_failed(self, checkpoint_id: int, reason: str, *, indefinite: bool = True) -> list[_CoordinatorEffect]:
        """The store failed.

        ``indefinite``: the record may be durable nevertheless (a failed sync), so the job must
        stop and recover. Pass False only if the store is sure that nothing became durable (it
        refused before it wrote): then the checkpoint is aborted and the job goes on.
        """
    def committed(self, sink: str, checkpoint_id: int) -> list[_CoordinatorEffect]:
        """A sink's output is visible."""
    def commit_failed(self, sink: str, checkpoint_id: int, reason: str) -> list[_CoordinatorEffect]:
        """A sink could not commit: ``fail``, and the recovery commits again."""
    def tick(self, now_s: float) -> list[_CoordinatorEffect]:
        """Aborts a checkpoint whose decision was not asked for within its timeout."""
    @property
    def state(self) -> str: ...
    @property
    def checkpoint_id(self) -> int | None:
        """The checkpoint under way, or the one that needs a recovery."""
    @property
    def last_completed(self) -> int | None: ...

@disjoint_base
class CoordinatorEffect:
    """What the caller must do, in order."""

    @final
    class InjectBarriers(CoordinatorEffect):
        """Send the barriers of this checkpoint through the tasks."""

        __match_args__ = ("checkpoint_id",)
        def __new__(cls, checkpoint_id: int) -> CoordinatorEffect.InjectBarriers: ...
        @property
        def checkpoint_id(self) -> int: ...

    @final
    class PrepareSinks(CoordinatorEffect):
        """Ask every sink to prepare."""

        __match_args__ = ("checkpoint_id",)
        def __new__(cls, checkpoint_id: int) -> CoordinatorEffect.PrepareSinks: ...
        @property
        def checkpoint_id(self) -> int: ...

    @final
    class Decide(CoordinatorEffect):
        """Write the decision record."""

        __match_args__ = ("checkpoint_id",)
        def __new__(cls, checkpoint_id: int) -> CoordinatorEffect.Decide: ...
        @property
        def checkpoint_id(self) -> int: ...

    @final
    class CommitSink(CoordinatorEffect):
        """Let this sink commit."""

        __match_args__ = ("checkpoint_id", "sink")
        def __new__(cls, checkpoint_id: int, sink: str) -> CoordinatorEffect.CommitSink: ...
        @property
        def checkpoint_id(self) -> int: ...
        @property
        def sink(self) -> str: ...

    @final
    class Complete(CoordinatorEffect):
        """Everything is done."""

        __match_args__ = ("checkpoint_id",)
        def __new__(cls, checkpoint_id: int) -> CoordinatorEffect.Complete: ...
        @property
        def checkpoint_id(self) -> int: ...

    @final
    class Abort(CoordinatorEffect):
        """Tell all tasks and all sinks, also those that are still preparing, to give it up."""

        __match_args__ = ("checkpoint_id", "reason")
        def __new__(cls, checkpoint_id: int, reason: str) -> CoordinatorEffect.Abort: ...
        @property
        def checkpoint_id(self) -> int: ...
        @property
        def reason(self) -> str: ...

    @final
    class Fail(CoordinatorEffect):
        """The job must stop and recover."""

        __match_args__ = ("checkpoint_id", "reason")
        def __new__(cls, checkpoint_id: int, reason: str) -> CoordinatorEffect.Fail: ...
        @property
        def checkpoint_id(self) -> int: ...
        @property
        def reason(self) -> str: ...

# Any of them, as ``match`` wants it.
_CoordinatorEffect: TypeAlias = (
    CoordinatorEffect.InjectBarriers
    | CoordinatorEffect.PrepareSinks
    | CoordinatorEffect.Decide
    | CoordinatorEffect.CommitSink
    | CoordinatorEffect.Complete
    | CoordinatorEffect.Abort
    | CoordinatorEffect.Fail
)

def recovery_plan(
    *,
    restored: int | None,
    decided_after: Sequence[int],
    applied: Mapping[str, int | None],
    replayable_to_position: bool,
    unreadable: Sequence[int] = ...,
) -> _RecoveryPlan:
    """What an exact recovery must do. Raise the epoch and fence the sinks before asking them.

    Args:
        restored: The checkpoint that state was restored from; None if there is none.
        decided_after: Newer ones whose decision can be read though their state cannot.
        applied: By sink, the newest checkpoint it has applied: 0 if none (ids start at 1),
            None if it cannot tell.
        replayable_to_position: Every source can be read from the restored positions to exactly
            those of a later checkpoint, and the dataflow is deterministic.
        unreadable: Newer ones of whose decision record nothing but the id is known.

    Raises:
        ConfigurationError: Facts that contradict each other.
    """

@disjoint_base
class RecoveryPlan:
    """What to do. After a crash in the middle, ask for a new plan.

    ``abort``: ids to give up for good; drop their records durably, then abort them in the sinks.
    ``roll_forward``: ids whose staged outputs every sink must commit again then, ascending (idempotent).
    """

    @final
    class Resume(RecoveryPlan):
        """Then go on from the restored checkpoint."""

        __match_args__ = ("roll_forward", "abort")
        def __new__(cls, roll_forward: list[int], abort: list[int]) -> RecoveryPlan.Resume: ...
        @property
        def roll_forward(self) -> list[int]: ...
        @property
        def abort(self) -> list[int]: ...

    @final
    class ReplaySuppressed(RecoveryPlan):
        """Then read on to exactly the positions of checkpoint ``until`` with outputs suppressed, and go on."""

        __match_args__ = ("roll_forward", "abort", "until")
        def __new__(cls, roll_forward: list[int], abort: list[int], until: int) -> RecoveryPlan.ReplaySuppressed: ...
        @property
        def roll_forward(self) -> list[int]: ...
        @property
        def abort(self) -> list[int]: ...
        @property
        def until(self) -> int: ...

    @final
    class Stop(RecoveryPlan):
        """No exact recovery is possible; a person must choose. ``reason``: why, and what can be done."""

        __match_args__ = ("reason",)
        def __new__(cls, reason: str) -> RecoveryPlan.Stop: ...
        @property
        def reason(self) -> str: ...

# Any of them, as ``match`` wants it.
_RecoveryPlan: TypeAlias = RecoveryPlan.Resume | RecoveryPlan.ReplaySuppressed | RecoveryPlan.Stop

# ---- waking ------------------------------------------------------------------------------

@final
class WakeHandle:
    """One thread waits for several things at once, and any thread wakes it.

    Once set it stays set until somebody has waited, so whoever looks for something to do and then
    waits misses nothing that came in between. It has no end: it goes with the last reference.

    Raises:
        StoreIOError: The process may open no further file.
    """

    def __new__(cls) -> WakeHandle: ...
    def set(self) -> None:
        """Wakes who waits, or who waits next.

        From any thread, and in the handler of a signal; never blocks, never fails. In a child that was forked off since
        nothing happens.
        """
    def wait(self, timeout_s: float) -> bool:
        """Waits until it is set, for so many seconds at most; true if it was set, and is not any more.

        Handlers of signals run meanwhile.

        Raises:
            ConfigurationError: A timeout below 0, or no number.
            StoreForkedError: In a child that was forked off since.
        """

# ---- log (owner: log) --------------------------------------------------------------------
#
# Times are milliseconds: ``now_ms`` by the log's clock (``Log.time_ms``), ``timestamps`` since 1970. Every call
# that writes returns when its effect is durable. Errors of the directory are those of StateBackend:
# StoreCorruptError, StoreFullError, StorePoisonedError, StoreReadOnlyError, StoreForkedError ...

# One partition's offset to commit: (topic, partition, next offset to read, metadata).
_Offset: TypeAlias = tuple[str, int, int, str]
# Where records went: (topic number, partition, offset of the first, records).
_Place: TypeAlias = tuple[int, int, int, int]

class _TopicSettings(TypedDict, total=False):
    partitions: int
    retention_ms: int | None
    retention_bytes: int | None
    cleanup_policy: Literal["delete", "compact"]
    delete_retention_ms: int
    max_record_bytes: int

# Keys or values: an Arrow array of binary or strings, a numpy array of uint8 with one row a record,
# or a sequence of bytes, str and None.
_Strings: TypeAlias = Any
# (topic, partition, sequence of the first record in the partition, values).
_Part: TypeAlias = tuple[str, int, int, _Strings]

@final
class Log:
    """An embedded log: one directory, opened by any number of processes.

    In one process all handles of a directory share one log, with the options of the first; it is
    closed with the last handle (a producer holds one). Safe to call from several threads: their
    commits share a sync.
    """

    @staticmethod
    def open(
        path: str | PathLike[str],
        *,
        create: bool = True,
        read_only: bool = False,
        map_size_bytes: int = ...,
        commit_timeout_s: float = 10.0,
        producer_expiry_ms: int | None = ...,
        transactional_id_expiry_ms: int | None = ...,
        group_expiry_ms: int | None = ...,
        max_producers: int = 100_000,
        max_transaction_bytes: int = ...,
        max_transaction_timeout_ms: int = ...,
        max_producer_epoch: int = ...,
    ) -> Log:
        """Opens or creates a log. Give every process the same bounds.

        Args:
            path: The directory; made private to the owner.
            create: Whether to create what is missing.
            read_only: Only read.
            map_size_bytes: Address space reserved for the file (sparse), default 256 GiB.
            commit_timeout_s: How long to wait while another process commits.
            producer_expiry_ms: A producer that was silent for so long in a partition counts as
                unknown there; default one day, None: never.
            transactional_id_expiry_ms: A transactional id that nobody has used for so long is
                forgotten; default seven days, None: never.
            group_expiry_ms: A group that has no members and commits nothing for so long is
                forgotten with its offsets; default seven days, None: never.
            max_producers: Transactional ids, and producers of each partition, at most.
            max_transaction_bytes: Size of one transaction, default 64 GiB.
            max_transaction_timeout_ms: Longest timeout a producer may ask for, default one hour.
            max_producer_epoch: After it a producer gets a new id; for tests.

        Raises:
            StoreMissingError, StoreMismatchError (a job's state), StoreFormatError,
            StoreCorruptError, StoreLockedError, StoreReadOnlyError, StoreNetworkFilesystemError,
            StoreFullError, ConfigurationError, StoreIOError.
        """
    @property
    def path(self) -> str: ...
    @property
    def id(self) -> str:
        """Its identity, made with it. Copies have the same."""
    @property
    def closed(self) -> bool: ...
    def time_ms(self, monotonic_s: float, wall_s: float) -> int:
        """What the log's clock shows, in milliseconds: what durations are measured by, in all processes.

        It began as the wall clock when the log was made, and goes on with the monotonic clock, whatever the wall clock
        is set to; over a boot by what the wall clock says has passed.

        Args:
            monotonic_s: Seconds of a clock that all processes of this boot share and that cannot be set.
            wall_s: Seconds since 1970 by the wall clock.

        Raises:
            ConfigurationError: Not times.
            LogTimeoutError: It is the first reading since the boot, and another process holds the log.
        """
    def create_topic(
        self,
        name: str,
        **settings: Unpack[_TopicSettings],
    ) -> None:
        """A new topic.

        Args:
            name: ASCII letters, digits, ``.``, ``_``, ``-``; at most 249.
            settings: ``partitions``: 1 (default) to 10,000; more can be added later.
                ``retention_ms``: batches whose newest record is older go, one from the future when
                it was appended that long ago; None: never by age.
                ``retention_bytes``: the oldest batches of a partition go while the others hold as
                much; the newest one always stays.
                ``cleanup_policy``: ``"delete"``, or ``"compact"``: the newest record of each key
                stays. ``delete_retention_ms``: how long ``"compact"`` keeps a null value from when
                it saw it first; default one day. ``max_record_bytes``: key, value and headers
                together; default and at most about 1 MiB.

        Raises:
            TopicExistsError, ConfigurationError.
        """
    def alter_topic(
        self,
        name: str,
        **changes: Unpack[_TopicSettings],
    ) -> None:
        """Changes the settings that are given; there can be more partitions, not fewer."""
    def delete_topic(self, name: str) -> None:
        """Removes a topic; ``maintain`` frees its space."""
    def topics(self) -> list[LogTopic]:
        """By name."""
    def topic(self, name: str) -> LogTopic:
        """One topic."""
    def partition(self, name: str, partition: int) -> LogPartition:
        """Where a partition begins and ends: its watermark offsets."""
    def fetch(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_records: int = 100_000,
        max_bytes: int = ...,
    ) -> LogRecords:
        """Records from ``offset`` on, in order; none at the end. All of them are committed.

        Args:
            max_bytes: Of keys, values and headers, default 8 MiB; one record always comes.

        Raises:
            UnknownTopicOrPartitionError.
            OffsetOutOfRangeError: Retention has removed it, or it lies after the end.
            StoreCorruptError: The batch is damaged.
        """
    def offset_for_timestamp(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        """The first offset whose record is not older; None if all are older."""
    def wait(self, positions: Sequence[tuple[str, int, int]], timeout_s: float) -> bool:
        """Waits until one of (topic, partition, offset) has a record at its offset or after it.

        Woken by commits of any process, without polling. False: the time is over.
        """
    def wake(self, handle: WakeHandle) -> None:
        """From now on each commit of any process sets ``handle``.

        For as long as somebody has it and this log is open.
        """
    def init_producer(
        self,
        transactional_id: str | None,
        *,
        now_ms: int,
        timeout_ms: int = 60_000,
        expected: tuple[int, int] | None = None,
    ) -> tuple[int, int]:
        """Producer id and epoch: the protocol below ``LogProducer``.

        With a transactional id it is the next epoch, which fences all older ones; ``expected`` is
        the id and epoch that the caller believes to have: a retry gets the same answer, a zombie
        ProducerFencedError.
        """
    def append(
        self, parts: Sequence[_Part], *, now_ms: int, producer: tuple[int, int] | None = None
    ) -> list[tuple[int, bool]]:
        """Appends outside of a transaction, all parts or none.

        Returns the offset of each part's first record, and whether it was there already.
        Without ``producer`` nobody recognises a retry.

        Raises:
            OutOfOrderSequenceError, ProducerFencedError, InvalidTransactionStateError,
            UnknownTopicOrPartitionError, RecordTooLargeError, CapacityExceededError,
            LogTimeoutError.
        """
    def stage(
        self,
        transactional_id: str,
        producer: tuple[int, int],
        *,
        started_ms: int,
        first_sequence: int,
        parts: Sequence[_Part],
        now_ms: int,
    ) -> None:
        """Stages records of a transaction. ``first_sequence`` counts over all its records from 0.

        Raises as ``append``, and TransactionTimedOutError.
        """
    def end_transaction(
        self,
        transactional_id: str,
        producer: tuple[int, int],
        *,
        commit: bool,
        started_ms: int,
        now_ms: int,
        first_sequence: int = 0,
        parts: Sequence[_Part] = ...,
        group: str | None = None,
        offsets: Sequence[_Offset] = ...,
        member: str | None = None,
        generation: int | None = None,
    ) -> tuple[int, int, list[_Place]]:
        """Ends a transaction; (producer id, epoch) for the next one, and where its records are."""
    def producers(self) -> list[LogProducerInfo]:
        """The transactional producers, by their ids."""
    def commit_offsets(
        self,
        group: str,
        offsets: Sequence[_Offset],
        *,
        now_ms: int,
        member: str | None = None,
        generation: int | None = None,
    ) -> None:
        """Commits offsets of a group; from outside only while it has no members.

        Raises:
            UnknownMemberError, IllegalGenerationError, UnknownTopicOrPartitionError.
        """
    def committed(self, group: str, topic: str, partition: int) -> tuple[int, str, int] | None:
        """(offset, metadata, committed_ms), or None."""
    def join_group(
        self,
        group: str,
        member: str,
        topics: Sequence[str],
        *,
        now_ms: int,
        strategy: Literal["sticky", "range", "roundrobin"] = "sticky",
        session_timeout_ms: int = 45_000,
        rebalance_timeout_ms: int = 300_000,
    ) -> tuple[int, list[tuple[str, int]]]:
        """Joins a group (or changes the topics of a member); (generation, partitions to read).

        ``member`` is an id of the caller's choice, unique for ever. Partitions that other members
        have not let go of come later: ``heartbeat`` says when. Topics need not exist yet.
        ``strategy``: ``"sticky"``, ``"range"`` or ``"roundrobin"``.
        """
    def heartbeat(self, group: str, member: str, *, now_ms: int) -> tuple[int, bool]:
        """(newest generation, whether to rebalance). Cheap: no commit. Declares dead who is.

        To rebalance: stop reading what is not in ``group_target``, commit its offsets (with the
        generation that the member has), then ``sync_group``.

        Raises:
            UnknownMemberError: It was declared dead; its partitions are others' now. Join again.
        """
    def group_target(self, group: str, member: str) -> list[tuple[str, int]]:
        """What the member shall read when the rebalance is over."""
    def sync_group(self, group: str, member: str, generation: int, *, now_ms: int) -> tuple[int, list[tuple[str, int]]]:
        """Takes up the newest generation; (generation, partitions to read).

        ``generation`` is the one that the member has taken up before.
        """
    def leave_group(self, group: str, member: str, *, now_ms: int) -> None:
        """Leaves; the partitions go to others at once."""
    def delete_group(self, group: str) -> None:
        """Removes a group without members, and its offsets."""
    def groups(self) -> list[LogGroup]:
        """All consumer groups."""
    def maintain(self, *, now_ms: int, batches: int = 64, entries: int = 1000) -> LogMaintained:
        """One bounded slice of upkeep; call it now and then, and again while ``more``.

        Aborts transactions that are open for too long, deletes what they left and what retention
        and deleted topics leave, forgets silent producers.
        """
    def size(self) -> tuple[int, int]:
        """(file_bytes, used_bytes)."""
    def backup(self, target: str | PathLike[str]) -> None:
        """A consistent copy into a directory that does not exist yet, while running."""
    def close(self) -> None:
        """Closes this handle; the last one of the process closes the file."""
    def __enter__(self) -> Log: ...
    def __exit__(self, *_exc: object) -> None: ...

@final
class LogTopic:
    """A topic and its settings."""

    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int:
        """Never given out again, unlike the name."""
    @property
    def partitions(self) -> int: ...
    @property
    def retention_ms(self) -> int | None: ...
    @property
    def retention_bytes(self) -> int | None: ...
    @property
    def cleanup_policy(self) -> str: ...
    @property
    def delete_retention_ms(self) -> int: ...
    @property
    def max_record_bytes(self) -> int: ...

@final
class LogPartition:
    """Where a partition begins and ends, and what it holds."""

    @property
    def start(self) -> int:
        """The first offset that can be read."""
    @property
    def end(self) -> int:
        """The offset that the next record gets."""
    @property
    def records(self) -> int: ...
    @property
    def batches(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def max_timestamp_ms(self) -> int | None: ...

@final
class LogRecords:
    """Records that were read, as columns.

    Also an Arrow array: ``pyarrow.record_batch(records)`` has the columns ``offset``,
    ``timestamp_ms`` (i64), ``key``, ``value`` (large_binary), without copying.
    """

    def __len__(self) -> int: ...
    @property
    def next_offset(self) -> int:
        """Where to read on."""
    @property
    def offsets(self) -> npt.NDArray[np.int64]: ...
    @property
    def timestamps(self) -> npt.NDArray[np.int64]: ...
    @property
    def keys(self) -> list[bytes | None]: ...
    @property
    def values(self) -> list[bytes | None]: ...
    @property
    def headers(self) -> list[list[tuple[str, bytes | None]] | None]: ...
    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and headers."""
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...

@final
class LogProducerPhase:
    """What a producer's transaction is in; ``onceflow.log.ProducerState`` says what it means."""

    NEW: ClassVar[LogProducerPhase]
    READY: ClassVar[LogProducerPhase]
    OPEN: ClassVar[LogProducerPhase]
    FAILED: ClassVar[LogProducerPhase]
    COMMITTING: ClassVar[LogProducerPhase]
    ABORTING: ClassVar[LogProducerPhase]
    FENCED: ClassVar[LogProducerPhase]
    TIMED_OUT: ClassVar[LogProducerPhase]
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __int__(self) -> int: ...

@final
class LogProducer:
    """An idempotent producer or, with a transactional id, a transactional one.

    Every method that writes returns when it is durable. One transaction at a time; safe to call
    from several threads, one after the other. A call that raises LogTimeoutError or StoreIOError
    got no answer: it is kept, and repeated by the next call (``flush`` does only that); do not
    produce its records again. After an unanswered commit only the commit may be repeated, after an
    unanswered abort only the abort. After a refused record in a transaction it must be aborted.
    """

    def __new__(
        cls,
        log: Log,
        *,
        now_ms: int,
        transactional_id: str | None = None,
        transaction_timeout_ms: int = 60_000,
        max_buffered_bytes: int = ...,
    ) -> LogProducer:
        """Records of a transaction beyond ``max_buffered_bytes`` (16 MiB) are staged on the disk."""
    @property
    def transactional_id(self) -> str | None: ...
    @property
    def identity(self) -> tuple[int, int] | None:
        """(producer id, epoch), once it has them."""
    @property
    def phase(self) -> LogProducerPhase:
        """In which state its transaction is."""
    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, or its end has not been answered."""
    def init_transactions(self, *, now_ms: int) -> None:
        """Fences every older producer of the transactional id and aborts what it left open."""
    def begin_transaction(self, *, now_ms: int) -> None:
        """Begins a transaction; what is produced from now on belongs to it."""
    def produce(
        self,
        topic: str,
        values: _Strings | None = None,
        *,
        now_ms: int,
        wall_ms: int | None = None,
        keys: _Strings | None = None,
        timestamps: Any = None,
        headers: Sequence[Any] | None = None,
        partition: Any = None,
    ) -> list[_Place]:
        """Produces a batch of records. Outside of transactions it says where they are.

        Args:
            values: One a record; None: all null.
            keys: One a record. Without ``partition`` a key chooses it (see ``partition_of``);
                records without a key go to one partition a call, in turn.
            wall_ms: Now by the wall clock; None: ``now_ms``.
            timestamps: An int for all, or integers, one a record; None: ``wall_ms``.
            headers: One a record: a dict, a list of (str, bytes or None), or None.
            partition: An int for all, or one a record.

        Raises:
            UnknownTopicOrPartitionError, RecordTooLargeError, LengthMismatchError,
            TypeMismatchError, InvalidTransactionStateError, ProducerFencedError,
            TransactionTimedOutError, LogTimeoutError.
        """
    def flush(self, *, now_ms: int) -> list[_Place]:
        """Repeats what got no answer; outside of transactions it says where those records are."""
    def send_offsets(
        self,
        group: str,
        offsets: Sequence[_Offset],
        *,
        now_ms: int,
        member: str | None = None,
        generation: int | None = None,
    ) -> None:
        """Offsets that become committed with the transaction, if the member is still one then."""
    def commit_transaction(self, *, now_ms: int) -> list[_Place]:
        """Makes the transaction visible at once, durably; says where its records are.

        Raises:
            ProducerFencedError, TransactionTimedOutError: Nothing of it is there.
            InvalidTransactionStateError, UnknownMemberError, IllegalGenerationError,
            UnknownTopicOrPartitionError, CapacityExceededError: Nothing either; abort it.
            LogTimeoutError, StoreIOError: Not known; call it again.
        """
    def abort_transaction(self, *, now_ms: int) -> None:
        """Ends the transaction without a trace."""
    def close(self) -> None:
        """Lets go of the log, without ending an open transaction."""

@final
class LogProducerInfo:
    """A transactional producer, as it is listed. Times are by the log's clock."""

    @property
    def transactional_id(self) -> str: ...
    @property
    def producer_id(self) -> int: ...
    @property
    def producer_epoch(self) -> int: ...
    @property
    def timeout_ms(self) -> int: ...
    @property
    def updated_ms(self) -> int: ...
    @property
    def started_ms(self) -> int | None:
        """When the open transaction began, if some of it is staged (else nobody knows of it)."""
    @property
    def staged_bytes(self) -> int: ...
    @property
    def last_outcome(self) -> str | None:
        """``"committed"``, ``"aborted"`` or ``"timed_out"``."""

@final
class LogGroup:
    """A consumer group, as it is listed: its members, and what it has committed."""

    @property
    def group(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def strategy(self) -> str: ...
    @property
    def members(self) -> list[LogMember]: ...
    @property
    def offsets(self) -> dict[tuple[str, int], tuple[int, str, int]]:
        """(topic, partition) -> (offset, metadata, committed_ms)."""

@final
class LogMember:
    """A member of a consumer group, as it is listed. Times are by the log's clock."""

    @property
    def member(self) -> str: ...
    @property
    def topics(self) -> list[str]: ...
    @property
    def generation(self) -> int: ...
    @property
    def partitions(self) -> list[tuple[str, int]]: ...
    @property
    def last_heartbeat_ms(self) -> int: ...
    @property
    def session_timeout_ms(self) -> int: ...

@final
class LogMaintained:
    """What a slice of upkeep did."""

    @property
    def timed_out(self) -> int:
        """Transactions aborted because they were open for too long."""
    @property
    def discarded(self) -> int:
        """Staged batches of ended transactions that were deleted."""
    @property
    def removed(self) -> int:
        """Batches that were deleted because of retention, or with their topic."""
    @property
    def forgotten(self) -> int:
        """Producers and groups that were forgotten."""
    @property
    def compacted(self) -> int:
        """Records that compaction removed."""
    @property
    def more(self) -> bool:
        """Whether there is more to do right now."""

def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: the same in every process and version."""
