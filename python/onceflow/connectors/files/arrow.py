"""Parquet files as a sink (extra ``arrow``)."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from types import ModuleType
from typing import Any, Literal

from onceflow.connectors.extras import require
from onceflow.connectors.files.parts import PartSink, PartWriter
from onceflow.exceptions import ConfigurationError

__all__ = ["ParquetSink", "require_arrow"]


def require_arrow() -> ModuleType:
    """pyarrow, or an error that names the extra."""
    return require("pyarrow", extra="arrow", purpose="Arrow and Parquet")


class ParquetSink(PartSink):
    """Part files of Parquet; see ``onceflow.connectors.files``.

    Records are dicts with the same fields, or columns. A column's type is that of its first value, in all part files,
    also over a restart: it belongs to the checkpoint. What does not fit it exactly is refused: a float where ints
    were, a new field, a new member of a nested dict. Where all values of a column were None so far, a part file has
    type null, and those after it the type of the first value.

    Args:
        directory: Made if missing; belongs to one sink of one job.
        schema: A ``pyarrow.Schema`` with all fields, instead of what the first records show or an earlier run has
            agreed on.
        types: The same for some fields: name → ``pyarrow.DataType``. Give it where the first value does not show the
            type, such as an int in a column of floats.
        on_new_types: ``"refuse"`` what does not fit; or ``"widen"`` the type where that is exact (ints to floats, finer
            times, more digits), and take new fields and leave out others (null), in a new part file.

    Raises:
        ConfigurationError: Settings that cannot be; pyarrow is missing.
    """

    suffix = ".parquet"

    def __init__(
        self,
        directory: str | PathLike[str],
        *,
        schema: Any = None,
        types: Mapping[str, Any] | None = None,
        on_new_types: Literal["refuse", "widen"] = "refuse",
    ) -> None:
        super().__init__(directory)
        pa = require_arrow()
        if schema is not None and not isinstance(schema, pa.Schema):
            raise ConfigurationError(f"schema={schema!r}: give a pyarrow.Schema", setting="schema")
        if schema is not None and len(set(schema.names)) != len(schema.names):
            raise ConfigurationError(f"schema={schema.names}: give each field once", setting="schema")
        if types is not None and not isinstance(types, Mapping):
            raise ConfigurationError(
                f"types={types!r}: give names of fields and a pyarrow.DataType for each", setting="types"
            )
        self._types = dict(types or {})
        for name, given in self._types.items():
            if not isinstance(name, str) or not isinstance(given, pa.DataType):
                raise ConfigurationError(
                    f"types={types!r}: give names of fields and a pyarrow.DataType for each", setting="types"
                )
        if schema is not None and types:
            raise ConfigurationError("give schema for all fields, or types for some of them, not both")
        if on_new_types not in ("refuse", "widen"):
            raise ConfigurationError(f'on_new_types={on_new_types!r}: give "refuse" or "widen"', setting="on_new_types")
        self._schema = schema
        self._widens = on_new_types == "widen"

    def writer(self) -> PartWriter:
        """See ``PartSink``."""
        from onceflow.connectors.files.parquet_writer import ParquetWriter  # noqa: PLC0415 - needs the extra

        return ParquetWriter(self._schema, self._types, widens=self._widens)
