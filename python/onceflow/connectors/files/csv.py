"""CSV files as a source: RFC 4180 with any delimiter, typed columns, exact positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from onceflow.connectors.files.arrow import require_arrow
from onceflow.connectors.files.csv_reader import SAMPLE_ROWS, CsvReader
from onceflow.connectors.files.csv_records import CsvRecords
from onceflow.connectors.files.csv_types import COLUMN_TYPES, Agreed, ColumnType, TypeGuess
from onceflow.connectors.files.lines import MAX_RECORD_BYTES, LineReader, check_encoding
from onceflow.connectors.files.malformed import MalformedPolicy, check_record_bytes
from onceflow.connectors.files.names import check_names, check_texts
from onceflow.connectors.files.partitions import FileSource, NotYetReader, Paths
from onceflow.connectors.files.record_times import EventTime
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError
from onceflow.sources import SourceContext, SourceReader
from onceflow.types import Plain

__all__ = ["CsvSource"]


def _checked_types(types: Any) -> dict[str, str]:
    if not isinstance(types, Mapping):
        raise ConfigurationError(
            f"types={types!r}: give names of columns and their types, such as {{'n': 'int'}}", setting="types"
        )
    unknown = {name: kind for name, kind in types.items() if not isinstance(kind, str) or kind not in COLUMN_TYPES}
    if unknown:
        raise ConfigurationError(f"unknown types {unknown}: choose from {', '.join(COLUMN_TYPES)}")
    return dict(types)


class CsvSource(FileSource):
    """Rows of CSV files as dicts, or as columns. Blank lines are passed over.

    The types of columns are those of ``types``. Others are inferred, once when the job begins, from the first 1,000
    rows of each file that is there then (in a run until caught up that finds no row, by the next one): int (64 bits),
    float, bool or str; int and float only if each of these values comes back as it is written. They are the same for
    all files, also for one that comes later, and are kept in the positions. A value behind these rows that is no number
    of its column's inferred type, or would lose something as one (``01234``), is malformed.

    Args:
        paths: A file, a pattern, or several; each file is a partition. All have the same columns, in any order.
        event_time: Column that holds the time of a row: ISO text (UTC without a zone), or seconds since 1970 if the
            column's type is int or float. Or a function that gives the time of a row that is handed out: text, a
            datetime, or seconds; with ``as_columns`` a function that gives an int64 array of microseconds for a batch
            of columns.
        types: Types of columns by name: ``"int"``, ``"float"``, ``"bool"``, ``"str"``, ``"datetime"`` (ISO text; where
            the first rows have zones, aware datetimes in UTC, as ``"datetime_utc"`` says outright).
        columns: The columns to hand out, in this order; all by default. Files may differ in the others.
        names: Names of the columns of files without a header. By default the first record of a file names them.
        null_values: Texts that mean "missing" and become None.
        delimiter: One character between fields.
        encoding: Of the text; an ASCII superset such as utf-8 or latin-1. A byte order mark is passed over in utf-8.
        on_malformed: What to do with rows that cannot be read: wrong number of fields, a value that does not fit its
            column's type, text that does not decode, no valid event time, a quote that is not closed, too long.
            ``"fail"``, ``"skip"`` (and count them), or ``"dead_letter"``.
        as_columns: Hand out ``Columns`` of Arrow arrays (extra ``arrow``) instead of a list of dicts.
        max_record_bytes: The longest row that is read, and how far the end of a quoted field is looked for.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        event_time: EventTime | None = None,
        types: Mapping[str, ColumnType] | None = None,
        columns: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        null_values: Sequence[str] = ("", "NA"),
        delimiter: str = ",",
        encoding: str = "utf-8",
        on_malformed: MalformedPolicy = "fail",
        as_columns: bool = False,
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        super().__init__(paths, event_time, on_malformed)
        self.max_record_bytes = check_record_bytes(max_record_bytes)
        self.encoding = check_encoding(encoding)
        self.delimiter = delimiter
        self._agreed: Agreed | None = None
        self.time_column = event_time if isinstance(event_time, str) else None
        self.types = _checked_types({} if types is None else types)
        self.columns = None if columns is None else check_names("columns", columns)
        self.names = None if names is None else check_names("names", names)
        self.null_values = frozenset(check_texts("null_values", null_values))
        self.as_columns = as_columns
        if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigurationError(
                f"delimiter={delimiter!r}: give one character, no quote and no line end", setting="delimiter"
            )
        if self.names is not None:
            self._check_named("names", self.names)
        if as_columns:
            require_arrow()

    def partitions(self) -> list[str]:
        """The files."""
        self._agreed = None
        return super().partitions()

    def restore(self, positions: Mapping[str, Plain]) -> None:
        """See ``Source``: the types of columns are those that the job began with.

        Raises:
            ConfigurationError: ``types`` says others.
        """
        known = [position for _, position in sorted(positions.items()) if isinstance(position, dict)]
        if any("types" not in position for position in known):
            raise SourceChangedError(
                "the checkpoint has positions of another kind of source, such as a TextSource, and not of a CsvSource; "
                "put the former back, or start over with resume_from='none'"
            )
        if not all(position.get("untyped") for position in known):
            self._agreed = self._kept(known)

    def _kept(self, known: list[dict[str, Any]]) -> Agreed:
        # Where no file had a row yet, nothing was agreed on.
        known = [position for position in known if not position.get("untyped")] or known
        types: dict[str, str] = {}
        exact: set[str] = set()
        for position in known:
            types = {**position["types"], **types}
            exact.update(position.get("exact", ()))
        for name, kind in self.types.items():
            if types.get(name, kind) != kind and (kind, types[name]) != ("datetime", "datetime_utc"):
                raise ConfigurationError(
                    f"types={{{name!r}: {kind!r}}}, and the job has begun with {types[name]!r} for this column: give "
                    "that, or start over with resume_from='none'",
                    setting="types",
                )
            types.setdefault(name, kind)
        times = {name: kind for name, kind in types.items() if kind == "datetime"}
        if times and any("exact" not in position for position in known):
            # Of the version before: it read each value as its own text said.
            seen = self._looked_at(times).types
            types |= {name: seen.get(name, kind) for name, kind in times.items()}
        return Agreed(types, exact - set(self.types), None if self.columns is not None else known[0]["header"])

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        start: dict[str, Any] = position if isinstance(position, dict) else {}
        whole_lines = context.until == "caught_up"
        if self._agreed is None:
            is_kept = start and not start.get("untyped")
            self._agreed = self._kept([start]) if is_kept else self._looked_at(self.types, whole_lines=whole_lines)
        agreed = self._agreed
        lines = LineReader(partition, position, self.encoding, self.max_record_bytes, whole_lines=whole_lines)
        try:
            records = self._records(lines)
            if start:
                header = start["header"]
                self._check_named(partition, header)
                if "exact" not in start:
                    # The version before inferred types anew for a file that came later.
                    own = {name: kind for name, kind in start["types"].items() if kind != "datetime"}
                    agreed = replace(agreed, types=agreed.types | own)
                if self.names is not None and self.names != header:
                    raise ConfigurationError(
                        f"names={self.names}, and the job has begun with {header} in {partition}: give these, or "
                        "start over with resume_from='none'",
                        setting="names",
                    )
            else:
                named = self._header(lines, records)
                if named is None:
                    return NotYetReader(lines.close)
                header = named
                agreed.check_header(partition, header)
            agreed.check_types(
                partition, {*(self.columns or header), *([self.time_column] if self.time_column else [])}
            )
            records.open_quote_at = start.get("open_quote_at")
            records.check_open_quote()
            return CsvReader(self, self._policy, lines, records, header, agreed, start.get("record", 0))
        except BaseException:
            lines.close()
            raise

    def _records(self, lines: LineReader) -> CsvRecords:
        return CsvRecords(lines, self.delimiter, self.encoding, self.max_record_bytes)

    def _header(self, lines: LineReader, records: CsvRecords) -> list[str] | None:
        """The names of the columns, read if the file has them; None if that line is still to be written."""
        if self.names is not None:
            return self.names
        while (rows := records.peek(1)).lines:
            (header,) = rows.fields
            if rows.refused:
                data = records.data(0, rows.lines)
                raise SourceError(
                    f"{lines.path}:{lines.line}: the header {rows.refused[0]}: {data[:100]!r}; check encoding and "
                    "delimiter"
                )
            lines.take(rows.lines)
            if header:
                if len(set(header)) != len(header):
                    raise SourceError(
                        f"{lines.path} names a column twice: {header}; if this is not a header, give names=[...]"
                    )
                self._check_named(lines.path, header)
                return header
        if lines.whole_lines:
            return None
        raise SourceError(f"{lines.path} is empty; a CSV file begins with the names of its columns")

    def _check_named(self, where: str, header: list[str]) -> None:
        named = {*self.types, *(self.columns or ())} | ({self.time_column} if self.time_column else set())
        missing = sorted(named - set(header))
        if missing:
            raise (ConfigurationError if where == "names" else SourceError)(
                f"{where} has no column {missing}; it has {header}"
            )

    def _looked_at(self, said: Mapping[str, str], *, whole_lines: bool = False) -> Agreed:
        """Types of all columns, by a look at the beginning of each file."""
        guesses: dict[str, TypeGuess] = {}
        first: tuple[str, list[str]] | None = None
        untyped = True
        for path in super().partitions():
            lines = LineReader(path, None, self.encoding, self.max_record_bytes, whole_lines=whole_lines)
            try:
                records = self._records(lines)
                header = self._header(lines, records)
                rows = [] if header is None else records.peek(SAMPLE_ROWS).fields
            finally:
                lines.close()
            if header is None:
                continue
            first = first or (path, header)
            if self.columns is None and set(header) != set(first[1]):
                raise SourceError(
                    f"{path} has the columns {header}, and {first[0]} has {first[1]}: files of one source have the "
                    "same columns. Give columns=[...] to read those that all have"
                )
            whole = [row for row in rows if len(row) == len(header)]
            untyped &= not whole
            columns = zip(*whole, strict=True)
            for name, texts in zip_longest(header, columns, fillvalue=()):
                if isinstance(name, str):
                    guesses.setdefault(name, TypeGuess(said.get(name))).add(texts, self.null_values)
        types = {name: guess.kind for name, guess in guesses.items()}
        header = None if self.columns is not None or first is None else first[1]
        return Agreed(types, set(types) - set(said), header, untyped)
