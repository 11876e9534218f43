"""The extension module: conversion between Python and the Rust core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

# Anything that holds keys: a numpy integer array, an Arrow array (any object with
# ``__arrow_c_array__`` or ``__arrow_c_stream__``), or a list of int, str, bytes or tuples;
# for tuple keys also a tuple with one such array for each element.
Keys: TypeAlias = Any
# Values of one column: a numpy array, an Arrow array, a list, or one scalar for the batch.
Values: TypeAlias = Any

CRASH_POINTS: bool

def crash_point(name: str) -> None:
    """Kills the process here if ``CRASH_AT`` says so; does nothing unless built with the feature."""

# ---- state backend (owner: bindings) -----------------------------------------------------

@final
class StateBackend:
    """See ``onceflow.StateBackend``."""

    @staticmethod
    def open(
        path: str | PathLike[str],
        *,
        job: str = "default",
        key_groups: int = 128,
        retain: int = 2,
        create: bool = True,
        read_only: bool = False,
        take_over: bool = False,
        checkpoint: int | str = "newest",
        restore_key_groups: tuple[int, int] | None = None,
        max_state_bytes: int = ...,
        map_size_bytes: int = ...,
        chunk_bytes: int = ...,
    ) -> StateBackend:
        """Opens or creates a state directory and restores a checkpoint.

        ``checkpoint``: ``"newest"``, ``"none"`` or a number.
        """
    @property
    def path(self) -> str: ...
    @property
    def job(self) -> str: ...
    @property
    def job_epoch(self) -> int: ...
    @property
    def key_groups(self) -> int: ...
    @property
    def recovery(self) -> Recovery: ...
    def table(
        self, name: str, *, key: str | Sequence[str], columns: Mapping[str, str]
    ) -> Table: ...
    def tables(self) -> dict[str, TableSchema]: ...
    def drop_table(self, name: str) -> None: ...
    def deduplicator(self, name: str, **settings: Any) -> Deduplicator:
        """A deduplicator whose changes are part of every checkpoint of this backend."""
    def begin_checkpoint(self, *, savepoint: str | None = None) -> PendingCheckpoint: ...
    def checkpoint(
        self,
        positions: Mapping[str, int | str | bytes] | None = None,
        *,
        savepoint: str | None = None,
    ) -> PendingCheckpoint:
        """begin, freeze, keep ``positions``, commit: in one call. Returns at once."""
    @property
    def positions(self) -> dict[str, int | str | bytes]:
        """The positions of the checkpoint that was restored."""
    def checkpoints(self) -> list[CheckpointInfo]: ...
    def delete_checkpoint(self, checkpoint_id: int) -> None: ...
    def put_note(self, name: str, value: bytes) -> None: ...
    def note(self, name: str) -> bytes | None: ...
    def check_epoch(self) -> None: ...
    def poll(self) -> None: ...
    def size(self) -> tuple[int, int]:
        """(file_bytes, used_bytes)."""
    def backup(self, target: str | PathLike[str]) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> StateBackend: ...
    def __exit__(self, *exc: object) -> None: ...

@final
class TableSchema:
    @property
    def key(self) -> str | tuple[str, ...]: ...
    @property
    def columns(self) -> dict[str, str]: ...

@final
class Table:
    """Keyed state: one row a key. Types: i64 u64 f64 f32 u32 bool bytes; keys i64 u64 bytes str."""

    @property
    def name(self) -> str: ...
    @property
    def schema(self) -> TableSchema: ...
    def __len__(self) -> int: ...
    def update(self, keys: Keys, updates: Mapping[str, tuple[str, Values]]) -> None:
        """Several columns in one pass: ``{"sum": ("add", values), "count": ("count", None)}``.

        Operations: add, min, max, first, last (= put), count (adds one to an integer column for
        each key; its values are None).
        """
    def add(self, keys: Keys, **values: Values) -> None: ...
    def min(self, keys: Keys, **values: Values) -> None: ...
    def max(self, keys: Keys, **values: Values) -> None: ...
    def first(self, keys: Keys, **values: Values) -> None: ...
    def last(self, keys: Keys, **values: Values) -> None: ...
    def count(self, keys: Keys, column: str) -> None: ...
    def put(self, keys: Keys, **values: Values) -> None: ...
    def get(self, keys: Keys) -> Batch:
        """One row a key in the order of ``keys``; ``found`` says which are there."""
    def get_bytes(self, keys: Keys, column: str) -> list[bytes | None]: ...
    def contains(self, keys: Keys) -> npt.NDArray[np.bool_]: ...
    def delete(self, keys: Keys) -> npt.NDArray[np.bool_]: ...
    def scan(self, first_group: int = 0, end_group: int | None = None) -> Batch:
        """All rows of key groups ``first_group <= g < end_group``, in hash order."""
    def drain_below(self, bound: int) -> Batch:
        """Removes and returns the rows whose key (or its first element), an i64, is below ``bound``."""
    def memory_bytes(self) -> int: ...

@final
class Batch:
    """Rows handed out by a table."""

    def __len__(self) -> int: ...
    @property
    def keys(self) -> Any:
        """numpy array (i64, u64), list of str/bytes, or list of tuples."""
    @property
    def found(self) -> npt.NDArray[np.bool_]: ...
    @property
    def columns(self) -> dict[str, Any]:
        """numpy array for each fixed-width column, list of bytes for a bytes column."""
    def validity(self, column: str) -> npt.NDArray[np.bool_]: ...
    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """A struct array: key column(s), then the columns; unset cells are null."""

@final
class PendingCheckpoint:
    @property
    def id(self) -> int: ...
    def freeze(self, tables: Sequence[str] | None = None) -> None: ...
    def put_blob(self, name: str, value: bytes) -> None: ...
    def stage(self, sink: str, value: bytes) -> None: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...
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
    @property
    def checkpoints(self) -> list[int]: ...
    @property
    def chunks(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def damage(self) -> list[tuple[int | None, str]]: ...

def key_group(
    key: int | str | bytes | tuple[Any, ...], key_type: str | Sequence[str], key_groups: int
) -> int:
    """The key group that a key belongs to."""

# ---- deduplicator (owner: sequence) ------------------------------------------------------

@final
class Deduplicator: ...

# ---- aligner, coordinator (owner: align) -------------------------------------------------
