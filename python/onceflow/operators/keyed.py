"""What all steps with state by key share: their keys, and the type of them that the state was made for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow.exceptions import DataflowChangedError, OnceflowError, StateError, TypeMismatchError, UserFunctionError
from onceflow.graph.partitioning import KeySelector, KeyType
from onceflow.operators.base import Operator, OperatorContext
from onceflow.operators.calls import shown
from onceflow.operators.keys import (
    AgreedType,
    agree,
    all_fit,
    as_instants,
    encode_key,
    first_type,
    fits,
    is_finer,
    is_native,
    is_text,
    key_list,
    key_type_name,
    key_type_of,
    plain_key,
    plain_keys,
    same_kind,
    select_keys,
)
from onceflow.types import Batch, Plain

__all__ = ["KeyedOperator", "KeyedStep"]

#: Most keys whose bytes are remembered, so that they are not written anew for each record.
_MAX_REMEMBERED = 100_000

#: What an element of each type may be of, for a quick look at a batch.
_PYTHON_TYPES = {
    "i64": "int",
    "u64": "int",
    "str": "str",
    "bytes": "bytes",
    "bool": "bool",
    "date": "date",
    "datetime": "datetime",
    "naive datetime": "datetime",
}


class KeyedOperator(Operator):
    """Base of the steps after ``key_by``.

    Args:
        selector: The key.
        key_type: Its type; None: by the first keys.
    """

    _step_id: str

    def __init__(self, selector: KeySelector, key_type: KeyType | None) -> None:
        self._selector = selector
        self._declared = key_type
        #: What is known of the type; an element is None until a key shows it. None: nothing.
        self._key_type: AgreedType = key_type
        self._restored = False
        #: Bytes of keys that no native type holds.
        self._remembered: dict[Any, bytes] = {}

    def _resume(self, known: AgreedType) -> None:
        """The state that the step resumes from has keys of this type.

        Raises:
            DataflowChangedError: The step asks for another one.
        """
        if self._declared is not None and known is not None and _differ(self._declared, known):
            raise DataflowChangedError(_changed_keys(self._step_id, known, self._declared), step_ids=(self._step_id,))
        self._key_type = known if self._key_type is None else agree(self._key_type, known)
        self._restored = True

    def _resume_agreed(self, context: OperatorContext) -> None:
        """The type of keys that the job has agreed on, which its tables do not show where they are empty, or where no
        native type holds such keys."""
        kept: Any = context.agreed.get("key")
        former = _type_table(self._step_id)
        if former in context.backend.tables():
            # Of a version that kept it in a table.
            table = context.backend.table(former, key="i64", columns={"type": "bytes"})
            [data] = table.get_bytes([0], "type")
            kept = kept or msgspec.msgpack.decode(data or b"\xc0")
            context.backend.drop_table(former)
        if kept is None:
            return
        known: AgreedType = tuple(kept) if isinstance(kept, list) else kept
        if self._declared is not None and not same_kind(self._declared, known):
            raise DataflowChangedError(_changed_keys(self._step_id, known, self._declared), step_ids=(self._step_id,))
        self._key_type = known if self._key_type is None else agree(self._key_type, known)
        self._restored = True

    def agreed(self) -> dict[str, Plain]:
        kept = self._key_type
        return {} if kept is None else {"key": list(kept) if isinstance(kept, tuple) else kept}

    def _learn(self, kind: AgreedType) -> None:
        """A key of this type has come, which is of the kind of those before it."""
        self._key_type = agree(self._key_type, kind)

    def _keys(self, records: Batch) -> Any:
        """One key a record, in a form that ``Table`` takes if all of them are native to it.

        Raises:
            UserFunctionError: The first record has no key.
            DataflowChangedError: The keys are others than those of the state that the step resumes from.
        """
        keys = select_keys(self._selector, self._step_id, records)
        try:
            keys = plain_keys(keys)
            if isinstance(keys, list):
                keys = as_instants(keys)
            if self._key_type is None or self._restored:
                found = first_type(keys)
                if self._restored and not same_kind(self._key_type, found):
                    raise DataflowChangedError(
                        f"{_changed_keys(self._step_id, self._key_type, found)}. The first record of this run has such "
                        f"a key: {shown(records, 0)}. If it is an odd one among others, filter such records "
                        "out, or give their keys the type of the state's",
                        step_ids=(self._step_id,),
                    )
                self._learn(found)
                self._restored = False
        except TypeMismatchError as error:
            raise self._refused(error, keys, records) from error
        return keys

    @property
    def _is_native(self) -> bool:
        """True if all keys but exceptions are native to the state tables."""
        return is_native(self._key_type)

    def _native_rows(self, keys: list[Any], records: Batch) -> npt.NDArray[np.bool_]:
        """For each key whether it is native to the state tables.

        Raises:
            UserFunctionError: A key is none, or of another type than the step's.
        """
        native = np.zeros(len(keys), dtype=bool)
        if not self._is_native and self._look_alike(keys):
            return native
        for row, key in enumerate(keys):
            if not fits(self._key_type, key):
                kind = self._kind_of(row, key, records)
                self._learn(kind)
            native[row] = self._is_native and fits(self._key_type, key)
        return native

    def _kind_of(self, row: int, key: Any, records: Batch) -> AgreedType:
        try:
            kind = key_type_of(key)
        except TypeMismatchError as error:
            raise self._refused_key(row, key, records) from error
        if not same_kind(self._key_type, kind) or not self._takes(key):
            raise self._refused_key(row, key, records)
        return kind

    def _look_alike(self, keys: list[Any]) -> bool:
        """True if a quick look shows that all keys are of the agreed type, or None, and known already."""
        agreed = self._key_type
        if isinstance(agreed, tuple):
            if set(map(type, keys)) != {tuple} or set(map(len, keys)) != {len(agreed)}:
                return False
            columns: Iterable[Any] = zip(*keys, strict=True)
        else:
            columns, agreed = [keys], (agreed,)
        for column, kind in zip(columns, agreed, strict=True):
            wanted = _PYTHON_TYPES.get(kind or "", "NoneType")
            if not {found.__name__ for found in set(map(type, column))} <= {wanted, "NoneType"}:
                return False
        return all(map(self._remembered.__contains__, keys))

    def _takes(self, key: Any) -> bool:
        """True if a key of the step's type can be kept: one that was given a type by name has its range."""
        try:
            self._encoded([key])
        except TypeMismatchError:
            return False
        if self._declared is None:
            return True
        types = self._declared if isinstance(self._declared, tuple) else (self._declared,)
        parts = _parts(key)
        return all(
            part is None or not is_native(kind) or fits(kind, part) for kind, part in zip(types, parts, strict=True)
        )

    def _encoded(self, keys: list[Any]) -> list[bytes]:
        """Keys as the table of keys of any type has them."""
        remembered = self._remembered
        if len(remembered) > _MAX_REMEMBERED:
            remembered.clear()
        for key in keys:
            if key not in remembered:
                remembered[key] = encode_key(key)
        return [remembered[key] for key in keys]

    def _refused(self, error: StateError, keys: Any, records: Batch, hint: str = "") -> OnceflowError:
        """What a table said of a batch, with the step and, if a key is the reason, its record."""
        if isinstance(error, TypeMismatchError) and isinstance(keys, list):
            for row, key in enumerate(keys):
                try:
                    kind = key_type_of(plain_key(key))
                except TypeMismatchError:
                    return self._refused_key(row, key, records)
                is_other = self._key_type is not None and not same_kind(self._key_type, kind)
                if is_other or not self._takes(key):
                    return self._refused_key(row, key, records)
        return UserFunctionError(f"step {self._step_id!r}: {error}{hint}", step_id=self._step_id)

    def _refused_key(self, row: int, key: Any, records: Batch) -> UserFunctionError:
        where = f"record {row} of the batch is {shown(records, row)}"
        if any(isinstance(part, str) and not is_text(part) for part in _parts(key)):
            text = (
                f"step {self._step_id!r}: a record has the key {key!r}, whose lone surrogates cannot be written as "
                f"UTF-8. Make the key another one, such as bytes, or filter such records out; {where}"
            )
        elif any(map(is_finer, _parts(key))):
            text = (
                f"step {self._step_id!r}: a record has the key {key!r}, a time with parts below a microsecond, which "
                "keys do not have. Give key_by a function that rounds it, or makes it a number of nanoseconds, or "
                f"filter such records out; {where}"
            )
        else:
            wanted = "" if self._key_type is None else f" and the step has keys of type {key_type_name(self._key_type)}"
            text = (
                f"step {self._step_id!r}: a record has the key {key!r}{wanted}; keys are int, str, bytes, bool, date, "
                "datetime, None, or tuples of two or more of these, and all of a step's are of one type. Give key_by a "
                f"function that makes them so, or filter such records out; {where}"
            )
        return UserFunctionError(text, step_id=self._step_id)

    def _split(self, keys: Any) -> tuple[Any, ...]:
        """One column for each element of tuple keys.

        Raises:
            TypeMismatchError: A key is not a tuple, or has another length than the type.
        """
        if isinstance(keys, tuple):
            return keys
        length = len(self._key_type or "")
        listed = key_list(keys)
        if not all(isinstance(key, tuple) and len(key) == length for key in listed):
            raise TypeMismatchError(f"a key is not a tuple of {length}")
        return tuple(map(list, zip(*listed, strict=True)))


