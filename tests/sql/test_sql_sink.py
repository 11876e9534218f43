"""Tables of real databases as a sink: what is written, what is kept as it is, what is refused before it is decided."""

from __future__ import annotations

import math
import re
import sqlite3
import threading
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
import sqlalchemy as sa
from databases import database
from waits import check_silence_is_told

import onceflow as of
from onceflow.checks import CheckContext, collected
from onceflow.connectors import waiting
from onceflow.connectors.sql import SqlSink
from onceflow.exceptions import ConfigurationError, SinkError, SinkWaitingWarning
from onceflow.sinks import Committable, SinkContext
from onceflow.testing import EOF, TestingSource, TransactionalSinkContract

NOW = datetime(2024, 5, 6, 7, 8, 9, 123456)


def context(epoch=1, restored=None, *, job="job"):
    return SinkContext(job, "out", epoch, 1, restored, restored, "5" * 32)


def opened(db, *, begun=True, **settings):
    writer = SqlSink(db.url, "t", **settings).open(context())
    if begun:
        writer.recover([])
    return writer


def committed(writer, checkpoint_id, rows):
    writer.write(rows)
    committable = Committable(checkpoint_id, writer.prepare(checkpoint_id, writer.seal(checkpoint_id)))
    writer.commit(committable)
    return committable


class Contract:
    """The contract of transactional sinks, in a database."""

    @pytest.fixture(autouse=True)
    def _db(self, kind, tmp_path, request):
        self.engines = []
        with database(kind, tmp_path, request) as self.db:
            self.db.run(f"create table t (number int, id bigint, text {self.db.text})")
            yield
            # Some checks leave a writer as a process does that is paused.
            for engine in self.engines:
                engine.dispose()

    def make_engine(self):
        self.engines.append(sa.create_engine(self.db.url))
        return self.engines[-1]


def _contract(name, check):
    def checked(self, kind, tmp_path):
        outer = self

        class OfThisDatabase(TransactionalSinkContract):
            def make_sink(self, directory):
                return SqlSink(outer.make_engine, "t", columns=["id", "text"])

            def visible(self, directory):
                return [{"id": row[1], "text": row[2]} for row in outer.db.rows("select * from t")]

        getattr(OfThisDatabase(), name)(tmp_path)

    checked.__doc__ = check.__doc__
    return checked


@pytest.mark.parametrize("kind", ["sqlite", "duckdb", "postgresql", "mariadb"])
class TestContract(Contract):
    """For each kind."""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
class TestWorkersContract(Contract):
    """What it promises to several workers; with many connections, so not for all of them."""


for _name in dir(TransactionalSinkContract):
    if _name.startswith("test_"):
        _class = TestContract if _name in vars(TransactionalSinkContract) else TestWorkersContract
        setattr(_class, _name, _contract(_name, getattr(TransactionalSinkContract, _name)))


