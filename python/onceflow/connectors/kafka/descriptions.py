"""Descriptions of topics, without what the client leaves in memory of each.

confluent-kafka 2.16.1 forgets to let go of the id of each topic that it has described: 112 bytes. A job looks at its
topics at each checkpoint, so with ten a second that is more than 200 MiB a day. What is done about it is for that
version alone: of another one nobody knows who else has the id.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from importlib.metadata import version
from typing import Any

__all__ = ["released"]

_FORGETFUL = "2.16.1"


def _forgets() -> bool:
    # Where threads run without the interpreter's lock, counts of references say something else.
    return version("confluent-kafka") == _FORGETFUL and sysconfig.get_config_var("Py_GIL_DISABLED") != 1


_FORGETS = _forgets()


def released(description: Any) -> Any:
    """A description of ``describe_topics``, whose id nobody else has a reference to any more.

    Whether one was forgotten is counted: its partitions are a list of its own, so there are as many references to them
    as there should be to its id.
    """
    identity, partitions = description.topic_id, description.partitions
    if _FORGETS and identity is not None and sys.getrefcount(identity) == sys.getrefcount(partitions) + 1:
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(identity))
    return description
