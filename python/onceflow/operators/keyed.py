"""What all steps with state by key share: their keys, and the type of them that the state was made for."""

from __future__ import annotations

from typing import Any

from onceflow.exceptions import DataflowChangedError, OnceflowError, StateError, TypeMismatchError, UserFunctionError
from onceflow.keys import KeySelector, KeyType, fits, is_text, key_list, key_type_of, same_kind
from onceflow.operators.base import Operator
from onceflow.operators.calls import shown
from onceflow.types import Batch

__all__ = ["KeyedOperator"]


class KeyedOperator(Operator):
    """Base of the steps behind ``key_by``.

    Args:
        selector: The key.
        key_type: Its type; None: by the first keys.
    """

    _step_id: str

    def __init__(self, selector: KeySelector, key_type: KeyType | None) -> None:
        self._selector = selector
        self._key_type = key_type
        self._restored = False

    def _resume(self, known: KeyType) -> None:
        """The state that the step resumes from has keys of this type.

        Raises:
            DataflowChangedError: The step asks for another one.
        """
        if self._key_type is not None and self._key_type != known:
            raise DataflowChangedError(_other_keys(self._step_id, known, self._key_type))
        self._key_type = known
        self._restored = True

    def _keys(self, records: Batch) -> tuple[KeyType, Any]:
        """The type of the keys, and one key a record in a form that ``Table`` takes.

        Raises:
            UserFunctionError: The first record has no key.
            DataflowChangedError: The keys are others than those of the state that the step resumes from.
        """
        keys = self._selector.keys(self._step_id, records)
        if self._key_type is None or self._restored:
            try:
                found = key_type_of(keys)
            except TypeMismatchError as error:
                raise self._refused(error, keys, records) from error
            if self._key_type is None:
                self._key_type = found
            elif not same_kind(self._key_type, found):
                raise DataflowChangedError(_other_keys(self._step_id, self._key_type, found))
            self._restored = False
        return self._key_type, keys

    def _refused(self, error: StateError, keys: Any, records: Batch, hint: str = "") -> OnceflowError:
        """What a table said of a batch, with the step and, if a key is the reason, its record."""
        if isinstance(error, TypeMismatchError) and isinstance(keys, list):
            for number, key in enumerate(keys):
                if not fits(self._key_type or "", key):
                    if any(isinstance(part, str) and not is_text(part) for part in _parts(key)):
                        return UserFunctionError(
                            f"step {self._step_id!r}: a record has the key {key!r}, whose lone surrogates cannot be "
                            "written as UTF-8. Make the key another one, such as bytes, or filter such records out; "
                            f"record {number} of the batch is {shown(records, number)}",
                            step_id=self._step_id,
                        )
                    wanted = "" if self._key_type is None else f" and the step has keys of type {_name(self._key_type)}"
                    return UserFunctionError(
                        f"step {self._step_id!r}: a record has the key {key!r}{wanted}; keys are int, str, bytes or "
                        "tuples of two or more of these. Filter out records without a key; record "
                        f"{number} of the batch is {shown(records, number)}",
                        step_id=self._step_id,
                    )
        return UserFunctionError(f"step {self._step_id!r}: {error}{hint}", step_id=self._step_id)

    def _split(self, keys: Any) -> tuple[Any, ...]:
        """One column for each element of tuple keys.

        Raises:
            TypeMismatchError: A key is no tuple, or has another length than the type.
        """
        if isinstance(keys, tuple):
            return keys
        length = len(self._key_type or "")
        listed = key_list(keys)
        if not all(isinstance(key, tuple) and len(key) == length for key in listed):
            raise TypeMismatchError(f"a key is no tuple of {length}")
        return tuple(map(list, zip(*listed, strict=True)))


def _parts(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _other_keys(step_id: str, known: KeyType, found: KeyType) -> str:
    return (
        f"step {step_id!r} has state by keys of type {_name(known)}, and its keys are now of type {_name(found)}. Give "
        "it another id, or start over with fresh state"
    )


def _name(key_type: KeyType) -> str:
    return key_type if isinstance(key_type, str) else f"({', '.join(key_type)})"