#: Type → values that come back as they went in, and such that would not.
EXACT: dict[str, dict[str, tuple[list, list]]] = {
    "sqlite": {
        "integer": ([0, -(1 << 63), (1 << 63) - 1], [1 << 63, 1.0, "1", True, Decimal(1)]),
        "text": (["", "ä€😀", "a\0b", "1", " a "], [1, b"a", NOW]),
        "varchar(2)": (["abc"], [1]),
        "real": ([0.1, -0.0, math.inf, 1e300, 5], [math.nan, (1 << 53) + 1, "1.5", Decimal("1.5")]),
        "blob": ([b"", b"\0\xff"], ["a"]),
        "boolean": ([True, False], [1, 0]),
        "date": ([date(1, 1, 1), date(9999, 12, 31)], [NOW, "2024-01-01"]),
        "datetime": ([NOW, datetime(1, 1, 1)], [NOW.replace(tzinfo=UTC), date(2024, 1, 1), "2024-01-01"]),
    },
    "duckdb": {
        "integer": ([-(1 << 31), (1 << 31) - 1], [1 << 31, 1.5, "1", True]),
        "bigint": ([-(1 << 63), (1 << 63) - 1], [1 << 63]),
        "tinyint": ([-128, 127], [128]),
        "varchar": (["", "ä€😀", "1", " a "], [1, b"a"]),
        "double": ([0.1, math.inf, 1e300, 5], [(1 << 53) + 1, "1.5"]),
        "blob": ([b"", b"\0\xff"], ["a"]),
        "boolean": ([True, False], [1]),
        "decimal(6,2)": (
            [Decimal("9999.99"), Decimal("-1.5"), Decimal("1.50000"), 7],
            [Decimal("1.239"), Decimal(10000)],
        ),
        "date": ([date(1, 1, 1), date(9999, 12, 31)], [NOW]),
        "timestamp": ([NOW, datetime(1, 1, 1)], [NOW.replace(tzinfo=UTC), date(2024, 1, 1)]),
        "timestamptz": ([NOW.replace(tzinfo=timezone(timedelta(hours=5)))], [NOW]),
    },
    "postgresql": {
        "smallint": ([-(1 << 15), (1 << 15) - 1], [1 << 15, 1.0, True]),
        "integer": ([-(1 << 31), (1 << 31) - 1], [1 << 31, "1"]),
        "bigint": ([-(1 << 63), (1 << 63) - 1], [1 << 63, Decimal(1)]),
        "text": (["", "ä€😀", " a "], ["a\0b", 1, b"a"]),
        "varchar(3)": (["äöü", "a  "], ["abcd", "abc "]),
        "double precision": ([0.1, math.inf, 1e300, 5], [(1 << 53) + 1, "1.5", Decimal("1.5")]),
        "numeric(6,2)": (
            [Decimal("9999.99"), Decimal("1.50000"), 7, Decimal("0E-20")],
            [Decimal("1.239"), Decimal(10000), 1.5],
        ),
        "numeric": ([Decimal("1e-100"), Decimal(10) ** 50, 1 << 200], [Decimal("NaN"), Decimal("Infinity")]),
        "bytea": ([b"", b"\0\xff\\"], ["a", "\\x00"]),
        "boolean": ([True, False], [1, "t"]),
        "date": ([date(1, 1, 1), date(9999, 12, 31)], [NOW, "2024-01-01"]),
        "timestamp": ([NOW, datetime(1, 1, 1)], [NOW.replace(tzinfo=UTC), date(2024, 1, 1)]),
        "timestamp(3)": ([NOW.replace(microsecond=123000)], [NOW]),
        "timestamptz": ([NOW.replace(tzinfo=timezone(timedelta(hours=5)))], [NOW]),
    },
    "mariadb": {
        "tinyint": ([-128, 127], [128, -129, True]),
        "tinyint(1)": ([True, False, 5], [128]),
        "int unsigned": ([0, (1 << 32) - 1], [-1, 1 << 32]),
        "mediumint": ([-(1 << 23), (1 << 23) - 1], [1 << 23]),
        "bigint": ([-(1 << 63), (1 << 63) - 1], [1 << 63, 1.0]),
        "varchar(3)": (["äöü", "a  ", "😀", "\0'\\"], ["abcd", "abc ", 1]),
        "tinytext": (["x" * 255], ["x" * 256, "ä" * 128]),
        "text": (["", "ä€😀"], ["x" * 65536]),
        "double": ([0.1, -1e300, 5], [math.nan, math.inf, (1 << 53) + 1]),
        "decimal(6,2)": (
            [Decimal("9999.99"), Decimal("1.50000"), 7],
            [Decimal("1.239"), Decimal(10000), Decimal("NaN")],
        ),
        "decimal(6,2) unsigned": ([Decimal("1.5")], [Decimal(-1)]),
        "varbinary(3)": ([b"\0\xff'"], [b"abcd", "a"]),
        "blob": ([b"", b"\0\xff\\'"], [b"x" * 65536]),
        "date": ([date(1000, 1, 1), date(9999, 12, 31)], [date(999, 12, 31), NOW]),
        "datetime": ([NOW.replace(microsecond=0)], [NOW, NOW.replace(microsecond=0, tzinfo=UTC)]),
        "datetime(6)": ([NOW, datetime(1000, 1, 1)], [datetime(999, 12, 31)]),
    },
}
#: Types whose columns change what is written to them, or are not known.
UNKNOWN = {
    "sqlite": ["numeric", "decimal(6,2)", "time", ""],
    "duckdb": ["float", "hugeint", "timestamp_ns", "varchar[]", "time", "uuid"],
    "postgresql": ["real", "char(3)", "integer[]", "jsonb", "time", "money"],
    "mariadb": [
        "float",
        "double(6,2)",
        "char(3)",
        "binary(3)",
        "timestamp",
        "varchar(3) character set latin1",
        "time",
        "year",
    ],
}


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_what_comes_back_equals_what_went_in(db, mode):
    """Kind: a value that is rounded, cut, padded, or becomes another type, without a word."""
    kinds = EXACT[db.kind]
    names = [f"c{number}" for number in range(len(kinds))]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))
    db.run(f"create table t (id int primary key, {columns})")
    writer = opened(db, mode=mode, key="id" if mode == "upsert" else None)
    empty = dict.fromkeys(names)
    given, number = {}, 0
    for name, (values, _) in zip(names, kinds.values(), strict=True):
        for value in values:
            number += 1
            given[number] = {**empty, name: value}
    given[0] = empty
    for _ in range(2 if mode == "upsert" else 1):
        committed(writer, number + 1, [{"id": id, **row} for id, row in given.items()])
        number += 1
    writer.close()
    engine = sa.create_engine(db.url)
    table = (
        sa.Table(
            "t",
            sa.MetaData(),
            sa.Column("id", sa.Integer),
            *(
                sa.Column(name, sa.DateTime() if kind == "datetime" else sa.Date() if kind == "date" else None)
                for name, kind in zip(names, kinds, strict=True)
            ),
        )
        if db.kind == "sqlite"
        else sa.Table("t", sa.MetaData(), sa.Column("id"), *(sa.Column(name) for name in names))
    )
    with engine.connect() as session:
        found = {row.id: dict(row._mapping) for row in session.execute(sa.select(table))}
    engine.dispose()
    assert found == {id: {"id": id, **row} for id, row in given.items()}


