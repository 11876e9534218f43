"""Which dataflows several runs may divide among them, and what each of them is told."""

from __future__ import annotations

import json
import re
import sys
from datetime import timedelta

import pytest
from typer.testing import CliRunner

import onceflow as of
from onceflow import Log, Producer
from onceflow.cli.app import app
from onceflow.connectors.files import CsvSource
from onceflow.connectors.log import LogSource
from onceflow.exceptions import ConfigurationError, SourceError
from onceflow.graph.division import divided
from onceflow.instances import Instance, job_and_instance
from onceflow.testing import TestingSource, TransactionalTestingSink


def source(**arguments):
    return LogSource("log", "clicks", decode="json", partitioned_by="user", **arguments)


def flow_of(build, **arguments):
    flow = of.Dataflow("clicks")
    build(flow.source("in", source(**arguments))).sink("out", TransactionalTestingSink())
    return flow


KEPT = {
    "no key": lambda s: s.map(str),
    "filter": lambda s: s.filter(bool).key_by("user").aggregate("n", n=of.count()),
    "more than the field": lambda s: s.key_by("day", "user").aggregate("n", n=of.count()),
    "a map behind": lambda s: s.key_by("user").aggregate("n", n=of.count()).map(str),
    "duplicates": lambda s: (
        s.drop_duplicates("once", ["user"], horizon=timedelta(1)).key_by("user").aggregate("n", n=of.count())
    ),
    "totals of totals": lambda s: (
        s.key_by("user", "day").aggregate("a", n=of.count()).key_by("user").aggregate("b", n=of.sum("n"))
    ),
}
REFUSED = {
    "another field": (lambda s: s.key_by("day").aggregate("n", n=of.count()), "by 'day'.*is partitioned by 'user'"),
    "a function": (lambda s: s.key_by(lambda r: r["user"]).aggregate("n", n=of.count()), "is keyed by a function"),
    "a map before": (lambda s: s.map(dict).key_by("user").aggregate("n", n=of.count()), "comes after map .*Put key_by"),
    "a batch function": (lambda s: s.map_batch(list).key_by("user").aggregate("n", n=of.count()), "after map_batch"),
    "totals by less": (
        lambda s: s.key_by("user").aggregate("a", n=of.count()).key_by("n").aggregate("b", k=of.count()),
        "step 'b' is keyed by no field of it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_may_be_divided(name):
    """Kind: a refusal of what is right sends users away."""
    graph = divided(flow_of(KEPT[name]).graph, Instance(2, 8))
    assert graph.name == "clicks@2of8"
    assert graph.sources()[0].source.job_instance == Instance(2, 8)


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_be_divided(name):
    """Kind: a run has a part of a key's records, and its totals are wrong without a word."""
    build, why = REFUSED[name]
    with pytest.raises(ConfigurationError, match=rf"(?s){why}.*repartition through a topic"):
        divided(flow_of(build).graph, Instance(0, 2))
    # All of the job is.
    assert divided(flow_of(build).graph, None).name == "clicks"


def test_dead_letters_lie_by_no_key():
    """Kind: a side output that does not come by the topic's partitions."""
    flow = flow_of(lambda s: s.map(str), on_malformed="dead_letter")
    flow.dead_letters("in").key_by("partition").aggregate("n", n=of.count()).sink("bad", TransactionalTestingSink())
    with pytest.raises(ConfigurationError, match="takes dead letters of 'in'"):
        divided(flow.graph, Instance(0, 2))


def test_a_source_that_cannot_be_divided_is_refused():
    """Kind: each run reads all of a file, and everything comes as often as there are runs."""
    flow = of.Dataflow("files")
    flow.source("in", CsvSource("x.csv")).sink("out", TransactionalTestingSink())
    with pytest.raises(ConfigurationError, match="a CsvSource cannot be divided among several runs"):
        divided(flow.graph, Instance(0, 2))
    with pytest.raises(ConfigurationError, match="TestingSource cannot be divided"):
        TestingSource([]).shared(Instance(0, 2), [])


def test_sources_say_it_too_and_all_the_same():
    """Kind: two shares in one run, of which one is wrong."""
    assert divided(flow_of(KEPT["no key"], share=(1, 3)).graph, None).name == "clicks@1of3"
    with pytest.raises(ConfigurationError, match=r"source 'in' has share=\(1, 3\), and this run is instance 0/3"):
        divided(flow_of(KEPT["no key"], share=(1, 3)).graph, Instance(0, 3))


def test_sources_that_meet_by_key_are_partitioned_alike(tmp_path):
    """Kind: a key's records of one topic come to one run, and those of the other topic to another one."""
    with Log.open(tmp_path / "log") as log:
        log.create_topic("a", partitions=4)
        log.create_topic("b", partitions=6)

    def both():
        flow = of.Dataflow("two")
        a, b = (flow.source(n, LogSource(tmp_path / "log", n, decode="json", partitioned_by="user")) for n in "ab")
        a.union(b).key_by("user").aggregate("n", n=of.count()).sink("out", TransactionalTestingSink())
        return flow

    with pytest.raises(SourceError, match="'a' has 4, 'b' has 6 partitions"):
        of.run(both(), state=tmp_path / "state", instance=(0, 2))
    # All of the job has all partitions of both.
    of.run(both(), state=tmp_path / "whole")


def test_sources_that_meet_by_key_are_partitioned_by_one_field():
    """Kind: a key of two fields comes to one run by the first of them, and to another one by the second."""
    flow = of.Dataflow("two")
    a, b = (flow.source(n, LogSource("log", n, decode="json", partitioned_by=n)) for n in ("user", "page"))
    a.union(b).key_by("user", "page").aggregate("n", n=of.count()).sink("out", TransactionalTestingSink())
    with pytest.raises(ConfigurationError, match=r"by different fields \('page', 'user'\)"):
        divided(flow.graph, Instance(0, 2))
    assert divided(flow.graph, None).name == "two"


@pytest.mark.parametrize(
    ("given", "why"),
    [((8, 8), "indexes begin with 0, so those of 8 are 0 to 7"), ((-1, 2), "0 to 1"), ((0, 0), "a count from 1"),
     ((True, 2), "give"), ("1/2", "give"), ((0, 20_000), "10,000")],
)  # fmt: skip
def test_numbers_out_of_range(tmp_path, given, why):
    """Kind: the last of eight is 7/8, and somebody counts from 1: one share is read by nobody."""
    with pytest.raises(ConfigurationError, match=why):
        of.run(flow_of(KEPT["no key"]), state=tmp_path / "state", instance=given)
    with pytest.raises(ConfigurationError, match=why):
        source(share=given)
    assert not (tmp_path / "state").exists()


def test_names_of_instances():
    """Kind: names of two jobs that meet. No name of a dataflow has an @."""
    assert job_and_instance(Instance(2, 8).job("a@1of2")) == ("a@1of2", Instance(2, 8))
    assert job_and_instance("a.2of8") == ("a.2of8", None)
    with pytest.raises(ConfigurationError):
        of.Dataflow("a@2of8")


def test_a_look_finds_what_a_start_would_refuse(tmp_path, monkeypatch):
    """Kind: a look at the real systems that says all is well, and a start that is refused: a topic that has grown, a
    topic that is partitioned in another way, a dataflow that has changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dividing.py").write_text(PROGRAM)
    with Log.open(tmp_path / "log") as log, Producer(log) as producer:
        log.create_topic("clicks", partitions=2)
        for user in "abcdef":
            producer.produce("clicks", json.dumps({"user": user}), key=user)
    looked = ("explain", "dividing.py:flow", "--check", "--state", "s0", "--instance", "0/2")
    told = call(*looked)
    assert told.exit_code == 0 and "state directory s0: is made by the first run" in told.output, told.output
    assert re.search(r"topic 'clicks': \d records that were read lie where log puts them", told.output)
    assert not (tmp_path / "s0").exists()
    assert call("run", "dividing.py:flow", "--state", "s0", "--instance", "0/2", "--until", "caught_up").exit_code == 0
    told = call(*looked)
    assert told.exit_code == 0, told.output
    assert "state directory s0: a run goes on from checkpoint" in told.output
    assert "positions of 'in': a run can go on from all 1" in told.output
    (tmp_path / "dividing.py").write_text(PROGRAM.replace('aggregate("n"', 'aggregate("other"'))
    told = call(*looked)
    assert told.exit_code == 1 and "the dataflow is not the one that the checkpoint has state of" in told.output
    (tmp_path / "dividing.py").write_text(PROGRAM)
    told = call(*looked[:-1], "1/2")
    assert told.exit_code == 1 and "ERROR    state directory s0: " in told.output, told.output
    with Log.open(tmp_path / "log") as log:
        log.alter_topic("clicks", partitions=4)
    told = call(*looked)
    assert told.exit_code == 1 and "topic 'clicks' has 4 partitions, and had 2 before" in told.output, told.output
    assert call("run", "dividing.py:flow", "--state", "s0", "--instance", "0/2").exit_code == 1
    with Log.open(tmp_path / "log") as log, Producer(log) as producer:
        log.delete_topic("clicks")
        log.create_topic("clicks", partitions=2)
        for user in "abcdef":
            producer.produce("clicks", json.dumps({"user": user}), partition=0)
    told = call("explain", "dividing.py:flow", "--check", "--instance", "0/2")
    assert told.exit_code == 1 and "ERROR    partition 0 of topic 'clicks': partition 0 of" in told.output, told.output


PROGRAM = """
import onceflow as of
from onceflow.connectors.log import LogSource, LogSink

flow = of.Dataflow("clicks")
clicks = flow.source("in", LogSource("log", "clicks", decode="json", partitioned_by="user"))
clicks.key_by("user").aggregate("n", n=of.count()).sink("out", LogSink("log", "totals", key="user", partitions=2))
"""


def call(*arguments):
    # As in a process of its own.
    sys.modules.pop("dividing", None)
    return CliRunner().invoke(app, list(arguments))


def test_on_the_command_line(tmp_path, monkeypatch):
    """Kind: a setting that the command line does not have, or that its look at the systems does not know."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dividing.py").write_text(PROGRAM)
    with Log.open(tmp_path / "log") as log:
        log.create_topic("clicks", partitions=5)
    told = call("explain", "dividing.py:flow", "--instance", "1/2", "--check")
    assert told.exit_code == 0, told.output
    assert "dataflow 'clicks@1of2'" in told.output
    assert "instance 1/2 reads partitions 1, 3, 5 and so on" in told.output
    assert "instance 1/2: reads 2 of 5 partitions of topic 'clicks': 1, 3; that log puts each" in told.output
    told = call("explain", "dividing.py:flow", "--instance", "7/8", "--check")
    assert "instance 7/8: reads none of the 5 partitions of topic 'clicks'" in told.output
    refused = call("run", "dividing.py:flow", "--state", "state", "--instance", "2/2")
    assert refused.exit_code != 0
    for index in range(2):
        ran = call("run", "dividing.py:flow", "--state", f"s{index}", "--instance", f"{index}/2")
        assert ran.exit_code == 0, ran.output
        found = call("doctor", "dividing.py:flow", "--state", f"s{index}")
        assert found.exit_code == 0, found.output
        assert f"clicks@{index}of2" in found.output
