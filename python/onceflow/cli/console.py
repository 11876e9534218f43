"""Where the commands write: results to standard output, everything said about them to standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["error", "note", "out", "print_json", "print_table", "status", "warning"]

#: Wide enough that nothing in a pipe is wrapped or cut.
_PIPE_WIDTH = 10_000
#: Room for a word or two of the last column of a table.
_MIN_SENTENCE = 6


@cache
def out() -> Console:
    """Standard output, for results."""
    return _console(stderr=False)


@cache
def status() -> Console:
    """Standard error, for what is said about a job or a result."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console  # noqa: PLC0415 - not needed to show the help of a command

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    # Texts come from users and data: no markup, no emoji, no colouring by guesses.
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def note(text: str) -> None:
    """A line about what happens."""
    status().print(text, soft_wrap=True)


def warning(text: str) -> None:
    """Something that the user should look at; the command goes on."""
    _labelled("warning", "bold yellow", text)


def error(text: str) -> None:
    """Why the command ends."""
    _labelled("error", "bold red", text)


def _labelled(label: str, style: str, text: str) -> None:
    from rich.text import Text  # noqa: PLC0415 - see above

    status().print(Text.assemble((f"{label}: ", style), text), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table; columns named in ``right`` are numbers. The last column may hold sentences, which are folded.

    In a pipe, or where not even the cells side by side have room: aligned columns, nothing folded or cut.
    """
    widest = [max((len(row[index]) for row in rows), default=0) for index in range(len(columns))]
    # A sentence gets what is left, and at least room for a word or two.
    widest[-1] = _MIN_SENTENCE
    needed = [max(width, *map(len, name.split())) for width, name in zip(widest, columns, strict=True)]
    if not out().is_terminal or sum(needed) + len(columns) + 1 > out().width:
        _print_aligned(columns, rows, right)
        return
    from rich import box  # noqa: PLC0415 - see above
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    gap = 1 if sum(needed) + 2 * len(columns) + 1 <= out().width else 0
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, gap, 0, 0), pad_edge=False)
    for name, width in zip(columns, needed, strict=True):
        justify: Literal["left", "right"] = "right" if name in right else "left"
        table.add_column(name.replace(" ", "\n"), justify=justify, vertical="bottom", overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out().print(table)


def _print_aligned(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(line, widths, columns, strict=True)
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def print_json(value: Any) -> None:
    """JSON for machines, indented for people who look."""
    import msgspec  # noqa: PLC0415 - see above

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")