def test_what_would_not_is_refused_before_it_is_decided(db):
    """Kind: the same, and a value that stops the job for ever, because its checkpoint is decided."""
    kinds = EXACT[db.kind]
    names = [f"c{number}" for number in range(len(kinds))]
    db.run("create table t (" + ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True)) + ")")
    writer = opened(db)
    empty = dict.fromkeys(names)
    for name, (_, values) in zip(names, kinds.values(), strict=True):
        for value in values:
            writer.write([empty, {**empty, name: value}])
            with pytest.raises(SinkError, match=f"column '{name}' .* does not take "):
                writer.prepare(1, writer.seal(1))
    writer.close()
    assert db.rows() == []


def test_a_type_that_changes_values_is_refused_at_the_start(db):
    """Kind: a column that cannot be exact, found after an hour."""
    for kind in UNKNOWN[db.kind]:
        db.run("drop table if exists t", f"create table t (id int, c {kind})")
        with pytest.raises(SinkError, match=r"column 'c' of table 't' has type .* would not keep every value"):
            opened(db)
        opened(db, columns=["id"]).close()


def test_an_upsert_keeps_the_last_row_of_a_key(db):
    """Kind: the first of two rows wins, or two of one key in a batch stop the job."""
    db.run(f"create table t (name {db.text} not null, part int not null, n int, primary key (name, part))")
    writer = opened(db, mode="upsert", key=["name", "part"])
    committed(writer, 1, [{"name": name, "part": n % 2, "n": n} for n in range(9) for name in ("a", "A", "ä")])
    committed(writer, 2, [{"name": "a", "part": 1, "n": 99}, {"name": "a", "part": 1, "n": 100}])
    writer.close()
    assert set(db.rows()) == {(name, part, 8 - part) for name in ("a", "A", "ä") for part in (0, 1)} - {("a", 1, 7)} | {
        ("a", 1, 100)
    }


