"""Values come back as they went in, or are refused before the decision, with the record named."""

from __future__ import annotations

import datetime as dt
import enum
import math
import uuid
from decimal import Decimal

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from waits import check_silence_is_told, check_sink_tells
from writing import commit, opened, rows, write

import onceflow as of
from onceflow.checks import CheckContext
from onceflow.connectors.postgres import PostgresSink, PostgresSource
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.testing import TestingSource

MOMENT = dt.datetime(2024, 2, 29, 23, 59, 59, 123_456, tzinfo=dt.UTC)


class Color(enum.StrEnum):
    RED = "red"


class Raw(enum.Enum):
    X = b"x"


KEPT = [
    ("bool", True, True),
    ("smallint", -32768, -32768),
    ("integer", 2**31 - 1, 2**31 - 1),
    ("bigint", -(2**63), -(2**63)),
    ("bigint", np.int64(5), 5),
    ("real", 0.5, 0.5),
    ("double precision", 0.1, 0.1),
    ("double precision", 5e-324, 5e-324),
    ("double precision", math.inf, math.inf),
    ("double precision", 3, 3.0),
    ("numeric", Decimal("1E+30"), Decimal("1E+30")),
    ("numeric", 10**40, Decimal(10**40)),
    ("numeric(6,2)", Decimal("-9999.99"), Decimal("-9999.99")),
    ("numeric(6,2)", Decimal("1.2300"), Decimal("1.23")),
    ("numeric(3,5)", Decimal("0.00999"), Decimal("0.00999")),
    ("numeric(3,-2)", Decimal(99900), Decimal(99900)),
    ("text", "tab\t, line\n, return\r, back\\slash, \\N, \\., 'quote', €, 🙂", None),
    ("text", "", ""),
    ("text", "\\N", "\\N"),
    ("text", Color.RED, "red"),
    ("varchar(3)", "€€€", "€€€"),
    ("char(3)", "abc", "abc"),
    ("bpchar", "a", "a"),
    ("name", "€" * 21, "€" * 21),
    ('"char"', "a", "a"),
    ("bytea", b"\0\\x\xff", b"\0\\x\xff"),
    ("date", dt.date(1, 1, 1), dt.date(1, 1, 1)),
    ("date", dt.date(9999, 12, 31), dt.date(9999, 12, 31)),
    ("timestamptz", MOMENT, MOMENT),
    ("timestamptz", MOMENT.astimezone(dt.timezone(dt.timedelta(hours=-7))), MOMENT),
    ("timestamptz", MOMENT.replace(tzinfo=None), MOMENT),
    ("timestamp", MOMENT.astimezone(dt.timezone(dt.timedelta(hours=9))), MOMENT.replace(tzinfo=None)),
    ("timestamp(0)", MOMENT.replace(microsecond=0), MOMENT.replace(microsecond=0, tzinfo=None)),
    ("time", dt.time(23, 59, 59, 999_999), dt.time(23, 59, 59, 999_999)),
    ("interval", dt.timedelta(days=-3, microseconds=1), dt.timedelta(days=-3, microseconds=1)),
    ("uuid", uuid.UUID(int=7), uuid.UUID(int=7)),
    ("uuid", "00000000-0000-0000-0000-000000000007", uuid.UUID(int=7)),
    ("jsonb", {"a": [1, None, "\\u0000 as text", {"b": 1.5}]}, None),
    ("json", "a text", "a text"),
    ("jsonb", (1, MOMENT, {2: uuid.UUID(int=7)}), [1, "2024-02-29T23:59:59.123456Z", {"2": str(uuid.UUID(int=7))}]),
    ("int[]", "{1,2}", [1, 2]),
    ("numeric[]", "{1.239}", [Decimal("1.239")]),
    ("inet", "::1/128", None),
    ("bit(3)", "101", None),
    ("bit(8)", "xA5", "10100101"),
    ("varbit(5)", "B0101", "0101"),
    ("varbit", "", None),
]
REFUSED = [
    ("bool", 1, "True or False"),
    ("smallint", 32768, "outside of the range of smallint"),
    ("integer", True, "is a bool"),
    ("integer", 1.0, "whole number"),
    ("bigint", 2**63, "outside of the range"),
    ("real", 0.1, "is rounded by real"),
    ("real", 1e39, "is rounded by real"),
    ("double precision", 2**53 + 1, "is rounded"),
    ("double precision", "1.5", "give a float"),
    ("numeric", 0.1, "give a Decimal"),
    ("numeric", Decimal("Infinity"), "is not a number"),
    ("numeric", Decimal("NaN"), "is not a number"),
    ("numeric(6,2)", Decimal("1.239"), r"is rounded by numeric\(6,2\)"),
    ("numeric(6,2)", Decimal(10000), "does not fit"),
    ("numeric(3,-2)", Decimal(150), "is rounded"),
    ("text", "a\0b", "holds a NUL character"),
    ("text", "\ud800", "surrogate"),
    ("text", 5, "give a str"),
    ("varchar(3)", "abcd", "is longer than"),
    ("char(3)", "a ", "does not keep spaces"),
    ("char(3)", "ab", r"is padded by character\(3\)"),
    ("char", "", "is padded"),
    ("name", "€" * 22, "is cut to 63 bytes by name"),
    ('"char"', "ab", 'is cut to 1 bytes by "char"'),
    ("money", "1.239", "rounds as the server's locale"),
    ("bit(3)", "10", r"has 2 bits, and bit\(3\) takes 3"),
    ("bit(3)", "xF", r"has 4 bits, and bit\(3\) takes 3"),
    ("bit", "", r"has 0 bits, and bit\(1\) takes 1"),
    ("varbit(3)", "1010", "takes 3 at most"),
    ("bit(3)", "102", "is no text of bits"),
    ("varbit", 5, "give a str of bits"),
    ("bits", "1", "takes 3"),
    ("jsonb", {"a": "x\0"}, "holds a NUL character"),
    ("jsonb", {"a": math.nan}, "nan"),
    ("jsonb", {"a": [Decimal("NaN")]}, "NaN is not a value of JSON"),
    ("json", Decimal("-Infinity"), "-Infinity is not a value of JSON"),
    ("jsonb", {"a": b"x"}, "nothing for a bytes: make it a text"),
    ("json", [bytearray(b"x")], "nothing for a bytearray"),
    ("jsonb", {b"a": 1}, "nothing for a bytes"),
    ("jsonb", {"a": Raw.X}, "nothing for a Raw"),
    ("jsonb", [{"a": {1, 2}}], "nothing for a set: make it a list"),
    ("json", frozenset("a"), "nothing for a frozenset"),
    ("date", MOMENT, "give a date"),
    ("timestamp", dt.date(2024, 1, 1), "give a datetime"),
    ("timestamp(3)", MOMENT, "is rounded"),
    ("time", dt.time(1, tzinfo=dt.UTC), "has a zone"),
    ("uuid", "no uuid", "badly formed"),
    ("int[]", [1, 2], "give a str"),
    ("numeric(6,2)[]", "{1.239}", r"numeric\(6,2\)\[\] may round, cut or pad"),
    ("varchar(3)[]", "{abc }", "may round, cut or pad"),
    ("interval(0)", "1.5 seconds", "may round, cut or pad"),
    ("timetz(0)", "00:00:01.5+00", "may round, cut or pad"),
    ("money[]", "{1.239}", "may round, cut or pad"),
    ("positive", 5.5, "whole number"),
    ("mood", "bad", "is none of mood: good, better"),
]
REFUSED_IDS = [f"{kind} {number}" for number, (kind, *_) in enumerate(REFUSED)]


