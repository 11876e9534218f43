"""Changes of tables by a replication slot: each once, in the order of commits, however the job and the server end."""

from __future__ import annotations

import datetime as dt
import json
import random
import threading
import time
import uuid
from contextlib import closing
from decimal import Decimal

import psycopg
import pytest
from lives import Life, no_survivors
from services.proxy import Proxy
from waits import check_tells, said, standing_still

import onceflow as of
from onceflow.connectors import waiting
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.postgres import PostgresChanges, changes
from onceflow.connectors.postgres.decoding import changes_of
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError, SourceWaitingWarning
from onceflow.sources import SourceContext

JSON = '{"a": "x"}'
TABLE = "create table things (id int primary key, text text)"


def execute(dsn, *statements):
    with psycopg.connect(dsn, autocommit=True) as session:
        for statement in statements:
            session.execute(statement)


@pytest.fixture
def dsn(postgres_dsn):
    """A database with a table."""
    execute(postgres_dsn, TABLE)
    return postgres_dsn


@pytest.fixture
def slot():
    """A name of the test's own: slots are of the server."""
    return f"slot_{uuid.uuid4().hex[:12]}"


def read(reader, count, most_s=20.0):
    """So many records."""
    found, until_s = [], time.monotonic() + most_s
    while len(found) < count:
        assert time.monotonic() < until_s, found
        found += reader.read(7).records
        time.sleep(0.002)
    return found


def opened(source, position=None, **context):
    return source.open_with_context("0", position, SourceContext("job", "changes", **context))


def test_changes_are_records(dsn, slot):
    """Kind: quotes, brackets, nulls, old keys, types: what the plugin prints is read back as it was."""
    execute(
        dsn,
        'create table "Od""d.one" (id int primary key, "a b[1]:" text, n numeric, f double precision, b bool, '
        "t timestamptz, d date, j jsonb, x bytea, l int[], u uuid, z varchar(9))",
    )
    reader = opened(PostgresChanges(dsn, slot))
    moment = dt.datetime(2024, 1, 2, 3, 4, 5, 600, tzinfo=dt.UTC)
    values = (
        1,
        "it's [a]:'b' new-tuple: old-key: \\ \n",
        Decimal("1.50"),
        0.1,
        True,
        moment,
        moment.date(),
        '{"a": "x"}',
    )
    more = (b"\0\xff", [1, 2], uuid.UUID(int=5), "v")
    try:
        with psycopg.connect(dsn) as session:
            marks = ", ".join(["%s"] * 12)
            session.execute(f'insert into "Od""d.one" values ({marks})', (*values, *more))
            session.execute('update "Od""d.one" set id = 2, n = null')
            session.execute('delete from "Od""d.one"')
            session.execute('truncate "Od""d.one"')
        insert, update, delete, truncate = read(reader, 4)
    finally:
        reader.close()
    row = {
        "id": 1,
        "a b[1]:": values[1],
        "n": Decimal("1.50"),
        "f": 0.1,
        "b": True,
        "t": moment,
        "d": moment.date(),
        "j": {"a": "x"},
        "x": b"\0\xff",
        "l": "{1,2}",
        "u": uuid.UUID(int=5),
        "z": "v",
    }
    name = 'public.Od"d.one'
    assert insert == {"table": name, "action": "insert", "row": row, "key": None}
    assert update == {"table": name, "action": "update", "row": {**row, "id": 2, "n": None}, "key": {"id": 1}}
    assert delete == {"table": name, "action": "delete", "row": None, "key": {"id": 2}}
    assert truncate == {"table": name, "action": "truncate", "row": None, "key": None}
    with pytest.raises(SourceError, match="its plugin must be test_decoding"):
        changes_of('{"change": []}')


