"""Histories of what clients did to a log, and a checker that proves what the log did wrong.

Each client writes down its operations with a ``Recorder``; afterwards ``History.load`` reads them all and ``check``
compares them. Any log will do whose records have offsets in partitions of topics::

    report = check(History.load("history/"), atomic_commits=True)
    report.raise_anomalies()
    assert report.unseen == 0 and report.read > 0
"""

from onceflow.testing.histories.check import check
from onceflow.testing.histories.history import History, HistoryError
from onceflow.testing.histories.operations import (
    Abort,
    Assign,
    Begin,
    Commit,
    Isolation,
    Operation,
    Outcome,
    PartitionOffset,
    Poll,
    Rebalance,
    Record,
    Returned,
    Seek,
    Send,
    SendOffsets,
    Value,
)
from onceflow.testing.histories.recorder import Recorder
from onceflow.testing.histories.report import Anomaly, AnomalyKind, Report

__all__ = [
    "Abort",
    "Anomaly",
    "AnomalyKind",
    "Assign",
    "Begin",
    "Commit",
    "History",
    "HistoryError",
    "Isolation",
    "Operation",
    "Outcome",
    "PartitionOffset",
    "Poll",
    "Rebalance",
    "Record",
    "Recorder",
    "Report",
    "Returned",
    "Seek",
    "Send",
    "SendOffsets",
    "Value",
    "check",
]