def test_all_columns_may_be_the_key(db):
    """Kind: an upsert that has nothing to change is no statement."""
    db.run("create table t (a int not null, b int not null, primary key (a, b))")
    writer = opened(db, mode="upsert", key=["b", "a"])
    for checkpoint in (1, 2):
        committed(writer, checkpoint, [{"a": 1, "b": 2}, {"a": 1, "b": 3}])
    writer.close()
    assert sorted(db.rows()) == [(1, 2), (1, 3)]


@pytest.mark.parametrize(
    ("made", "settings", "told"),
    [
        ("create table other (id int)", {}, "table 't' does not exist; make it first"),
        ("create table t (id int)", {"columns": ["id", "x"]}, "has no column \\['x'\\]; it has \\['id'\\]"),
        ("create table t (id int)", {"mode": "upsert", "key": "id"}, "has no primary key and no unique constraint of"),
        (
            "create table t (id int, part int, primary key (id, part))",
            {"mode": "upsert", "key": "id"},
            "has no primary key and no unique constraint of \\['id'\\] alone",
        ),
        ("create table t (id int, n int)", {"mode": "upsert", "key": "m"}, "has no column \\['m'\\]"),
        (
            "create table t (id int, n int)",
            {"mode": "upsert", "key": "id", "columns": ["n"]},
            "is not among the columns",
        ),
        (
            "create table t (id double primary key)",
            {"mode": "upsert", "key": "id"},
            "takes different values of it for the same",
        ),
        ("create view t as select 1 as id", {}, "is a view"),
    ],
    ids=["missing", "column", "no key", "part of a key", "unknown key", "key not written", "float", "view"],
)
def test_a_table_that_is_not_as_wanted_is_refused_at_the_start(db, made, settings, told):
    """Kind: what cannot work is found at the first checkpoint, or never."""
    if db.kind == "postgresql":
        made = made.replace("double", "double precision")
    db.run(made)
    with pytest.raises(SinkError, match=told):
        opened(db, **settings)
    assert "onceflow" not in str(
        db.run(
            "select table_name from information_schema.tables"
            if db.kind != "sqlite"
            else "select name from sqlite_master"
        )
    )


SPECIAL = [
    (
        "sqlite",
        "create table t (id text collate nocase primary key)",
        {"mode": "upsert", "key": "id"},
        "tells all values apart",
    ),
    (
        "sqlite",
        "create table t (id int); create unique index i on t (id) where id > 5",
        {"mode": "upsert", "key": "id"},
        "no primary key",
    ),
    ("sqlite", "create table t (id int primary key on conflict ignore)", {}, "ON CONFLICT IGNORE: of rows"),
    (
        "sqlite",
        "create table T (id int, unique (id) On /* as */ Conflict\nReplace)",
        {},
        "ON CONFLICT REPLACE: of rows",
    ),
    (
        "sqlite",
        "create table t (id int not null on conflict ignore)",
        {"mode": "append"},
        "ON CONFLICT IGNORE: of rows",
    ),
    ("postgresql", "create unlogged table t (id int)", {}, "is unlogged or temporary"),
    ("postgresql", "create table t (id int unique deferrable)", {"mode": "upsert", "key": "id"}, "no primary key"),
    (
        "postgresql",
        "create table t (id int); create unique index i on t (id) where id > 5",
        {"mode": "upsert", "key": "id"},
        "no primary key",
    ),
    (
        "postgresql",
        "create table t (id int, twice int generated always as (id * 2) stored)",
        {"columns": ["twice"]},
        "the database computes",
    ),
    ("mariadb", "create table t (id int, `a%%b` int)", {}, "give it a name without %"),
    ("mariadb", "create table t (id int) engine=MyISAM", {}, "has engine MyISAM, which has no transactions"),
    ("mariadb", "create table t (id int) engine=Aria", {}, "has engine Aria, which has no transactions"),
    (
        "mariadb",
        "create table t (id varchar(9) primary key)",
        {"mode": "upsert", "key": "id"},
        "takes different values of it for the same",
    ),
    (
        "mariadb",
        "create table t (id int primary key, n int unique)",
        {"mode": "upsert", "key": "id"},
        "has other unique keys",
    ),
    (
        "mariadb",
        "create table t (id varchar(9) collate utf8mb4_nopad_bin, unique (id(3)))",
        {"mode": "upsert", "key": "id"},
        "no primary key",
    ),
]


