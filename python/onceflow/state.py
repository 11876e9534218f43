"""State of user functions by key: single values, lists and maps, with time to live.

Declared in a ``Processor``; read and written for the key of the record at hand::

    class Sessions(Processor):
        visits = ValueState(default=0)
        pages = ListState(ttl=timedelta(hours=1))

        def process(self, record):
            self.visits.set(self.visits.get() + 1)
            self.pages.append(record["page"])
            yield {"user": self.key, "visits": self.visits.get(), "pages": self.pages.get()}

An expired state is as if it had never been set; its time to live begins anew with every write. Time is the record's
event time, or the watermark where that is later; for records without event time it is time that has passed, which
setting the machine's clock does not change. What has expired is deleted in passing, also where its key never comes
again.

What ``get`` and ``items`` give is the caller's own, and what is set is copied: state changes by ``set``, ``append``,
``replace``, ``put`` and ``remove`` alone. A list or dict that ``ValueState.get`` returned must be set again after it
was changed. So a large value costs a copy each time it is read or set; ``ListState`` and ``MapState`` copy what is
asked for.

A checkpoint writes a value of a ``ValueState`` anew when it was set, and of a ``ListState`` or ``MapState`` only the
entries around what changed, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Self, TypeVar, cast

from onceflow.copies import FIXED, own_copy
from onceflow.entries import ListEntries, MapEntries
from onceflow.types import END_OF_TIME, Micros
from onceflow.windows import micros_of

__all__ = ["ListState", "MapState", "Processor", "ValueState"]

_UNSET = object()
_Entries = TypeVar("_Entries", ListEntries, MapEntries)


class _State:
    """A descriptor of one named state; it works on the cells of the current key."""

    def __init__(self, *, ttl: timedelta | None = None) -> None:
        self._ttl = None if ttl is None else micros_of("the time to live", ttl, longest_us=None)
        self._name = ""
        self._owner: Processor | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def _bound(self, owner: Processor) -> Any:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__, _owner=owner)
        return copy

    def _read(self, missing: Any) -> Any:
        owner = self._owner
        if owner is None:
            raise _unbound()
        cell = owner.cells.get(self._name)
        if cell is None:
            return missing
        value, written = cell
        if self._ttl is not None and owner.state_time_us >= written + self._ttl:
            del owner.cells[self._name]
            owner.changed = True
            return missing
        return value

    def _write(self, value: Any) -> None:
        owner = self._owner
        if owner is None:
            raise _unbound()
        owner.cells[self._name] = [value, owner.state_time_us]
        owner.changed = True

    def _own(self, value: Any) -> Any:
        """The value, or a copy of it."""
        if type(value) in FIXED:
            return value
        owner = self._owner
        if owner is None:
            raise _unbound()
        return owner.own_copy(value)

    def _entries(self, kind: type[_Entries]) -> _Entries:
        """The entries, about to be changed: that begins the time to live anew."""
        entries: _Entries | None = self._read(None)
        if entries is None:
            entries = kind.of(())
        self._write(entries)
        return entries

    def clear(self) -> None:
        """Forgets the state of the current key."""
        owner = self._owner
        if owner is None:
            raise _unbound()
        if owner.cells.pop(self._name, None) is not None:
            owner.changed = True

    @property
    def ttl_us(self) -> int | None:
        """Time to live in microseconds."""
        return self._ttl


def _unbound() -> RuntimeError:
    return RuntimeError("a state is used through the processor that declares it")


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


class ValueState(_State):
    """One value.

    Args:
        default: What ``get`` returns before a value is set; a list, dict or other mutable value as a copy of its own.
        ttl: Time to live after a write.
    """

    def __init__(self, default: Any = None, *, ttl: timedelta | None = None) -> None:
        super().__init__(ttl=ttl)
        self._default = default
        # One that all keys share would carry what was changed in place from key to key, and past a restart.
        self._copied = not _is_hashable(default)

    def get(self) -> Any:
        """The value, as a copy: what is changed in it must be ``set``."""
        value = self._read(_UNSET)
        if value is not _UNSET:
            return self._own(value)
        return self._own(self._default) if self._copied else self._default

    def set(self, value: Any) -> None:
        """Replaces the value, by a copy of this one."""
        self._write(self._own(value))


class ListState(_State):
    """A list."""

    def get(self) -> list[Any]:
        """A copy of the list, and of what is in it."""
        entries: ListEntries | None = self._read(None)
        return [] if entries is None else cast("list[Any]", self._own(entries.all()))

    def append(self, value: Any) -> None:
        """Adds a copy of the value to the end."""
        self._entries(ListEntries).append(self._own(value))

    def replace(self, values: Iterable[Any]) -> None:
        """Replaces the list, by copies of these values."""
        self._write(ListEntries.of(map(self._own, values)))


class MapState(_State):
    """A dict."""

    def get(self, name: Any, default: Any = None) -> Any:
        """The value of a name, as a copy: what is changed in it must be ``put``. The default as it is."""
        entries: MapEntries | None = self._read(None)
        value = _UNSET if entries is None else entries.get(name, _UNSET)
        return default if value is _UNSET else self._own(value)

    def put(self, name: Any, value: Any) -> None:
        """Sets the value of a name, to a copy of this one."""
        self._entries(MapEntries).put(name, self._own(value))

    def remove(self, name: Any) -> None:
        """Forgets a name."""
        self._entries(MapEntries).remove(name)

    def items(self) -> dict[Any, Any]:
        """A copy of the dict, and of its values."""
        entries: MapEntries | None = self._read(None)
        return {} if entries is None else cast("dict[Any, Any]", self._own(entries.all()))


class Processor:
    """Base of user classes with keyed state; one instance a run.

    Attributes:
        key: Key of the record at hand.
        now_us: Its event time, or the clock's, in microseconds since 1970 UTC.
        state_time_us: The time by which states expire: never before the watermark; without event time a count of time
            that has passed, over runs too.
    """

    key: Any = None
    now_us: Micros = 0
    state_time_us: Micros = 0

    #: State of the current key: name → [value or entries, time of the last write].
    cells: dict[str, list[Any]]
    changed: bool = False
    #: How values are copied; whoever runs it may know a faster way.
    own_copy: Callable[[Any], Any] = staticmethod(own_copy)

    #: Kinds of the declared states, by name.
    states: dict[str, str]
    #: Times to live in microseconds, by name of the state.
    ttls: dict[str, int]

    def __new__(cls, *_args: Any, **_settings: Any) -> Self:
        # Here and not in __init__, which users write without calling ours.
        processor = super().__new__(cls)
        processor.cells, processor.states, processor.ttls = {}, {}, {}
        for owner in reversed(cls.__mro__):
            for name, value in vars(owner).items():
                if isinstance(value, _State):
                    setattr(processor, name, value._bound(processor))
                    processor.states[name] = type(value).__name__
                    if value.ttl_us is not None:
                        processor.ttls[name] = value.ttl_us
        return processor

    @staticmethod
    def declared_by(make: Callable[[], Processor]) -> Processor:
        """A processor that says which states it has, for no records: of a class without calling its ``__init__``."""
        kind = cast("type[Processor]", make) if isinstance(make, type) else None
        return make() if kind is None else kind.__new__(kind)

    def expires(self, cells: dict[str, list[Any]]) -> Micros:
        """When the last of these states expires; at the end of time if one has no time to live."""
        last = -END_OF_TIME
        for name, (_, written) in cells.items():
            ttl = self.ttls.get(name)
            if ttl is None or written + ttl >= END_OF_TIME:
                return END_OF_TIME
            last = max(last, written + ttl)
        return last

    def process(self, record: Any) -> Iterable[Any] | None:
        """Handles a record; returns or yields what goes on."""
        raise NotImplementedError(f"{type(self).__name__} must define process(record)")
