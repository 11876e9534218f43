"""Words that every layer shares: guarantees, batches of records, times."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

from onceflow.exceptions import ConfigurationError

if TYPE_CHECKING:
    from onceflow.columns import Columns

#: What a checkpoint keeps for a source or a sink: anything msgpack can write.
Plain: TypeAlias = "bool | int | float | str | bytes | list[Plain] | dict[str, Plain] | None"

#: Records on their way: a list of Python objects, or columns.
Batch: TypeAlias = "list[Any] | Columns"

#: Microseconds since 1970-01-01 UTC; event times and watermarks.
Micros: TypeAlias = int

#: How far a run goes: to the end of its sources, which is the end of the job, or through what is there now.
Until: TypeAlias = Literal["end", "caught_up"]

#: The first and the last event time: the years 1 to 9999, which a datetime can show.
FIRST_MICROS: Micros = -62_135_596_800_000_000
LAST_MICROS: Micros = 253_402_300_799_999_999

#: The watermark before any record, and the one after the end of all inputs.
BEGINNING_OF_TIME: Micros = -(1 << 63)
END_OF_TIME: Micros = (1 << 63) - 1

#: Types of a key's elements, and of columns, in a table of state; and what an update does to a column.
KeyElementType: TypeAlias = Literal["i64", "u64", "str", "bytes"]
ColumnType: TypeAlias = Literal["i64", "u64", "f64", "f32", "u32", "bool", "bytes"]
Operation: TypeAlias = Literal["add", "min", "max", "first", "last", "put", "count"]

#: What is done where a dataflow is not as its state has it.
Change: TypeAlias = Literal["drop", "empty", "widen"]


#: The guarantees by their names.
GuaranteeName: TypeAlias = Literal["at_most_once", "at_least_once", "exactly_once", "effectively_once"]


class Guarantee(StrEnum):
    """How often an input is reflected in the output, after any number of failures."""

    AT_MOST_ONCE = "at_most_once"
    """May lose, never repeats: positions become durable before the outputs that rest on them."""
    AT_LEAST_ONCE = "at_least_once"
    """May repeat, never loses: outputs are written before the positions become durable."""
    EXACTLY_ONCE = "exactly_once"
    """Neither: outputs are staged, fixed by the checkpoint's decision, then applied once."""
    EFFECTIVELY_ONCE = "effectively_once"
    """At-least-once delivery into idempotent sinks: a repeated write replaces itself."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ConfigurationError(f"guarantee is {value!r}; it is one of {', '.join(cls)}", setting="guarantee")


@dataclass(frozen=True, slots=True)
class StateChange:
    """Something that a checkpoint does not hold as the dataflow has it, and what was done about it.

    Attributes:
        step_id: The step.
        result: Of an aggregate or window step, which result, of a processor, which state; None: the whole step.
        action: ``"drop"``: what the checkpoint has of it is given up; ``"empty"``: it begins with nothing;
            ``"widen"``: its whole numbers become floats, each of the same value.
        what: The difference, for people.
    """

    step_id: str
    result: str | None
    action: Change
    what: str

    @property
    def name(self) -> str:
        """How ``on_change`` names it: ``step`` or ``step/result``."""
        return self.step_id if self.result is None else f"{self.step_id}/{self.result}"
