"""A table as a source: every row once, also of transactions that commit out of the order of their keys."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial

import psycopg
import pytest
from lives import Life, no_survivors
from waits import check_tells

import onceflow as of
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.postgres import PostgresSource
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError, SourceWaitingWarning
from onceflow.sources import SourceContext
from onceflow.testing import SourceContract

SOON = timedelta(milliseconds=10)
TABLES = {
    "numbered": ("id bigint generated always as identity primary key, text text", "id"),
    "transactions": (
        "txid xid8 not null default pg_current_xact_id(), id bigint generated always as identity, text text, "
        "primary key (txid, id)",
        ("txid", "id"),
    ),
}


@pytest.fixture
def dsn(postgres_dsn):
    """A database with a table of each kind of key."""
    with psycopg.connect(postgres_dsn) as session:
        for name, (columns, _) in TABLES.items():
            session.execute(f"create table {name} ({columns})")
    return postgres_dsn


def source(dsn, table, **settings):
    return PostgresSource(dsn, table, key=TABLES[table][1], columns=["id", "text"], every=SOON, **settings)


def read(reader, *, until, most_s=20.0, size=100):
    """Texts that a reader hands out until a text comes, or it ends."""
    found, until_s = [], time.monotonic() + most_s
    while time.monotonic() < until_s:
        batch = reader.read(size)
        if batch is None:
            return found
        found += [record["text"] for record in batch.records]
        if found and found[-1] == until:
            return found
        time.sleep(0.002)
    raise AssertionError(f"only {found}")


def all_records(reader):
    """Of a reader that ends."""
    found = []
    while (batch := reader.read(100)) is not None:
        found += batch.records
        time.sleep(0.002)
    return found


@pytest.mark.parametrize("table", TABLES)
class TestContract(SourceContract):
    """Rows of a table that nobody writes to."""

    #: A batch ends where a query does.
    cuts_alike = False

    @pytest.fixture(autouse=True)
    def _rows(self, dsn, table):
        self.dsn, self.table = dsn, table
        with psycopg.connect(dsn) as session:
            for first, last in ((0, 7), (7, 8), (8, 30)):
                session.execute(
                    f"insert into {table} (text) select n::text from generate_series(%s::int, %s) n", (first, last - 1)
                )
                session.commit()

    def make_source(self, directory):
        return source(self.dsn, self.table)

    def _batches(self, reader, sizes):
        for batch in super()._batches(reader, sizes):
            if not len(batch.records):
                # As a job does, which is woken when there is an answer.
                time.sleep(0.02)
            yield batch


@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_is_committed_late_is_read(dsn, table):
    """Kind: a lower key becomes visible after a higher one was read, and nobody looks below it again."""
    reader = source(dsn, table, follow=True).open("0", None)
    insert = f"insert into {table} (text) values (%s)"
    try:
        with psycopg.connect(dsn) as late, psycopg.connect(dsn, autocommit=True) as soon:
            soon.execute(insert, ("first",))
            assert read(reader, until="first") == ["first"]
            late.execute(insert, ("late",))
            soon.execute(insert, ("soon",))
            for _ in range(30):
                assert not reader.read(10).records
                time.sleep(0.01)
            late.commit()
            assert read(reader, until="soon") == ["late", "soon"]
    finally:
        reader.close()


@pytest.mark.parametrize("kind", ["inherits (parent)", "partition of parts for values from (0) to (100)"])
def test_writers_of_tables_below_hold_the_reader_back(dsn, kind):
    """Kind: a lock on what the rows lie in is none on what is read: a late row of an inheriting table was left out."""
    columns = "id bigserial not null, text text"
    execute(dsn, f"create table parent ({columns})")
    execute(dsn, f"create table parts ({columns}) partition by range (id)")
    child, table = ("()", "parent") if "inherits" in kind else ("", "parts")
    execute(dsn, f"create table child {child} {kind}")
    reader = PostgresSource(dsn, table, key="id", every=SOON, follow=True).open("0", None)
    try:
        with psycopg.connect(dsn) as late:
            late.execute(f"insert into child values (nextval(pg_get_serial_sequence('{table}', 'id')), 'late')")
            execute(dsn, f"insert into {table} (text) values ('soon')")
            for _ in range(30):
                assert not reader.read(10).records
                time.sleep(0.01)
            late.commit()
            assert read(reader, until="soon") == ["late", "soon"]
    finally:
        reader.close()


def test_floats_are_exact_however_the_database_is_set_up(dsn):
    """Kind: a setting of the database or the role rounds what is read, without a word."""
    execute(dsn, "create table floats (id bigserial not null, d float8, r real)")
    execute(dsn, "insert into floats (d, r) values (0.1234567890123456789, 0.1234567)")
    execute(dsn, f"alter database {psycopg.conninfo.conninfo_to_dict(dsn)['dbname']} set extra_float_digits = 0")
    reader = PostgresSource(dsn, "floats", key="id", every=SOON).open("0", None)
    try:
        assert all_records(reader) == [{"id": 1, "d": 0.12345678901234568, "r": 0.1234567}]
    finally:
        reader.close()


def test_a_number_that_is_drawn_before_its_transaction_has_an_identity_is_read(dsn):
    """Kind: a writer that has its key and nothing else yet, so that no snapshot knows it."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(
            "create function slow(bigint) returns bigint language plpgsql as $$ begin perform pg_sleep(0.7); "
            "return $1; end $$"
        )
        session.execute("create table slowly (id serial primary key, text text)")
        session.execute("alter table slowly alter id set default slow(nextval('slowly_id_seq'))")
        reader = PostgresSource(dsn, "slowly", key="id", every=SOON, follow=True).open("0", None)
        late = threading.Thread(target=lambda: execute(dsn, "insert into slowly (text) values ('late')"))
        late.start()
        while session.execute("select is_called from slowly_id_seq").fetchone() != (True,):
            time.sleep(0.01)
        session.execute("insert into slowly values (nextval('slowly_id_seq'), 'soon')")
        try:
            assert read(reader, until="soon") == ["late", "soon"]
        finally:
            late.join()
            reader.close()


