"""A target that a run has claimed, and never written to: what another state is told helps when it is followed.

The first run fails before it writes anything, or ends with nothing to write; then somebody begins anew.
"""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, NewTopic

import onceflow as of
from onceflow import Log
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.kafka import KafkaSink, KafkaSource
from onceflow.connectors.log import LogSink, LogSource
from onceflow.connectors.postgres import PostgresSink
from onceflow.connectors.sql import SqlSink
from onceflow.exceptions import SinkError, UserFunctionError
from onceflow.testing import PlainTestingSink, TestingSource

TABLE = "create table {} (n int)"


class Target:
    """A real one, in a place of its own."""

    #: Of the dataflow.
    job = "job"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.make("taken")

    def make(self, name: str) -> None:
        """A second one."""

    def sink(self, name: str = "taken"):
        raise NotImplementedError

    def numbers(self, name: str = "taken"):
        raise NotImplementedError

    def follow(self, message: str) -> None:
        """Does what the message says about the markers."""
        raise NotImplementedError


class Files(Target):
    def sink(self, name="taken"):
        return JsonLinesSink(self.root / name)

    def numbers(self, name="taken"):
        return list(map(int, re.findall(rb"\d+", read_parts(self.root / name))))

    def follow(self, message):
        shutil.rmtree(re.search(r"delete (\S+)$", message)[1])


class InLog(Target):
    def sink(self, name="taken"):
        return LogSink(self.root / "log", name, partitions=1)

    def numbers(self, name="taken"):
        return read(LogSource(self.root / "log", name, decode="json"), self.root)

    def follow(self, message):
        eval(re.search(r"\((Log\.open\(.*\)\.delete_group\(.*\))\)", message)[1], {"Log": Log})


class InPostgres(Target):
    def __init__(self, root, dsn):
        self.dsn = dsn
        super().__init__(root)

    def execute(self, statement):
        with psycopg.connect(self.dsn, autocommit=True) as session:
            found = session.execute(statement)
            return found.fetchall() if found.description else []

    def make(self, name):
        self.execute(TABLE.format(name))

    def sink(self, name="taken"):
        return PostgresSink(self.dsn, name)

    def numbers(self, name="taken"):
        return [n for (n,) in self.execute(f"select n from {name}")]

    def follow(self, message):
        self.execute(re.search(r"delete the markers of 'job/out' .*?\(((?i:delete) .*?'job/out')\)", message)[1])


class InSql(Target):
    def __init__(self, root, url):
        self.url = url
        super().__init__(root)

    def execute(self, statement):
        engine = sa.create_engine(self.url)
        with engine.begin() as session:
            found = session.exec_driver_sql(statement)
            rows = found.fetchall() if found.returns_rows else []
        engine.dispose()
        return rows

    def make(self, name):
        self.execute(TABLE.format(name))

    def sink(self, name="taken"):
        return SqlSink(self.url, name)

    def numbers(self, name="taken"):
        return [n for (n,) in self.execute(f"select n from {name}")]

    def follow(self, message):
        self.execute(re.search(r"delete the markers of 'job/out' .*?\(((?i:delete) .*?'job/out')\)", message)[1])


class InKafka(Target):
    def __init__(self, root, broker):
        self.bootstrap, self.prefix = broker.bootstrap, f"claimed-{secrets.token_hex(4)}-"
        # Markers of all tests lie in one cluster.
        self.job = f"job-{secrets.token_hex(4)}"
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap})
        super().__init__(root)

    def make(self, name):
        self.admin.create_topics([NewTopic(self.prefix + name, 1, 1)])[self.prefix + name].result()

    def sink(self, name="taken"):
        return KafkaSink(self.bootstrap, self.prefix + name)

    def numbers(self, name="taken"):
        return read(KafkaSource(self.bootstrap, self.prefix + name, decode="json"), self.root)

    def follow(self, message):
        topic = re.search(r"delete the topic '(.*?)'", message)[1]
        self.admin.delete_topics([topic])[topic].result()