def test_one_statement_may_empty_several_tables(dsn, slot):
    """Kind: a line of another form stopped the job for ever, at each start again."""
    execute(dsn, "create table below (id int references things)", 'create table "of, another" (id int)')
    reader = opened(PostgresChanges(dsn, slot))
    try:
        execute(dsn, "truncate things cascade", 'truncate below, "of, another" restart identity')
        found = read(reader, 4)
    finally:
        reader.close()
    assert [change["table"] for change in found] == [
        "public.things",
        "public.below",
        "public.below",
        "public.of, another",
    ]
    assert {change["action"] for change in found} == {"truncate"}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("public.Things", "has no table 'public.Things': give names with their schema"),
        ("public.parts", "is partitioned"),
    ],
)
def test_tables_of_which_no_change_would_come_are_refused(dsn, slot, table, reason):
    """Kind: a name that is spelt otherwise, or whose rows lie elsewhere, gave nothing for ever and no word."""
    execute(dsn, "create table parts (id int) partition by range (id)")
    with pytest.raises(SourceError, match=reason):
        opened(PostgresChanges(dsn, slot, tables=["public.things", table]))


def test_a_position_resumes_exactly(dsn, slot):
    """Kind: within a transaction, between two, and after those of other tables; not by what the server keeps."""
    execute(dsn, "create table others (id int)")
    source = PostgresChanges(dsn, slot, tables=["public.things"])
    reader = opened(source)
    positions = [reader.position()]
    for first in range(0, 12, 4):
        execute(
            dsn,
            f"insert into things select n, '' from generate_series({first}, {first + 3}) n",
            "insert into others values (1)",
        )
    found = []
    while len(found) < 12:
        found += reader.read(1).records
        positions.append(reader.position())
    reader.close()
    distinct = {json.dumps(position): position for position in positions}.values()
    assert len(distinct) > 10
    begun = set()
    for position in distinct:
        reader = opened(source, position)
        rest = read(reader, 1) if len(begun) < 12 else []
        reader.close()
        if rest:
            assert rest == found[12 - len(found) + found.index(rest[0]) :][: len(rest)]
            begun.add(rest[0]["row"]["id"])
        if len(begun) == 12:
            break
    assert begun == set(range(12))


@no_survivors()
def test_each_change_comes_once_through_kills_of_job_and_server(dsn, slot, postgres, tmp_path):
    """Kind: killed within a transaction, before and after the server was told; connections lost in the stream."""
    moments = random.Random(5)
    stop = threading.Event()
    written = []

    def write():
        number = 0
        while not stop.is_set() or number < 300:
            try:
                with psycopg.connect(dsn) as session:
                    for _ in range(20):
                        count = moments.randrange(1, 9)
                        session.execute(
                            "insert into things select n, '' from generate_series(%s::int, %s) n",
                            (number, number + count - 1),
                        )
                        session.commit()
                        written.extend(range(number, number + count))
                        number += count
                        time.sleep(0.002)
            except psycopg.OperationalError:
                # What was committed is asked of the table.
                number += 10
                time.sleep(0.05)

    def run(until="end"):
        flow = of.Dataflow("changes")
        flow.source("changes", PostgresChanges(dsn, slot)).map(lambda change: {"id": change["row"]["id"]}).sink(
            "out", JsonLinesSink(tmp_path / "out")
        )
        of.run(flow, tmp_path / "state", checkpoint_interval_s=0.01, until=until)

    # The slot is made by the first life, before anything is written.
    life = Life(lambda: run("caught_up"))
    assert life.wait() == "done", life.error
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(5):
            life = Life(run)
            assert life.step(moments.uniform(0.3, 0.8)) is None, life.error
            if turn == 2:
                postgres.kill()
                postgres.start()
                assert life.step(0.5) is None, life.error
            assert life.kill() == "killed"
    finally:
        stop.set()
        writer.join()
    life = Life(lambda: run("caught_up"))
    assert life.wait() == "done", life.error
    with psycopg.connect(dsn) as session:
        there = [number for (number,) in session.execute("select id from things order by id")]
    assert len(there) >= 100
    found = [json.loads(line)["id"] for line in read_parts(tmp_path / "out").decode().splitlines()]
    assert found == there