@pytest.fixture(scope="module")
def dsn(postgres):
    """One database for all of the module."""
    with postgres.database("test_postgres_values") as dsn, psycopg.connect(dsn, autocommit=True) as session:
        session.execute("create type mood as enum ('good', 'better')")
        session.execute("create domain positive as int check (value > 0)")
        session.execute("create domain bits as bit(3)")
        yield dsn


def table(dsn, *types):
    """An empty table with columns of types; its sink."""
    columns = ", ".join(f'"v{number}" {kind}' for number, kind in enumerate(types))
    with psycopg.connect(dsn) as session:
        session.execute("drop table if exists onceflow_markers, kinds")
        session.execute(f"create table kinds (nth bigint generated always as identity, {columns})")
    return PostgresSink(dsn, "kinds")


def test_p9_values_come_back_as_they_went_in(dsn):
    """Kind: a value that the text on its way changes: ends of ranges, zones, subclasses, what COPY escapes."""
    sink = table(dsn, *(kind for kind, _, _ in KEPT))
    record = {f"v{number}": value for number, (_, value, _) in enumerate(KEPT)}
    write(sink, [record, dict.fromkeys(record)])
    found, empty = rows(dsn, "select * from kinds order by nth")
    for (kind, value, expected), shown in zip(KEPT, found[1:], strict=True):
        if kind == "inet":
            assert str(shown) in value
        else:
            assert shown == (value if expected is None else expected), kind
            assert type(shown) is type(value if expected is None else expected), kind
    assert set(empty[1:]) == {None}


