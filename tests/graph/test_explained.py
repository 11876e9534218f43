"""What explain says: every kind of source and sink under every guarantee, and the same as text, data and picture."""

import json
import re
import xml.etree.ElementTree as ET
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from services.process import apt_install

from onceflow import Dataflow, count, run
from onceflow.exceptions import ConfigurationError, DeliveryGuaranteeError
from onceflow.graph.suggestions import SAVED
from onceflow.testing import IdempotentTestingSink, PlainTestingSink, TestingSource, TransactionalTestingSink
from onceflow.types import Guarantee

ROOT = Path(__file__).parents[2]
SINKS = {
    "plain": PlainTestingSink,
    "idempotent": lambda: IdempotentTestingSink(key=lambda record: record),
    "transactional": TransactionalTestingSink,
}
#: Guarantee, whether the source can be replayed, kind of sink: all that are kept; any other is refused.
KEPT = {
    *(("at_most_once", replayable, sink) for replayable in (True, False) for sink in SINKS),
    *(("at_least_once", True, sink) for sink in SINKS),
    *((guarantee, True, sink) for guarantee in ("effectively_once", "exactly_once") for sink in list(SINKS)[1:]),
}


class Watched(TestingSource):
    """Says whether it was asked for anything."""

    asked = False

    def partitions(self):
        self.asked = True
        return super().partitions()


def ends(replayable, sink, **settings):
    source, made = Watched([1, 2, 3], replayable=replayable), SINKS[sink]()
    flow = Dataflow("ends", **settings)
    flow.source("in", source).sink("out", made)
    return flow, source, made


@pytest.mark.parametrize(("guarantee", "replayable", "sink"), list(product(Guarantee, (True, False), SINKS)))
def test_every_combination(state, guarantee, replayable, sink):
    """A claim that nobody keeps, which is refused too late or not at all; or one that is kept and refused."""
    flow, source, made = ends(replayable, sink)
    explanation = flow.explanation(guarantee)
    [path] = explanation.paths
    kept = (str(guarantee), replayable, sink) in KEPT
    assert explanation.kept == path.kept == kept == all(each.holds for each in path.requirements)
    lacking = {each.role for each in path.requirements if not each.holds}
    if kept:
        assert run(flow, state, guarantee=guarantee).finished
        assert sorted(made.records) == [1, 2, 3]
        assert not lacking and "needed" not in {each.kind for each in path.suggestions}
        return
    expected = {"source"} if not replayable else set()
    expected |= {"sink"} if sink == "plain" and guarantee != "at_least_once" else set()
    assert lacking == expected
    [needed] = path.suggestions
    assert needed.kind == "needed" and needed.steps == tuple(
        step for step, role in (("in", "source"), ("out", "sink")) if role in lacking
    )
    with pytest.raises(DeliveryGuaranteeError, match=re.escape(needed.text)) as caught:
        run(flow, state, guarantee=guarantee)
    assert caught.value.step_id in needed.steps and caught.value.guarantee == guarantee
    assert not source.asked and not state.exists() and not made.records


def kinds(flow, guarantee):
    return [(each.kind, each.text) for path in flow.explanation(guarantee).paths for each in path.suggestions]


def mapped(sink, deterministic=False):
    flow = Dataflow("mapped", deterministic=deterministic)
    flow.source("in", TestingSource([1])).map(str).sink("out", SINKS[sink]())
    return flow


def test_a_cheaper_guarantee_is_told():
    """A price that is paid for nothing, or advice that does not hold where functions are not deterministic."""
    [(kind, text)] = kinds(ends(True, "idempotent")[0], "exactly_once")
    assert kind == "cheaper" and "effectively_once would be cheaper" in text and "only if" not in text
    [(kind, text)] = kinds(mapped("idempotent"), "exactly_once")
    assert kind == "cheaper" and text.endswith(
        "it is as good only if step 'map-1' gives the same whenever a record is processed again"
    )
    assert "only if" not in kinds(mapped("idempotent", deterministic=True), "exactly_once")[0][1]
    assert kinds(mapped("transactional"), "exactly_once") == []


def test_functions_that_effectively_once_stands_on():
    """effectively_once of a flow that gives another key each time: a repeated write replaces nothing."""
    [(kind, text)] = kinds(mapped("idempotent"), "effectively_once")
    assert kind == "caution" and "step 'map-1' giving the same" in text
    assert kinds(mapped("idempotent", deterministic=True), "effectively_once") == []
    # Its output is fixed by the decision all the same.
    assert kinds(mapped("transactional"), "effectively_once") == []
    flow = Dataflow("clock")
    source = TestingSource([{"k": 1}])
    source.deterministic = False
    rows = flow.source("in", source)
    once = rows.map(dict).filter(bool).map(dict).drop_duplicates("once", ["k"], horizon=timedelta(days=1))
    once.sink("out", IdempotentTestingSink(key=str))
    [(_, text)] = kinds(flow, "effectively_once")
    assert "steps 'in', 'map-1', 'filter-2' and 2 more giving" in text
    [suggestion] = flow.explanation("effectively_once").paths[0].suggestions
    assert suggestion.steps == ("in", "map-1", "filter-2", "map-3", "once") and suggestion.guarantee == "exactly_once"


@pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
def test_what_a_stronger_guarantee_needs(guarantee):
    """A weak guarantee where a strong one was to be had, or one whose price nobody names."""
    assert kinds(ends(True, "transactional")[0], guarantee) == [
        ("stronger", "all steps of this path could keep exactly_once")
    ]
    [(kind, text)] = kinds(ends(True, "plain")[0], guarantee)
    assert kind == "stronger" and "lacks this: out is a PlainTestingSink, which is neither" in text