@pytest.mark.parametrize(
    ("kind", "made", "settings", "told"), SPECIAL, ids=[f"{each[0]}-{number}" for number, each in enumerate(SPECIAL)]
)
def test_what_a_kind_of_database_has_of_its_own_is_refused_at_the_start(kind, made, settings, told, tmp_path, request):
    """Kind: tables that lose rows after a crash, and keys that take different values for the same."""
    with database(kind, tmp_path, request) as db:
        db.run(*made.split("; "))
        with pytest.raises(SinkError, match=told):
            opened(db, **settings)


def test_computed_columns_are_the_databases_own(db):
    """Kind: a column that nobody may write is asked of the records."""
    if db.kind == "duckdb":
        db.run("create table t (id int, n int default 5)")
        writer = opened(db, columns=["id"])
    else:
        db.run("create table t (id int, n int generated always as (id + 4) stored)")
        writer = opened(db)
    committed(writer, 1, [{"id": 1}])
    writer.close()
    assert db.rows() == [(1, 5)]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"id": 1}, r"it lacks \['n'\]"),
        ({"id": 1, "n": 2, "m": 3}, r"it has \['m'\] besides"),
        ({"id": 1, "m": 3}, r"it lacks \['n'\] and it has \['m'\]"),
        ({"id": None, "n": 1}, "does not take None: it takes whole numbers from"),
        ([1, 2], r"a record is \[1, 2\]: map it to a dict"),
    ],
)
def test_records_that_are_not_rows_are_refused_before_they_are_decided(db, record, told):
    """Kind: a field that is lost, or a missing one that becomes NULL."""
    db.run("create table t (id int not null, n int)")
    writer = opened(db)
    writer.write([{"id": 0, "n": None}, record])
    with pytest.raises(SinkError, match=told):
        writer.prepare(1, writer.seal(1))
    writer.close()


RULES = {
    "unique": "create table t (id int primary key, n int)",
    "check": "create table t (id int, n int check (n < 100))",
    "other key": "create table t (id int primary key, n int unique)",
}


@pytest.mark.parametrize("rule", RULES)
def test_what_the_table_refuses_is_refused_before_it_is_decided(db, rule, tmp_path):
    """Kind: a row that violates a constraint stops the job for ever, because its checkpoint is decided."""
    db.run(RULES[rule])
    given = {"unique": {"id": 1, "n": 3}, "check": {"id": 9, "n": 100}, "other key": {"id": 9, "n": 1}}[rule]
    settings = {"mode": "upsert", "key": "id"} if rule == "other key" and db.kind != "mariadb" else {}
    records = [{"id": 1, "n": 1}, EOF, {"id": 2, "n": 2}, given]

    def job(*rows):
        flow = of.Dataflow("job")
        source = TestingSource([*records[:3], *rows], batch_size=5)
        flow.source("in", source).sink("out", SqlSink(db.url, "t", **settings))
        return flow

    assert not of.run(job(given), tmp_path / "state").finished
    for _ in range(2):
        with pytest.raises(SinkError, match="Nothing of this checkpoint was written: change the table"):
            while True:
                of.run(job(given), tmp_path / "state")
    assert db.rows() == [(1, 1)]
    while not of.run(job({"id": 3, "n": 3}), tmp_path / "state").finished:
        pass
    assert db.rows() == [(1, 1), (2, 2), (3, 3)]


NARROWER = {
    "sqlite": ("drop table t", "create table t (id int, n text)"),
    "duckdb": ("alter table t alter n type smallint",),
    "postgresql": ("alter table t alter n type numeric(3,1)",),
    "mariadb": ("alter table t modify n decimal(3,1)",),
}