def execute(dsn, statement):
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(statement)


@no_survivors()
@pytest.mark.parametrize("table", TABLES)
def test_each_row_of_many_writers_is_read_once_by_a_job_that_is_killed(dsn, table, tmp_path):
    """Kind: rows of transactions of all lengths, some of them rolled back, while the job is killed and resumed."""
    writers, each = 4, 60

    def write(writer):
        with psycopg.connect(dsn) as session:
            for number in range(each):
                session.execute(f"insert into {table} (text) values (%s)", (f"{writer}-{number}",))
                if number % 7 == writer:
                    session.execute(f"insert into {table} (text) values ('gone')")
                    session.rollback()
                    session.execute(f"insert into {table} (text) values (%s)", (f"{writer}-{number}",))
                if number % (writer + 1) == 0:
                    time.sleep(0.003 * writer)
                    session.commit()

    # A row whose transaction is rolled back is gone with those before it, so what is there is asked of the table.
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()

    def run(until):
        flow = of.Dataflow("reading")
        flow.source("rows", source(dsn, table, follow=True)).sink("out", JsonLinesSink(tmp_path / "out"))
        of.run(flow, tmp_path / "state", checkpoint_interval_s=0.005, until=until)

    kills = 0
    while any(thread.is_alive() for thread in threads):
        life = Life(lambda: run("end"))
        assert life.step(0.25) is None, life.error
        assert life.kill() == "killed"
        kills += 1
    for thread in threads:
        thread.join()
    assert kills
    life = Life(lambda: run("caught_up"))
    assert life.wait() == "done", life.error
    with psycopg.connect(dsn) as session:
        there = sorted(text for (text,) in session.execute(f"select text from {table}"))
    lines = read_parts(tmp_path / "out").decode().splitlines()
    assert sorted(json.loads(line)["text"] for line in lines) == there


