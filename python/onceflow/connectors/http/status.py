"""What is done about the status of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from onceflow.exceptions import ConfigurationError

__all__ = ["OnStatus", "Outcome", "StatusPolicy"]

#: ``"ok"``: the record is where it should be. ``"retry"``: sent again, until the deadline. ``"refuse"``: this record
#: is refused, see ``on_refused``. ``"fail"``: the job stops, whatever ``on_refused`` says.
Outcome: TypeAlias = Literal["ok", "retry", "refuse", "fail"]
#: Of a status, or of a class of them that has nothing more special.
OnStatus: TypeAlias = Mapping[int | Literal["2xx", "3xx", "4xx", "5xx"], Outcome]

#: Beside the classes. The request of this key is under way still (409, by the draft of the header); the server was too
#: slow, asks not to be replayed early, or limits the rate; it is not to blame on this record that the job may not, or
#: that the server does not do such a thing at all.
_STATUSES: dict[int, Outcome] = {
    409: "retry",
    408: "retry",
    425: "retry",
    429: "retry",
    401: "fail",
    403: "fail",
    407: "fail",
    501: "fail",
    505: "fail",
}
_CLASSES: dict[str, Outcome] = {"2xx": "ok", "3xx": "fail", "4xx": "refuse", "5xx": "retry"}
#: A fixed URL that is not there is a mistake in the dataflow, and not in its records.
_OF_THE_URL = (404, 405, 410)


class StatusPolicy:
    """Outcomes by status.

    Args:
        on_status: What differs from the defaults.
        fixed_url: All requests go to the same URL.

    Raises:
        ConfigurationError: No status, or no outcome.
    """

    def __init__(self, on_status: OnStatus, *, fixed_url: bool) -> None:
        given: dict[Any, Any] = dict(on_status)
        for status, outcome in given.items():
            whole = isinstance(status, int) and not isinstance(status, bool) and 200 <= status <= 599
            if not (whole or status in _CLASSES) or outcome not in get_args(Outcome):
                raise ConfigurationError(
                    f"on_status={{{status!r}: {outcome!r}}}: give a status from 200 to 599, or one of "
                    f"{', '.join(_CLASSES)}, and one of {', '.join(get_args(Outcome))}",
                    setting="on_status",
                )
        self._classes = _CLASSES | {status: each for status, each in given.items() if isinstance(status, str)}
        # A class that was given is meant before what is the default of one of its statuses.
        named = {f"{status}" for status in given}
        defaults = _STATUSES | (dict.fromkeys(_OF_THE_URL, "fail") if fixed_url else {})
        self._statuses: dict[int, Outcome] = {
            status: outcome for status, outcome in defaults.items() if f"{status // 100}xx" not in named
        } | {status: each for status, each in given.items() if isinstance(status, int)}

    def outcome(self, status: int) -> Outcome:
        """What to do; a status that HTTP has not is a failure."""
        known = self._statuses.get(status)
        return known if known is not None else self._classes.get(f"{status // 100}xx", "fail")