@pytest.mark.parametrize("when", ["decided", "before"])
def test_a_table_that_is_altered_meanwhile_is_noticed(db, when):
    """Kind: values that were checked against one type are written into another one, which rounds them."""
    kind = {"sqlite": "int", "duckdb": "int"}.get(db.kind, "decimal(10,4)")
    value = 1 << 20 if kind == "int" else Decimal("1.2345")
    db.run(f"create table t (id int, n {kind})")
    writer = opened(db)
    writer.write([{"id": 1, "n": value}])
    if when == "decided":
        decided = Committable(1, writer.prepare(1, writer.seal(1)))
        db.run(*NARROWER[db.kind])
        with pytest.raises(SinkError, match=r"column 'n' of table 't', of type .* does not take"):
            writer.commit(decided)
    else:
        sealed = writer.seal(1)
        db.run(*NARROWER[db.kind])
        with pytest.raises(SinkError, match=r"column 'n' of table 't', of type .* does not take"):
            writer.prepare(1, sealed)
    writer.close()
    assert db.rows() == []


def test_names_are_quoted(db):
    """Kind: a name from a user's settings that is SQL."""
    odd = 'my "table"; drop table x --' if db.kind != "mariadb" else "my `table`; drop table x --"
    column = "order by"
    quote = "`" if db.kind == "mariadb" else '"'
    quoted = quote + odd.replace(quote, quote * 2) + quote
    db.run("create table x (id int)", f"create table {quoted} (id int primary key, {quote}{column}{quote} int)")
    writer = SqlSink(db.url, odd, mode="upsert", key="id").open(context())
    writer.recover([])
    committed(writer, 1, [{"id": 1, column: 5}, {"id": 1, column: 6}])
    writer.close()
    assert db.rows(f"select * from {quoted}") == [(1, 6)]
    assert db.rows("select * from x") == []


def test_two_sinks_and_two_jobs_share_a_database(db):
    """Kind: markers of one sink are taken for those of another: names that differ in case, or by a space at the end."""
    db.run("create table t (id int)")
    writers = [SqlSink(db.url, "t").open(context(job=job)) for job in ("job", "Job", "jöb")]
    for writer in writers:
        writer.recover([])
        committed(writer, 1, [{"id": 1}])
        writer.close()
    assert db.rows() == [(1,)] * 3
    assert db.rows("select count(*) from onceflow_sql_markers") == [(6,)]


def test_a_checkpoint_is_applied_once(db):
    """Kind: a commit that is repeated, as after a crash, writes its rows again."""
    db.run("create table t (id int)")
    writer = opened(db)
    decided = committed(writer, 1, [{"id": 1}])
    writer.commit(decided)
    writer.close()
    again = SqlSink(db.url, "t").open(context(2, 1))
    again.recover([decided])
    again.close()
    assert db.rows() == [(1,)]


def test_nothing_is_made_before_the_run_may_write(db):
    """Kind: a start that is refused has touched the database."""
    db.run("create table t (id int)")
    opened(db, begun=False).close()
    (finding,) = SqlSink(db.url, "t").check(CheckContext("job", "out"))
    assert (finding.level, finding.text) == ("ok", "can be reached; it holds no output of this sink")
    (finding,) = collected(SqlSink(db.url, "missing").check(CheckContext("job", "out")), "SqlSink")
    assert (finding.level, "table 'missing' does not exist" in finding.text) == ("error", True)
    tables = (
        "select name from sqlite_master" if db.kind == "sqlite" else "select table_name from information_schema.tables"
    )
    assert "onceflow_sql_markers" not in str(db.run(tables))


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_file_that_is_missing_is_not_made(kind, tmp_path):
    """Kind: a wrong path gives a new, empty database."""
    path = tmp_path / "missing.db"
    with pytest.raises(SinkError, match=r"does not exist: there is no file .*missing\.db"):
        SqlSink(f"{kind}:///{path}", "t").open(context())
    assert not path.exists()
    with pytest.raises(SinkError, match="lies in memory"):
        SqlSink(f"{kind}:///:memory:", "t").open(context())


PASSWORD = "s3cret-w0rd"


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_passwords_are_nowhere(kind, tmp_path, request):
    """Kind: a password in an error, in a repr, in a checkpoint."""
    with database(kind, tmp_path, request) as db:
        wrong = sa.make_url(db.url).set(username="nobody", password=PASSWORD)
        away = wrong.set(port=1)
        for url in (wrong, away):
            sink = SqlSink(url.render_as_string(hide_password=False), "t")
            with pytest.raises(SinkError) as caught:
                sink.open(context())
            chain, texts = caught.value, [repr(sink), str(vars(sink))]
            while chain is not None:
                texts.append(f"{chain!r} {chain}")
                chain = chain.__cause__ or chain.__context__
            assert PASSWORD not in " ".join(texts)
    with pytest.raises(ConfigurationError) as caught:
        SqlSink(f"no url {PASSWORD}", "t")
    assert PASSWORD not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__