def test_a_database_that_was_put_back_is_refused(dsn):
    """Kind: keys below the position are given to other rows, and nobody reads them."""
    for table in TABLES:
        execute(dsn, f"insert into {table} (text) values ('a'), ('b')")
        with_rows = source(dsn, table).open("0", None)
        assert read(with_rows, until=None) == ["a", "b"]
        position = with_rows.position()
        with_rows.close()
        if table == "numbered":
            execute(dsn, "truncate numbered restart identity")
            execute(dsn, "insert into numbered (text) values ('new')")
        else:
            position = {**position, "at": [str(10**12), "2"]}
        reader = source(dsn, table).open("0", position)
        try:
            with pytest.raises(SourceChangedError, match="older than the job's state"):
                read(reader, until=None)
        finally:
            reader.close()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("drop table numbered; create table numbered ({})", "was deleted and made anew"),
        ("truncate numbered restart identity", "has begun its numbers anew"),
        ("alter sequence numbered_id_seq restart", "has begun its numbers anew"),
    ],
    ids=["made anew", "truncated", "restarted"],
)
@pytest.mark.parametrize("runs", [True, False], ids=["while it runs", "between two runs"])
def test_a_table_that_begins_anew_and_outgrows_the_position_is_refused(dsn, how, reason, runs):
    """Kind: other rows with the keys of those that were read, and nobody reads them."""
    insert = "insert into numbered (text) values ('a'), ('b')"
    execute(dsn, insert)
    reader = source(dsn, "numbered", follow=True).open("0", None)
    try:
        assert read(reader, until="b") == ["a", "b"]
        position = reader.position()
        if not runs:
            reader.close()
        more = "; delete from numbered; insert into numbered (text) values ('c'), ('d'), ('e')"
        execute(dsn, how.format(TABLES["numbered"][0]) + more)
        if not runs:
            reader = source(dsn, "numbered", follow=True).open("0", position)
        with pytest.raises(SourceChangedError, match=reason):
            read(reader, until="e")
    finally:
        reader.close()


def test_a_table_that_is_rewritten_or_emptied_goes_on(dsn):
    """Kind: a table that is taken for another one after maintenance; a position of an older version."""
    execute(dsn, "insert into numbered (text) values ('a'), ('b')")
    reader = source(dsn, "numbered").open("0", None)
    assert read(reader, until=None) == ["a", "b"]
    position = reader.position()
    reader.close()
    execute(dsn, "vacuum full numbered")
    execute(dsn, "alter table numbered add column more int default 5, alter column text type varchar(9)")
    execute(dsn, "truncate numbered; insert into numbered (text) values ('c')")
    for kept in (position, {**position, "at": position["at"]["key"]}):
        reader = source(dsn, "numbered").open("0", kept)
        try:
            assert read(reader, until=None) == ["c"]
        finally:
            reader.close()


def test_values_that_python_would_round(dsn):
    """Kind: an interval of months that becomes days; a number in JSON that becomes another one."""
    execute(dsn, "create table exact (id bigserial not null, i interval, j jsonb, a interval[], d timestamptz, n date)")
    execute(
        dsn,
        "insert into exact (i, j, a, d, n) values ('1 year 1 mon', '[12345678901234567890.15, 0.1, 1.50, 1e400, "
        "123456789012345678901234567890]', array['1 mon', '1 day 0.000001'::interval], '2024-01-02 03:04:05Z', "
        "'2024-01-02'), ('-3 days 04:05:06.5', '1.5', null, null, null)",
    )
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    for setting in ("datestyle = 'German'", "intervalstyle = 'sql_standard'"):
        execute(dsn, f"alter database {name} set {setting}")
    reader = PostgresSource(dsn, "exact", key="id", every=SOON).open("0", None)
    try:
        first, second = all_records(reader)
    finally:
        reader.close()
    assert first == {
        "id": 1,
        "i": "1 year 1 mon",
        "j": [Decimal("12345678901234567890.15"), 0.1, 1.5, Decimal("1e400"), 123456789012345678901234567890],
        "a": ["1 mon", timedelta(days=1, microseconds=1)],
        "d": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        "n": date(2024, 1, 2),
    }
    assert [type(number) for number in first["j"][:3]] == [Decimal, float, float]
    assert second["i"] == timedelta(days=-3, hours=4, minutes=5, seconds=6.5)
    assert second["j"] == 1.5


