"""Late records on the command line: a warning where nothing takes them, and their number by step at the end.

The kind of fault: two thirds of the input were left out, and the screen said nothing.
"""

from __future__ import annotations

import pytest

JOB = """
import onceflow as of
from onceflow.connectors.files import CsvSource
from onceflow.testing import TransactionalTestingSink
from onceflow.windows import Tumbling


def build(taken):
    flow = of.Dataflow("late")
    rows = flow.source("rows", CsvSource("in.csv", event_time="at"))
    windows = rows.key_by("k").window("minutes", Tumbling(minutes=1)).aggregate(n=of.count())
    windows.sink("out", TransactionalTestingSink())
    if taken:
        flow.late("minutes").sink("late", TransactionalTestingSink())
    return flow


taken, lost = build(True), build(False)
"""


@pytest.mark.parametrize("flow", ["taken", "lost"])
def test_late_records_are_told(tmp_path, onceflow, flow):
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "in.csv").write_text("k,at\na,2024-01-01T10:00:00Z\na,2024-01-01T11:00:00Z\na,2024-01-01T10:00:01Z\n")
    ran = onceflow("run", f"job.py:{flow}", "--state", "state")
    assert ran.returncode == 0, ran.stderr
    assert "late       1 too late for their windows in minutes" in ran.stderr
    told = "step 'minutes': records come too late for their windows and are left out" in " ".join(ran.stderr.split())
    assert told == (flow == "lost")
    assert "LateRecordsWarning" not in ran.stderr
    again = onceflow("run", f"job.py:{flow}", "--state", "state")
    assert again.returncode == 0, again.stderr