def read(source, root):
    flow = of.Dataflow("reading")
    sink = PlainTestingSink()
    flow.source("in", source).map(lambda record: record["n"]).sink("out", sink)
    of.run(flow, state=root / secrets.token_hex(4), guarantee="at_least_once")
    return sink.records


KINDS = ("files", "log", "kafka", "postgres", "sqlite", "duckdb", "sql on postgres", "mariadb")


@pytest.fixture(params=KINDS)
def target(request, tmp_path) -> Target:
    match request.param:
        case "files":
            return Files(tmp_path)
        case "log":
            return InLog(tmp_path)
        case "kafka":
            return InKafka(tmp_path, request.getfixturevalue("kafka"))
        case "postgres":
            return InPostgres(tmp_path, request.getfixturevalue("postgres_dsn"))
        case "sql on postgres":
            dsn = request.getfixturevalue("postgres_dsn")
            return InSql(tmp_path, dsn.replace("postgresql://", "postgresql+psycopg://"))
        case "mariadb":
            return InSql(tmp_path, request.getfixturevalue("mariadb_url"))
        case kind:
            return InSql(tmp_path, f"{kind}:///{tmp_path / 'out.db'}")


def job(target, state, *, name=None, sink="out", table="taken", records=(1, 2, 3), fails=False):
    def work(record):
        return {"n": record["n"] // (not fails)}

    flow = of.Dataflow(name or target.job)
    flow.source("in", TestingSource([{"n": n} for n in records])).map(work).sink(sink, target.sink(table))
    of.run(flow, state=target.root / state, guarantee="exactly_once")


def claim(target, how):
    if how == "fails":
        with pytest.raises(UserFunctionError):
            job(target, "first", fails=True)
    else:
        job(target, "first", records=())


def refused(target, **arguments):
    with pytest.raises(SinkError) as error:
        job(target, "second", **arguments)
    return str(error.value)


@pytest.mark.parametrize("how", ["fails", "has nothing to write"])
def test_the_markers_of_a_claim_can_be_deleted(target, how):
    """Kind: a target that nobody has written to, and nobody can take; or two runs that both write there then."""
    claim(target, how)
    message = refused(target)
    assert re.search("is taken by job 'job.*with another state directory.*[Nn]othing", message), message
    target.follow(message)
    job(target, "second")
    assert sorted(target.numbers()) == [1, 2, 3]
    # Who comes back all the same changes nothing.
    with pytest.raises(SinkError, match="another state directory"):
        job(target, "first", records=(4,))
    job(target, "second")
    assert sorted(target.numbers()) == [1, 2, 3]


def test_a_claim_is_used_by_who_made_it(target):
    """Kind: a first run that failed is refused itself the next time."""
    claim(target, "fails")
    refused(target)
    job(target, "first")
    assert sorted(target.numbers()) == [1, 2, 3]
    assert f"holds the output of job '{target.job}'" in refused(target)


def test_another_target_under_the_same_names(target):
    """Kind: a new and empty target "holds output", and the advice is to do what was done; or to delete the markers of
    who writes to the other one."""
    claim(target, "fails")
    target.make("other")
    if isinstance(target, Files):
        # Markers lie in the directory, whatever the names are.
        job(target, "second", table="other")
        assert sorted(target.numbers("other")) == [1, 2, 3]
        return
    message = refused(target, table="other")
    if isinstance(target, InSql):
        # Which table it is about the markers do not say.
        assert re.search("a target of its own, under another name of the job or the sink", message), message
    else:
        assert re.search(
            "the names of job 'job.*' and sink 'out', by which markers go, are taken: .* has begun to write "
            "to (topic|table) \\S*taken.* Give the job or the sink another name",
            message,
        ), message
    job(target, "renamed", sink="out2", table="other")
    assert sorted(target.numbers("other")) == [1, 2, 3]
    target.make("third")
    job(target, "third", name=f"{target.job}-3", table="third")
    job(target, "first")
    assert sorted(target.numbers()) == sorted(target.numbers("third")) == [1, 2, 3]
    assert re.search("writes to (topic|table) |holds the output", refused(target, table="other"))
