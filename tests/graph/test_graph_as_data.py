"""Faults of a dataflow as data: what does not survive a pickle, what no plan can see, and secrets in print."""

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
from graph import flows

import onceflow
from onceflow import Dataflow, count, max, sum
from onceflow.connectors.files import CsvSink, CsvSource, read_parts
from onceflow.connectors.log import LogSink, LogSource
from onceflow.graph.compatibility import why_not_repeatable
from onceflow.graph.graph import OperatorStep, SinkStep, StreamRef
from onceflow.graph.partitioning import FORWARD, ByKey, KeySelector
from onceflow.graph.steps import StepSpec
from onceflow.runtime.operators import make_operator
from onceflow.testing import TestingSource, TransactionalTestingSink

TESTS = Path(__file__).parents[1]

RUN_PICKLED = """
import pickle, sys
import onceflow
with open(sys.argv[1], "rb") as file:
    flow = pickle.load(file)
print(onceflow.run(flow, sys.argv[2], batch_size=64).finished)
"""


def outputs(root):
    return {path.name: read_parts(path) for path in sorted(root.iterdir())}


def run_elsewhere(root, pickled):
    (root / "flow.pickle").write_bytes(pickled)
    arguments = [sys.executable, "-c", RUN_PICKLED, str(root / "flow.pickle"), str(root / "state-pickled")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout == "True\n", done.stderr


def test_a_dataflow_runs_in_another_process_as_in_its_own(tmp_path):
    """A step that loses something when it is pickled, or an operator that only this process can make."""
    flows.write_input(tmp_path / "in.csv")
    onceflow.run(flows.every_step(tmp_path, tmp_path / "out"), tmp_path / "state", batch_size=64)
    there = flows.every_step(tmp_path, tmp_path / "there")
    run_elsewhere(tmp_path, pickle.dumps(there))
    assert outputs(tmp_path / "there") == outputs(tmp_path / "out")
    assert any(outputs(tmp_path / "out").values())


def test_cloudpickle_takes_functions_without_a_name(tmp_path):
    """A lambda in a dataflow that is sent to another process by those who have cloudpickle."""
    flows.write_input(tmp_path / "in.csv")
    made = Dataflow("lambdas")
    (
        made.source("in", CsvSource(tmp_path / "in.csv"))
        .map(lambda row: {**row, "amount": row["amount"] + 1})
        .key_by(lambda row: row["user"])
        .aggregate("totals", emit="final", amount=sum(lambda row: row["amount"]))
        .sink("out", CsvSink(tmp_path / "there"))
    )
    run_elsewhere(tmp_path, cloudpickle.dumps(made))
    assert read_parts(tmp_path / "there")


def test_every_kind_of_step_is_pickled_and_made():
    """A kind of step that was added without a place in the dataflow above, or without an operator."""
    steps = flows.every_step(Path("in"), Path("out")).graph.operators()
    assert {type(step.spec) for step in steps} == set(StepSpec.__args__)
    again = pickle.loads(pickle.dumps(steps))
    assert again == steps
    assert [type(make_operator(step)) for step in again] == [type(make_operator(step)) for step in steps]


def test_every_edge_says_how_its_records_are_divided():
    """A key that only an operator knows: no plan could say who gets which records."""
    graph = flows.every_step(Path("in"), Path("out")).graph
    keyed = {}
    for step in graph.steps.values():
        if isinstance(step, OperatorStep | SinkStep):
            for edge in step.inputs:
                if edge.partitioning != FORWARD:
                    keyed[step.step_id] = edge.partitioning
    assert keyed == {
        "once": ByKey(KeySelector(["id"])),
        "totals": ByKey(KeySelector(["user"]), "str"),
        "running": ByKey(KeySelector(["user"]), "str"),
        "hours": ByKey(KeySelector(["user"]), "str"),
        "visits": ByKey(KeySelector(flows.user)),
    }
    assert [edge.origin for edge in graph.steps["late-out"].inputs] == [StreamRef("hours", "late")]


class _Tells(TestingSource):
    def __repr__(self):
        return "hunter2"


def test_a_dataflow_is_printed_without_secrets(tmp_path):
    """A password in the log: of a connector, or among the arguments of a partial."""
    made = Dataflow("printed")
    rows = made.source("in", _Tells([]))
    secret = functools.partial(dict, password="hunter2")
    keyed = rows.map(secret).key_by(secret)
    keyed.aggregate("totals", n=count(), most=max(secret), amount=sum("amount", type="f64")).sink(
        "out", TransactionalTestingSink()
    )
    made.source("log", LogSource(tmp_path, "hunter2")).sink("log-out", LogSink(tmp_path, "hunter2"))
    assert repr(made) == str(made) == repr(made.graph)
    assert repr(made).splitlines() == [
        "dataflow 'printed'",
        "  source in: _Tells",
        "  map-1: map(function=partial, dead_letters=False) ← in",
        "  totals: aggregate(aggregates={n: count(), most: max(partial), amount: sum('amount', type='f64')}, "
        "emit='changes') ← map-1 by_key(partial)",
        "  sink out: TransactionalTestingSink ← totals",
        "  source log: LogSource",
        "  sink log-out: LogSink ← log",
    ]


def test_a_function_of_an_aggregate_is_a_function():
    """A replay that trusts a total whose values a function of the user's makes."""
    made = Dataflow("functions")
    made.source("in", TestingSource([])).key_by("k").aggregate("totals", n=sum(len)).sink(
        "out", TransactionalTestingSink()
    )
    assert why_not_repeatable(made.graph, waited=False) == "step 'totals' calls functions of yours"