def test_repeats_that_may_differ():
    """Readers that take two versions of a record for two records."""
    assert [kind for kind, _ in kinds(mapped("plain"), "at_least_once")] == ["caution", "stronger"]
    assert [kind for kind, _ in kinds(mapped("plain", deterministic=True), "at_least_once")] == ["stronger"]


def test_the_measured_figure_is_the_measured_one():
    """A figure that was true once."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    rates = {
        name: int(re.search(rf"^\| {name} \| upserts into a file \| (\d+) k/s", page, re.M)[1])
        for name in ("effectively_once", "exactly_once")
    }
    assert rates["effectively_once"] / rates["exactly_once"] == pytest.approx(SAVED, rel=0.25)


def totals():
    """A flow with a side output, keys and state."""
    flow = Dataflow("totals")
    source = TestingSource([{"k": "a", "v": 1}])
    rows = flow.source("in", source).map(lambda row: row, dead_letters="checked")
    rows.key_by("k").aggregate("totals", n=count()).sink("out", TransactionalTestingSink())
    flow.dead_letters("checked").sink("bad", PlainTestingSink())
    return flow


def test_as_data():
    """A schema that programs read and that changes under them."""
    flow = totals()
    told = json.loads(flow.explain(format="json"))
    assert told == json.loads(json.dumps(flow.explanation().as_dict()))
    assert list(told) == ["version", "dataflow", "guarantee", "kept", "steps", "edges", "paths"]
    assert (told["version"], told["dataflow"], told["guarantee"], told["kept"]) == (1, "totals", "exactly_once", False)
    assert told["steps"][2] == {
        "step_id": "totals",
        "role": "operator",
        "kind": "aggregate",
        "stateful": True,
        "calls_functions": False,
    }
    assert told["edges"] == [
        {"origin": "in", "side": None, "target": "checked", "keyed_by": None},
        {"origin": "checked", "side": None, "target": "totals", "keyed_by": "'k'"},
        {"origin": "totals", "side": None, "target": "out", "keyed_by": None},
        {"origin": "checked", "side": "dead_letters", "target": "bad", "keyed_by": None},
    ]
    good, bad = told["paths"]
    assert good["steps"] == ["in", "checked", "totals", "out"] and good["kept"] and good["others"] == 0
    assert good["requirements"][1] == {
        "role": "state",
        "steps": ["totals"],
        "holds": True,
        "text": "positions and the state of totals belong to one checkpoint",
    }
    assert bad["steps"] == ["in", "checked", "(dead_letters)", "bad"] and not bad["kept"]
    assert [set(each) for each in bad["suggestions"]] == [{"kind", "text", "guarantee", "steps"}]


def test_as_a_flowchart():
    """A picture that leaves out an edge, or whose text is taken for markup."""
    assert totals().explain(format="mermaid").splitlines() == [
        "flowchart LR",
        '  s0(["in<br/>TestingSource"])',
        '  s1["checked<br/>map"]',
        '  s2[["totals<br/>aggregate"]]',
        '  s3[("out<br/>TransactionalTestingSink<br/>exactly_once")]',
        '  s4[("bad<br/>PlainTestingSink<br/>NOT exactly_once")]',
        "  s0 --> s1",
        "  s1 -->|\"by 'k'\"| s2",
        "  s2 --> s3",
        '  s1 -->|"dead_letters"| s4',
        "  classDef lacking stroke:#c00,stroke-width:3px",
        "  class s4 lacking",
    ]
    flow = Dataflow("quotes")
    flow.source("in", TestingSource([1])).key_by('a"]<b>').aggregate("n", n=count()).sink("o", PlainTestingSink())
    assert "by 'a#34;#93;#60;b#62;'" in flow.explain("at_least_once", format="mermaid")
    assert "lacking" not in flow.explain("at_least_once", format="mermaid")


def test_as_a_picture():
    """A document that no program can show, or that leaves out a step."""
    apt_install("graphviz", "a picture of a dataflow")
    flow = totals()
    drawn = ET.fromstring(flow.explain(format="svg"))
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"in", "checked", "totals", "out", "bad", "NOT exactly_once", "by 'k'", "dead_letters"} <= texts
    quoted = Dataflow("quotes")
    quoted.source("in", TestingSource([1])).key_by('a"\\b').aggregate("n", n=count()).sink("o", PlainTestingSink())
    ET.fromstring(quoted.explain(format="svg"))


def test_a_picture_without_graphviz(monkeypatch, tmp_path):
    """A message that does not say what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"apt-get install graphviz.*or take the format mermaid"):
        totals().explain(format="svg")
    (tmp_path / "dot").write_text("#!/bin/sh\necho out of ink >&2\nexit 3\n")
    (tmp_path / "dot").chmod(0o755)
    with pytest.raises(Exception, match="exit code 3: out of ink"):
        totals().explain(format="svg")


def test_a_format_that_is_not_there():
    """A word that chooses nothing."""
    with pytest.raises(ConfigurationError, match="format is 'png'"):
        totals().explain(format="png")


def test_no_path_is_called_kept_by_a_dataflow_that_is_not_whole():
    """An explanation of a dataflow that cannot run."""
    with pytest.raises(ConfigurationError, match="at least one source"):
        Dataflow("empty").explanation()