def test_no_change_is_lost_with_its_connection(dsn, slot):
    """Kind: what was read before an error is dropped with the attempt, and the position stays behind it: a batch was
    lost each time that a connection ended."""
    reader = opened(PostgresChanges(dsn, slot))
    ended = 0
    try:
        for first in range(0, 900, 9):
            execute(dsn, f"insert into things select n, '' from generate_series({first}, {first + 8}) n")
        found = read(reader, 1)
        with psycopg.connect(dsn, autocommit=True) as session:
            for after in range(100, 900, 100):
                found += read(reader, after - len(found))
                # The reader has more in its buffer, and then finds the end of the connection.
                ended += session.execute(
                    "select count(pg_terminate_backend(active_pid)) from pg_replication_slots where slot_name = %s "
                    "and active_pid is not null",
                    (slot,),
                ).fetchone()[0]
        found += read(reader, 900 - len(found))
    finally:
        reader.close()
    assert [change["row"]["id"] for change in found] == list(range(900))
    assert ended


def reads(reader, seconds):
    """All that comes within that time."""
    found, until_s = [], time.monotonic() + seconds
    while time.monotonic() < until_s:
        found += reader.read(10).records
        time.sleep(0.005)
    return found


def test_a_stream_that_is_silent_is_told(monkeypatch, dsn, slot, postgres):
    """Kind: a server that stands still is taken for one without changes, or a quiet one for one that stands still."""
    monkeypatch.setattr(changes, "_FEEDBACK_S", 1.0)
    monkeypatch.setattr(changes, "_SILENT_S", 2.5)
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.1)
    with closing(opened(PostgresChanges(dsn, slot))) as reader:
        # Quiet for longer than would be told, and then begun anew.
        reader.read(1)
        stream = reader._stream
        assert reads(reader, 6) == [] and reader._stream is stream
        with pytest.warns(SourceWaitingWarning) as told:
            with standing_still(postgres):
                assert reads(reader, 3.5) == [] and reader._stream is stream
            execute(dsn, "insert into things values (1, '')")
            assert [change["row"]["id"] for change in read(reader, 1)] == [1]
    said(told, "source 'job/changes'")
    assert "its stream brings nothing" in str(told[0].message)


def test_a_stream_that_stays_silent_is_begun_anew(monkeypatch, dsn, slot, postgres):
    """Kind: a connection that a network has forgotten: what is written meanwhile never comes, though the server is back
    long since. Nothing comes twice."""
    monkeypatch.setattr(changes, "_FEEDBACK_S", 1.0)
    monkeypatch.setattr(changes, "_SILENT_S", 1.5)
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.1)
    with Proxy(messages=False) as proxy:
        proxy.target = int(psycopg.conninfo.conninfo_to_dict(dsn)["port"])
        through = psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=proxy.port)
        with closing(opened(PostgresChanges(through, slot))) as reader:
            reader.read(1)
            execute(dsn, "insert into things values (1, '')")
            assert [change["row"]["id"] for change in read(reader, 1)] == [1]
            stream = reader._stream
            proxy.hold()
            execute(dsn, "insert into things values (2, '')")
            threading.Timer(5, proxy.heal).start()
            with pytest.warns(SourceWaitingWarning) as told:
                assert [change["row"]["id"] for change in read(reader, 1)] == [2]
            assert reader._stream is not stream and reads(reader, 0.5) == []
    said(told, "source 'job/changes'")


def test_words_of_others_in_the_log_are_no_changes(dsn, slot):
    """Kind: a line of a form that nobody thought of stops the job for ever."""
    reader = opened(PostgresChanges(dsn, slot))
    try:
        execute(dsn, "insert into things values (1, '')", "select pg_logical_emit_message(true, 'theirs', 'words')")
        execute(dsn, "select pg_logical_emit_message(false, 'theirs', 'words')", "insert into things values (2, '')")
        found = read(reader, 2)
    finally:
        reader.close()
    assert [change["row"]["id"] for change in found] == [1, 2]


