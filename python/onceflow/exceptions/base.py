"""The base of all errors, and what was asked for that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from onceflow.types import Plain

__all__ = [
    "ConfigurationError",
    "DataflowChangedError",
    "DeliveryGuaranteeError",
    "MissingExtraError",
    "OnceflowError",
    "UserFunctionError",
]


class OnceflowError(Exception):
    """Base of all errors of this package.

    What a program may want to know besides the text is in attributes; one that is not known is None. They survive
    ``pickle`` and ``copy``.
    """

    kind: ClassVar[str] = "onceflow"


class ConfigurationError(OnceflowError, ValueError):
    """An argument or a combination of settings that cannot be; the text says what can.

    Attributes:
        setting: The name of the argument, where the text begins with it; None where several do not go together, or
            where it is not an argument that cannot be.
        stored: What the job was started with, where that is not to change.
    """

    kind = "invalid_argument"

    def __init__(self, message: str = "", *, setting: str | None = None, stored: Plain = None) -> None:
        super().__init__(message)
        self.setting = setting
        self.stored = stored


class DeliveryGuaranteeError(ConfigurationError):
    """A path of the dataflow cannot keep the guarantee that was asked for.

    Raised before the first record; the text names the path and the missing requirement.

    Attributes:
        guarantee: The one that was asked for.
        step_id: The step that cannot keep it.
    """

    kind = "delivery_guarantee"

    def __init__(self, message: str = "", *, guarantee: str | None = None, step_id: str | None = None) -> None:
        super().__init__(message, setting="guarantee")
        self.guarantee = guarantee
        self.step_id = step_id


class MissingExtraError(ConfigurationError):
    """A connector or a format needs a library that is not installed; the text says how to install it."""

    kind = "missing_extra"


class UserFunctionError(OnceflowError):
    """An exception in a function of the dataflow; ``__cause__`` is the original.

    Attributes:
        step_id: The step whose function raised.
        position: Where the record came from, if known.
    """

    kind = "user_function"

    def __init__(self, message: str = "", *, step_id: str = "", position: str | None = None) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.position = position


class DataflowChangedError(OnceflowError):
    """The dataflow does not fit the state it resumes from: a step with state is gone, new or changed.

    Attributes:
        on_change: What to give as ``run(..., on_change=...)`` if the change is meant; empty where nothing helps.
        step_ids: The steps.
    """

    kind = "dataflow_changed"

    def __init__(
        self, message: str = "", *, on_change: Mapping[str, str] | None = None, step_ids: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.on_change: Mapping[str, str] = on_change or {}
        self.step_ids = step_ids