def test_wrong_settings_are_refused_by_name():
    """Kind: what is wrong is found when the job has run for an hour, or never."""
    right = {"database": "sqlite:///t.db", "table": "t"}
    wrong = [
        {"table": ""},
        {"schema": 5},
        {"mode": "delete"},
        {"mode": "upsert"},
        {"key": "id"},
        {"mode": "upsert", "key": []},
        {"columns": "id"},
        {"columns": ["id", "id"]},
        {"retry_for": 5},
        {"database": 5},
        {"database": "no url"},
        {"database": "oracle+nothing://x"},
        {"max_staged_bytes": 0},
    ]
    for settings in wrong:
        with pytest.raises(ConfigurationError, match=list(settings)[-1] if "mode" not in settings else "mode|key"):
            SqlSink(**{**right, **settings})
    with pytest.raises(ConfigurationError, match="mssql is not one of sqlite, postgresql"):
        other = sa.create_engine("sqlite://")
        other.dialect.name = "mssql"
        SqlSink(lambda: other, "t").open(context())
    with pytest.raises(ConfigurationError, match="has given a int, no Engine"):
        SqlSink(lambda: 5, "t").open(context())


def test_words_about_conflicts_that_are_none_of_the_table(tmp_path, request):
    """Kind: a table that is refused for a comment, or for a clause that drops nothing."""
    with database("sqlite", tmp_path, request) as db:
        db.run(
            "create table t (id int unique on conflict abort, text text default 'on conflict ignore', "
            "[on conflict replace] int -- on conflict ignore\n)"
        )
        writer = opened(db, columns=["id"])
        committed(writer, 1, [{"id": 1}])
        writer.close()
        assert db.rows("select id from t") == [(1,)]


def test_a_table_that_gets_a_clause_which_drops_rows_while_the_job_runs(tmp_path, request):
    """Kind: what was looked at in the beginning only."""
    with database("sqlite", tmp_path, request) as db:
        db.run("create table t (id int)")
        writer = opened(db)
        db.run("drop table t", "create table t (id int unique on conflict ignore)")
        writer.write([{"id": 1}, {"id": 1}])
        with pytest.raises(SinkError, match="ON CONFLICT IGNORE"):
            writer.prepare(1, writer.seal(1))
        writer.close()


def test_a_database_that_others_hold_is_told(monkeypatch, tmp_path, request):
    """Kind: a job that stands still without a word."""
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.1)
    with database("sqlite", tmp_path, request) as db:
        db.run("create table t (number int)")
        writer = SqlSink(f"{db.url}?timeout=0.1", "t").open(context())
        writer.recover([])
        writer.write([{"number": 1}])
        output = Committable(1, writer.prepare(1, writer.seal(1)))
        holder = sqlite3.connect(sa.make_url(db.url).database, check_same_thread=False)
        holder.execute("begin immediate")
        end = threading.Timer(1.0, holder.rollback)
        end.start()
        with pytest.warns(SinkWaitingWarning) as told:
            writer.commit(output)
        end.join()
        holder.close()
        writer.close()
        assert re.match("sink 'job/out' waits for .*locked.*retry_for=120 s", str(told[0].message))
        assert str(told[-1].message).startswith("sink 'job/out' goes on")
        assert db.rows() == [(1,)]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_server_that_stands_still_is_told(monkeypatch, tmp_path, request, kind):
    """Kind: a job that waits for an answer that never comes, without a word."""
    with database(kind, tmp_path, request) as db:
        db.run("create table t (number int)")
        server = request.getfixturevalue({"postgresql": "postgres"}.get(kind, kind))
        check_silence_is_told(monkeypatch, server, SqlSink(db.url, "t"), [{"number": 1}])
        assert db.rows() == [(1,)]