def test_the_server_is_told_when_a_checkpoint_is_complete(dsn, slot):
    """Kind: told before, the server forgets changes that a resumed job asks for; never told, its disk fills."""
    source = PostgresChanges(dsn, slot)
    reader = opened(source)
    begun = reader.position()
    execute(dsn, "insert into things values (1, '')", "insert into things values (2, '')")
    read(reader, 2)
    while reader.position()["taken"]:
        reader.read(1)
    confirmed = f"select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = '{slot}'"
    with psycopg.connect(dsn, autocommit=True) as session:
        assert session.execute(confirmed).fetchone() == (begun["lsn"],)
        source.on_checkpoint_complete(1, {"0": reader.position()}, SourceContext("job", "changes"))
        while session.execute(confirmed).fetchone() != (reader.position()["lsn"] - 1,):
            reader.read(1)
    reader.close()
    with pytest.raises(SourceChangedError, match=r"was told up to .* what lies between is lost"):
        opened(source, begun)


def test_a_quiet_stream_leaves_the_slot_where_the_checkpoint_is(dsn, slot):
    """Kind: a client that knows better: it told the server of a place beyond the state while nothing was written, and
    the job was refused ever after."""
    source = PostgresChanges(dsn, slot)
    for _ in range(3):
        begun = opened(source).position()
        reader = opened(source, begun, until="caught_up")
        execute(dsn, "checkpoint")
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s and reader.read(10) is not None:
            time.sleep(0.01)
        source.on_checkpoint_complete(1, {"0": reader.position()}, SourceContext("job", "changes"))
        reader.close()
        opened(source, begun).close()


def test_a_slot_that_was_lost_or_is_another_ones_is_refused(dsn, slot):
    """Kind: a job that goes on from wherever the slot is now, behind changes that nobody has read."""
    source = PostgresChanges(dsn, slot)
    reader = opened(source)
    position = reader.position()
    reader.close()
    with pytest.raises(SourceChangedError, match="of another server"):
        opened(source, {**position, "system": "7"})
    execute(dsn, f"select pg_drop_replication_slot('{slot}')")
    with pytest.raises(SourceChangedError, match="there is no slot"):
        opened(source, position)
    execute(dsn, "insert into things values (1, '')")
    execute(dsn, f"select pg_create_logical_replication_slot('{slot}', 'test_decoding')")
    with pytest.raises(SourceChangedError, match="was made anew"):
        opened(source, position)
    execute(dsn, f"select pg_drop_replication_slot('{slot}')")
    execute(dsn, f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    with pytest.raises(SourceError, match="is decoded by pgoutput"):
        opened(source)


@pytest.mark.parametrize(
    "settings", [{"slot": "Big"}, {"slot": ""}, {"tables": "public.a"}, {"tables": ["a"]}, {"dsn": 5}]
)
def test_settings_that_cannot_be_are_refused(settings):
    """Kind: a mistake that is found at the first change, or never."""
    with pytest.raises(ConfigurationError, match="PostgresChanges: "):
        PostgresChanges(**{"dsn": "", "slot": "a", **settings})


@pytest.mark.parametrize("bad", [-1, float("nan"), "5", True])
def test_a_time_that_is_none_is_refused(bad):
    """Kind: a mistake that is found when the connection is lost for the first time."""
    with pytest.raises(ConfigurationError, match=r"PostgresChanges: retry_for_s is .*give seconds, 0 or more"):
        PostgresChanges("", "slot", retry_for_s=bad)


def test_numbers_in_json_are_not_rounded():
    """Kind: an amount in JSON that has become another one."""
    (change,) = changes_of("table public.t: INSERT: j[jsonb]:'[12345678901234567890.15, 0.1]'")
    assert change["row"] == {"j": [Decimal("12345678901234567890.15"), 0.1]}


def test_a_server_that_is_away_is_told(monkeypatch, dsn, slot, postgres):
    """Kind: a job that stands still without a word."""
    reader = opened(PostgresChanges(dsn, slot))
    try:
        assert reader.read(1).records == []

        def work():
            # What the server has sent before its end comes first, and its end is noticed when it is asked again.
            for _ in range(20):
                reader.read(1)
                time.sleep(0.05)

        check_tells(monkeypatch, postgres, "source 'job/changes'", work, SourceWaitingWarning)
    finally:
        reader.close()
