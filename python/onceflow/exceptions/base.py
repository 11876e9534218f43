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
    ``pickle`` and ``copy``. What programs ask of a ``confluent_kafka.KafkaError`` can be asked of each by the same
    calls; they mean something for what the embedded log raises and reports.
    """

    kind: ClassVar[str] = "onceflow"
    #: What ``code``, ``fatal`` and ``retriable`` say of all errors of a class.
    kafka_code: ClassVar[int] = -1
    is_fatal: ClassVar[bool] = False
    is_retriable: ClassVar[bool] = False
    #: Set by the producer that raises it.
    _requires_abort: bool = False

    def code(self) -> int:
        """The nearest code of Kafka, one of the constants of ``confluent_kafka.KafkaError``; -1: it has none."""
        return self.kafka_code

    def fatal(self) -> bool:
        """Whether the client that raised it is of no use any more: close it, make a new one."""
        return self.is_fatal

    def retriable(self) -> bool:
        """Whether the same call, made again, may succeed; what it was for is not done twice."""
        return self.is_retriable

    def txn_requires_abort(self) -> bool:
        """Whether the producer's transaction can only be aborted, after which the next one may begin."""
        return self._requires_abort


class ConfigurationError(OnceflowError, ValueError):
    """An argument or a combination of settings that cannot be; the text says what can.

    Attributes:
        setting: The name of the argument, where the text begins with it; None where several do not go together, or
            where it is not an argument that cannot be.
        stored: What the job was started with, where that is not to change.
    """

    kind = "invalid_argument"
    kafka_code = -186

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