NUMBERS = [
    "1.10",
    "12345678901234567890.01",
    "0.1000000000000000000001",
    "-0.00",
    "1E+30",
    "123456789012345678901234567890",
]


@pytest.mark.parametrize("kind", ["json", "jsonb"])
def test_decimals_in_json_are_numbers_digit_by_digit(dsn, kind):
    """Kind: a number that becomes a text, or is rounded, within JSON: alone, in lists, as a member, of a subclass."""

    class Price(Decimal):
        pass

    sink = table(dsn, kind)
    write(sink, [{"v0": shape(Price(n))} for n in NUMBERS for shape in (lambda v: v, lambda v: {"a": [v, {"b": v}]})])
    value = "coalesce(v0 #>> '{a,1,b}', v0 #>> '{}')"
    found = rows(dsn, f"select {kind}_typeof(coalesce(v0 #> '{{a,1,b}}', v0)), {value} from kinds order by nth")
    # PostgreSQL itself writes powers of ten out in jsonb, and has no sign of zero.
    shown = [f"{Decimal(n):f}".replace("-0.00", "0.00") if kind == "jsonb" else n for n in NUMBERS]
    assert found == [("number", n) for n in shown for _ in range(2)]


def test_decimals_as_names_in_json_are_texts(dsn):
    """Kind: a member whose name is a number, which is no JSON."""
    sink = table(dsn, "jsonb")
    write(sink, [{"v0": {Decimal("1.50"): Decimal("2.50")}}])
    assert rows(dsn, "select v0::text from kinds") == [('{"1.50": 2.50}',)]