def test_a_query_and_a_lag(dsn):
    """Kind: rows that are younger than the lag are waited for, also where the job ends with the last one."""
    execute(dsn, "create table timed (at timestamptz not null default clock_timestamp(), id serial, text text)")
    execute(dsn, "insert into timed (text) values ('a'), ('b')")
    begun = time.monotonic()
    query = "select at, id, upper(text) as text from timed where text like '%'"
    reader = PostgresSource(dsn, query=query, key=("at", "id"), lag=timedelta(seconds=0.5), every=SOON).open("0", None)
    try:
        assert read(reader, until=None) == ["A", "B"]
    finally:
        reader.close()
    assert time.monotonic() - begun >= 0.4
    query = "with t as (select * from transactions) select t.txid, id, text from t join (select 1) one on true"
    execute(dsn, "insert into transactions (text) values ('c')")
    reader = PostgresSource(dsn, query=query, key=("txid", "id"), every=SOON).open("0", None)
    try:
        assert read(reader, until=None) == ["c"]
    finally:
        reader.close()


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_a_time_without_end_is_refused(dsn, kind):
    """Kind: a row that is younger than any lag for ever, and a job that waits for it without a word."""
    execute(dsn, f"create table timed (at {kind} not null, id serial, text text)")
    execute(dsn, "insert into timed (at, text) values (now() - interval '9 days', 'a'), ('infinity', 'b')")
    settings = {"key": ("at", "id"), "columns": ["text"], "lag": timedelta(seconds=1), "every": SOON}
    reader = PostgresSource(dsn, "timed", **settings).open("0", None)
    try:
        with pytest.raises(SourceError, match=r"'infinity' in 'at'.*leave them out by query="):
            read(reader, until=None)
    finally:
        reader.close()
    query = "select * from timed where isfinite(at)"
    reader = PostgresSource(dsn, query=query, **settings).open("0", None)
    try:
        assert read(reader, until=None) == ["a"]
    finally:
        reader.close()


def test_a_server_that_is_away_is_waited_for(dsn, postgres):
    """Kind: a restart of the server in the middle of a job."""
    execute(dsn, "insert into numbered (text) values ('a')")
    reader = source(dsn, "numbered", follow=True).open("0", None)
    try:
        assert read(reader, until="a") == ["a"]
        postgres.kill()
        postgres.start()
        execute(dsn, "insert into numbered (text) values ('b')")
        assert read(reader, until="b") == ["b"]
    finally:
        reader.close()
    reader = source(dsn, "numbered", follow=True, retry_for_s=0.2).open("0", None)
    try:
        assert read(reader, until="b") == ["a", "b"]
        postgres.kill()
        with pytest.raises(SourceError, match="Nothing is lost"):
            read(reader, until=None)
    finally:
        reader.close()
        postgres.start()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"table": "plain", "key": "id"}, "may be committed later"),
        ({"table": "plain", "key": "at"}, "can be null"),
        ({"table": "plain", "key": "none"}, "there is no column 'none'; there are 'id', 'at'"),
        ({"table": "nowhere", "key": "id"}, "there is no table nowhere"),
        ({"query": "select 1 as id", "key": "id"}, "may be committed later"),
        ({"table": "given", "key": ("tx", "id")}, "'tx' has no default pg_current_xact_id"),
        ({"query": "select tx, id from given", "key": ("tx", "id")}, "'tx' has no default pg_current_xact_id"),
        ({"query": "select '3'::xid8 as tx, 1 as id", "key": ("tx", "id")}, "select the column as it is"),
    ],
    ids=["any key", "null", "no column", "no table", "query", "no default", "no default in a query", "invented"],
)
def test_keys_by_which_rows_would_be_left_out_are_refused(dsn, settings, reason):
    """Kind: nothing says when all rows up to a key are there."""
    execute(dsn, "create table plain (id int primary key, at timestamptz)")
    execute(dsn, "create table given (tx xid8 not null, id bigserial)")
    with pytest.raises(SourceError, match=reason):
        PostgresSource(dsn, **settings).open_with_context("0", None, SourceContext())


@pytest.mark.parametrize(
    "settings",
    [{}, {"table": "a", "query": "b"}, {"table": "a.b.c"}, {"table": "a", "key": ()}, {"table": "a", "lag": 5}]
    + [{"table": "a", "retry_for_s": bad} for bad in (-1, float("nan"), "5", True)],
)
def test_settings_that_cannot_be_are_refused(settings):
    """Kind: a mistake that is found at the first row, or never."""
    with pytest.raises(ConfigurationError, match="PostgresSource: "):
        PostgresSource("", **{"key": "id", **settings})


def test_a_server_that_is_away_is_told(monkeypatch, dsn, postgres):
    """Kind: a job that stands still without a word."""
    reader = source(dsn, "numbered", follow=True).open_with_context("0", None, SourceContext("job", "in"))
    try:
        execute(dsn, "insert into numbered (text) values ('a')")
        work = partial(read, reader, until="a")
        check_tells(monkeypatch, postgres, "source 'job/in'", work, SourceWaitingWarning)
    finally:
        reader.close()