class KeyedStep(KeyedOperator):
    """Base of the steps that keep a row a key in a table called like the step, with keys as Python objects."""

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._step_id = context.step_id
        known = context.backend.tables().get(context.step_id)
        if known is not None:
            self._resume(known.key)
        self._resume_agreed(context)

    def _listed(self, records: Batch) -> list[Any]:
        """The keys as Python objects, all of one type."""
        listed = key_list(self._keys(records))
        if not self._is_native or not all_fit(self._key_type, listed):
            listed = list(map(plain_key, listed))
            self._native_rows(listed, records)
        return listed


def _type_table(step_id: str) -> str:
    """Name of a table with one row, of former versions: the type of a step's keys that no native type holds."""
    return f"{step_id}:type"


def _parts(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _differ(declared: KeyType, known: AgreedType) -> bool:
    """True unless a state with keys of a known type may be one of the declared type."""
    if isinstance(declared, tuple) and isinstance(known, tuple) and len(declared) == len(known):
        return any(map(_differ, declared, known))
    return known is not None and declared != known


def _changed_keys(step_id: str, known: AgreedType, found: AgreedType) -> str:
    return (
        f"step {step_id!r} has state by keys of type {key_type_name(known)}, and its keys are now of type "
        f"{key_type_name(found)}. Give it another id, or start over with resume_from='none'"
    )