def test_numbers_of_json_come_through_a_job_as_they_were(dsn, tmp_path):
    """Kind: the source gives a Decimal for what no float holds, and the sink writes something else for it."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("drop table if exists onceflow_markers, priced, copied")
        session.execute("create table priced (id bigint generated always as identity primary key, v jsonb)")
        session.execute("create table copied (id bigint, v jsonb)")
        for number in NUMBERS:
            session.execute("insert into priced (v) values (%s::jsonb)", (f'{{"price": [{number}]}}',))
    flow = of.Dataflow("priced")
    flow.source("in", PostgresSource(dsn, "priced", key="id")).sink("out", PostgresSink(dsn, "copied"))
    of.run(flow, state=tmp_path / "state")
    assert rows(dsn, "select * from copied order by id") == rows(dsn, "select * from priced order by id")
    assert rows(dsn, "select jsonb_typeof(v #> '{price,0}') from copied") == [("number",)] * len(NUMBERS)


def test_numeric_without_a_scale_keeps_that_of_each_value(dsn):
    """Kind: 1.50 comes back as 1.5: equal, but another text. In a key both are one value, and have one row."""
    sink = table(dsn, "numeric")
    given = ["1.50", "100", "1E+3", "0.00", "-7.10", "0.000001"]
    write(sink, [{"v0": Decimal(n)} for n in given])
    assert [n for (n,) in rows(dsn, "select v0::text from kinds order by nth")] == [f"{Decimal(n):f}" for n in given]
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("drop table if exists onceflow_markers, by_price")
        session.execute("create table by_price (price numeric primary key, n int)")
    write(
        PostgresSink(dsn, "by_price", mode="upsert", key="price"),
        [{"price": Decimal(n), "n": i} for i, n in enumerate(["1.5", "1.50", "100", "1E+2"])],
    )
    assert rows(dsn, "select price, n from by_price order by price") == [(Decimal("1.5"), 1), (Decimal(100), 3)]


@pytest.mark.parametrize(
    ("kind", "value", "reason"), REFUSED, ids=[f"{kind} {n}" for n, (kind, *_) in enumerate(REFUSED)]
)
def test_p8_p9_what_a_column_would_change_or_refuse_is_refused_first(dsn, kind, value, reason):
    """Kind: rounded, cut, padded or failing after the decision. The record is named, others are not."""
    sink = table(dsn, kind)
    with opened(sink) as writer:
        with pytest.raises(SinkError, match=reason) as refused:
            writer.write([{"v0": None}, {"v0": value}, {"v0": None}])
        assert "column 'v0' of table public.kinds does not take" in str(refused.value)


def test_columns_are_written_as_rows_are(dsn):
    """Kind: the same input as numpy and Arrow columns."""
    sink = table(dsn, "bigint", "text", "double precision", "timestamptz", "boolean")
    times = np.array(["2024-01-01T00:00:00", "NaT"], "M8[us]")
    with opened(sink) as writer:
        batch = {
            "v0": np.array([1, 2]),
            "v1": pa.array(["a", None]),
            "v2": pa.array([0.5, None]),
            "v3": times,
            "v4": np.array([True, False]),
        }
        commit(writer, 1, of.Columns(batch))
    moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    assert rows(dsn, "select v0, v1, v2, v3, v4 from kinds order by nth") == [
        (1, "a", 0.5, moment, True),
        (2, None, None, None, False),
    ]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"v0": 1}, "lacks the field 'v1'"),
        ({"v0": 1, "v1": "a", "more": 1}, "have a field 'more', and the table has no such column"),
        ({"v0": 1, "v1": "a", "nth": 1}, "have a field 'nth', which the table fills in itself"),
        ((1, "a"), "records that are dicts"),
    ],
    ids=["too few", "too many", "of the table's own", "no dict"],
)
def test_fields_and_columns_are_the_same(dsn, record, reason):
    """Kind: a field that is lost because no column has its name, or a null that nobody wrote."""
    sink = table(dsn, "int", "text")
    with opened(sink) as writer, pytest.raises(SinkError, match=reason):
        writer.write([{"v0": 1, "v1": "a"}, record])


def test_a_key_without_a_value_is_refused(dsn):
    """Kind: null equals nothing, so each such row would be a new one."""
    table(dsn, "int unique", "text")
    sink = PostgresSink(dsn, "kinds", mode="upsert", key="v0")
    with opened(sink) as writer, pytest.raises(SinkError, match="has None in"):
        writer.write([{"v0": None, "v1": "a"}])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"mode": "merge"}, "mode='merge'"),
        ({"mode": "upsert"}, "an upsert has a key"),
        ({"key": "id"}, "what is appended has none"),
        ({"delete": "gone"}, "delete= needs"),
        ({"columns": "id"}, "give a list of names"),
        ({"table": "a.b.c"}, "'schema.table'"),
        ({"retry_for_s": -1}, "give seconds"),
        ({"connect": 5}, "give the DSN"),
        ({"connect": "postgresql://me:s3cret@[host/x"}, "cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_refused(arguments, reason):
    """Kind: a mistake that is found at the first record, or never."""
    with pytest.raises(ConfigurationError, match=reason) as refused:
        PostgresSink(**{"connect": "dbname=x", "table": "t", **arguments})
    assert "s3cret" not in f"{refused.value!r} {refused.value.__cause__!r}"


def test_passwords_are_never_told(dsn):
    """Kind: a secret in an error, a repr, or what explain shows; wrong ones are refused at once."""
    table(dsn, "int")
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("drop role if exists guarded")
        session.execute("create role guarded login password 'right'")
    wrong = dsn.replace("postgres@", "guarded:s3cret@")
    sink = PostgresSink(wrong, "kinds")
    with pytest.raises(SinkError, match="password authentication failed") as refused, opened(sink):
        pass
    told = [refused.value, refused.value.__cause__, sink, list(sink.check(CheckContext("job", "out"))), vars(sink)]
    assert "s3cret" not in " ".join(map(repr, told))
    flow = of.Dataflow("secrets")
    flow.source("in", TestingSource([1])).sink("out", sink)
    assert "s3cret" not in flow.explain()
    with (
        pytest.raises(SinkError, match="may not write to table kinds: grant insert on kinds"),
        opened(PostgresSink(dsn.replace("postgres@", "guarded:right@"), "kinds")),
    ):
        pass


def test_tables_that_do_not_keep_what_is_written_are_refused(dsn):
    """Kind: a crash of the server empties the table, or a view takes rows elsewhere."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("create unlogged table forgets (id int)")
        session.execute("create view shows as select 1 as id")
    for name, reason in (("forgets", "is unlogged"), ("shows", "is not a table"), ("nowhere", "there is no table")):
        with pytest.raises(SinkError, match=reason), opened(PostgresSink(dsn, name)):
            pass


def test_a_server_that_is_away_is_told(monkeypatch, postgres, postgres_dsn):
    """Kind: a job that stands still without a word."""
    with psycopg.connect(postgres_dsn) as session:
        session.execute("create table t (id int)")
    check_sink_tells(monkeypatch, postgres, PostgresSink(postgres_dsn, "t"), [{"id": 1}])


def test_a_server_that_stands_still_is_told(monkeypatch, postgres, postgres_dsn):
    """Kind: a job that waits for an answer that never comes, without a word."""
    with psycopg.connect(postgres_dsn) as session:
        session.execute("create table t (id int)")
    check_silence_is_told(monkeypatch, postgres, PostgresSink(postgres_dsn, "t"), [{"id": 1}])
    assert rows(postgres_dsn, "select id from t") == [(1,)]
