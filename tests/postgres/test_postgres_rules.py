"""What real databases do to an exactly-once sink, and what the sink does then; named after the situations P1 to P12."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from services.postgres import PostgresServer
from writing import commit, context, opened, prepared, rows, write

from onceflow.connectors.postgres import PostgresSink
from onceflow.exceptions import SinkError

A = {"id": 1, "text": "a"}
B = {"id": 2, "text": "b"}


def execute(dsn, *statements):
    with psycopg.connect(dsn, autocommit=True) as session:
        for statement in statements:
            session.execute(statement)


@pytest.fixture
def dsn(postgres_dsn):
    """A database with a table to append to and one with a key."""
    execute(
        postgres_dsn,
        "create table appended (id int, text text)",
        "create table keyed (id int primary key, text text)",
    )
    return postgres_dsn


def refused(match, sink, *args):
    """The sink does not open; why."""
    with pytest.raises(SinkError, match=match) as told, opened(sink, *args):
        pass
    return str(told.value)


def keyed(dsn, **settings):
    return PostgresSink(dsn, "keyed", mode="upsert", key="id", **settings)


@pytest.mark.parametrize("other", ["job", "job@0of3"])
def test_runs_that_divide_a_job_otherwise_are_refused_before_any_has_written(dsn, other):
    """Kind: markers that only output leaves: runs that wait for input see nothing of one another, and all write."""
    sink = PostgresSink(dsn, "appended")
    with opened(sink, job="job@0of2"), pytest.raises(SinkError, match="is written by instance 0/2 of job 'job'"):
        sink.open(context(job=other))
    with opened(sink, job="job@1of2") as second:
        commit(second, 1, [A])
    assert rows(dsn, "select * from appended") == [(1, "a")]


# -- P1: the server goes back ------------------------------------------------------------------------


def test_p1_a_database_that_was_put_back_is_refused(dsn):
    """Kind: data and marker are older than the job's state, as after a failover to a replica that was behind."""
    sink = PostgresSink(dsn, "appended")
    with opened(sink) as writer:
        commit(writer, 1, [A])
        with psycopg.connect(dsn) as session:
            backup = session.execute("select * from onceflow_markers").fetchall()
        state = commit(writer, 2, [B])
    execute(dsn, "delete from appended where id = 2", "delete from onceflow_markers")
    with psycopg.connect(dsn) as session:
        session.cursor().executemany("insert into onceflow_markers values (%s, %s, %s)", backup)
    for epoch in range(2, 5):
        refused(r"had the output of checkpoint 2 .* has it up to 1 now: the database is older", sink, epoch, 2, state)
    assert rows(dsn, "select * from appended") == [(1, "a")]


def test_p1_a_database_that_was_put_back_while_the_job_runs_is_refused(dsn):
    """Kind: a failover that the job does not see but by a new connection."""
    with opened(PostgresSink(dsn, "appended")) as writer:
        commit(writer, 1, [A])
        text = rows(dsn, "select text from onceflow_markers where key = 'worker-0'")[0][0]
        commit(writer, 2, [B])
        committable, _ = prepared(writer, 3, [A])
        with psycopg.connect(dsn) as session:
            session.execute("update onceflow_markers set text = %s where key = 'worker-0'", (text,))
        with pytest.raises(SinkError, match=r"has it up to 1 now"):
            writer.commit(committable)
    assert len(rows(dsn, "select * from appended")) == 2


def test_p1_a_state_that_was_put_back_is_refused(dsn):
    """Kind: the job's state is a copy that does not know what was written since: at each attempt."""
    sink = PostgresSink(dsn, "appended")
    with opened(sink) as writer:
        state = commit(writer, 1, [A])
        commit(writer, 2, [B])
    for epoch in (1, 2, 3):
        refused(r"the newest one of this run's state is 1: the state is older", sink, epoch, 1, state)


def test_p1_a_primary_that_was_replaced_is_refused_when_it_comes_back():
    """Kind: after a promotion the old primary takes writes again, and whatever comes there is lost."""
    with PostgresServer(settings={"fsync": "off", "restore_command": "false"}) as server:
        execute(server.dsn, "create table appended (id int, text text)")
        sink = PostgresSink(server.dsn, "appended")
        data = server.log.parent / "data"
        old, new = data.with_name("old"), data.with_name("new")
        server.kill()
        subprocess.run(["cp", "-a", data, old], check=True)
        # Recovery from an archive ends in a timeline of its own, as a promotion does. With the owner of a file there.
        subprocess.run(["cp", "-a", data / "PG_VERSION", data / "recovery.signal"], check=True)
        server.start()
        state = write(sink, [A])
        server.kill()
        data.rename(new)
        old.rename(data)
        server.start()
        refused(r"is on timeline 1, and the output went on in timeline 2", sink, 2, 1, state)
        assert rows(server.dsn, "select * from appended") == []


# -- P2 and P3: commits ------------------------------------------------------------------------------


def test_p2_a_commit_is_durable_whatever_the_role_is_set_to(dsn):
    """Kind: with synchronous_commit = off the server forgets what it has answered."""
    execute(
        dsn,
        "create function note() returns trigger language plpgsql as $$ begin "
        "new.text = current_setting('synchronous_commit'); return new; end $$",
        "create trigger note before insert on appended for each row execute function note()",
        "do $$ begin execute format('alter database %I set synchronous_commit = off', current_database()); end $$",
    )
    write(PostgresSink(dsn, "appended"), [A])
    assert rows(dsn, "select text from appended") == [("on",)]
    assert rows(dsn, "show synchronous_commit") == [("off",)]


@contextmanager
def cut_at_commit(dsn: str, *, before: bool) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that cuts the connection at the third COMMIT: before the server has it, or instead of its answer."""
    address = ("127.0.0.1", psycopg.conninfo.conninfo_to_dict(dsn)["port"])
    commits: list[bytes] = []

    def to_server(client, server, cut):
        while data := client.recv(1 << 16):
            if b"commit\0" in data:
                commits.append(data)
                if len(commits) == 3:
                    cut.set()
                    if not before:
                        server.sendall(data)
                        # Its answer is read here, and thrown away there.
                        time.sleep(0.2)
                    break
            server.sendall(data)
        client.shutdown(socket.SHUT_RDWR)
        server.shutdown(socket.SHUT_RDWR)

    def to_client(client, server, cut):
        with client, server:
            while data := server.recv(1 << 16):
                if not cut.is_set():
                    client.sendall(data)

    def run_until_cut(way, *arguments):
        with contextlib.suppress(OSError):
            way(*arguments)

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            arguments = (client, socket.create_connection(address), threading.Event())
            for way in (to_server, to_client):
                threading.Thread(target=run_until_cut, args=(way, *arguments), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield dsn.replace(f":{address[1]}/", f":{listener.getsockname()[1]}/"), commits
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("before", [True, False])
def test_p3_a_commit_whose_end_is_not_known_is_done_once(dsn, before):
    """Kind: the connection is cut in COMMIT: was it, or was it not? The marker knows."""
    with cut_at_commit(dsn, before=before) as (through, commits), opened(PostgresSink(through, "appended")) as writer:
        # Before it come those that make the markers and take the fence.
        commit(writer, 1, [A])
        assert len(commits) == (4 if before else 3)
        commit(writer, 2, [B])
    assert rows(dsn, "select * from appended order by id") == [(1, "a"), (2, "b")]


# -- P4 and P5: keys ---------------------------------------------------------------------------------


def test_p4_a_deadlock_repeats_the_whole_transaction(dsn):
    """Kind: another program locks the same rows in the other order, and the server ends one of the two."""
    execute(dsn, "insert into keyed values (1, ''), (2, '')")
    with opened(keyed(dsn)) as writer, psycopg.connect(dsn) as other:
        committable, _ = prepared(writer, 1, [B, A])
        other.execute("set deadlock_timeout = '1min'")
        other.execute("update keyed set text = 'other' where id = 2")
        ours = threading.Thread(target=writer.commit, args=(committable,))
        ours.start()
        waiting = "select count(*) from pg_locks where not granted"
        while rows(dsn, waiting) == [(0,)]:
            time.sleep(0.01)
        # Ours has row 1, the first in order, and waits for row 2.
        other.execute("update keyed set text = 'other' where id = 1")
        other.commit()
        ours.join(30)
        assert not ours.is_alive()
    assert rows(dsn, "select * from keyed order by id") == [(1, "a"), (2, "b")]


def test_p5_the_last_record_of_a_key_wins(dsn):
    """Kind: a key twice in a checkpoint, which ON CONFLICT refuses; deleted and written again, and the other way."""
    sink = keyed(dsn, delete="gone")
    with opened(sink) as writer:
        writer.write([{**A, "gone": False}, {**B, "gone": False}, {**A, "text": "newer", "gone": False}])
        commit(writer, 1, [{"id": 3, "text": "c", "gone": False}, {"id": 2, "gone": True}])
        assert rows(dsn, "select * from keyed order by id") == [(1, "newer"), (3, "c")]
        commit(writer, 2, [{"id": 1, "gone": True}, {**A, "text": "back", "gone": False}, {"id": 9, "gone": True}])
        assert rows(dsn, "select * from keyed order by id") == [(1, "back"), (3, "c")]
        commit(writer, 3, [{"id": 1, "gone": True}, {"id": 3, "gone": True}])
    assert rows(dsn, "select * from keyed") == []
    # A table that the job itself has emptied was not truncated by somebody else.
    with opened(sink, 2, 3):
        pass


# -- P6 and P7: the catalogue ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("create unique index on one (id) where text <> ''", "has a predicate"),
        ("create unique index on one (id, lower(text))", "no unique key of 'id'"),
        ("alter table one add unique (id) deferrable", "is deferrable"),
        ("create index on one (id)", "it has none"),
        ("create unique index on one (id, text)", r"it has \('id', 'text'\)"),
    ],
    ids=["partial", "expression", "deferrable", "not unique", "of more columns"],
)
def test_p6_a_key_that_finds_no_row_is_refused(dsn, index, reason):
    """Kind: ON CONFLICT goes by unique indexes only, and fails after the decision."""
    execute(dsn, "create table one (id int, text text)", index)
    refused(reason, PostgresSink(dsn, "one", mode="upsert", key="id"))


def test_p6_a_partitioned_table_is_upserted_by_its_whole_key(dsn):
    """Kind: a key of a partitioned table holds the column that it is partitioned by."""
    execute(
        dsn,
        "create table parted (id int, day date, n int, primary key (id, day)) partition by range (day)",
        "create table parted_1 partition of parted for values from ('2024-01-01') to ('2025-01-01')",
    )
    with pytest.raises(SinkError, match=r"has \('day', 'id'\); a key of a partitioned table"):
        write(PostgresSink(dsn, "parted", mode="upsert", key="id"), [])
    day = dt.date(2024, 5, 6)
    sink = PostgresSink(dsn, "parted", mode="upsert", key=("id", "day"))
    with opened(sink) as writer:
        commit(writer, 1, [{"id": 1, "day": day, "n": 1}])
        commit(writer, 2, [{"id": 1, "day": day, "n": 2}])
    assert rows(dsn, "select id, n from parted") == [(1, 2)]


def test_p6_a_key_whose_values_have_several_forms_is_refused(dsn):
    """Kind: two texts that the server takes for equal are two keys here, and one row there."""
    execute(dsn, "create table one (id double precision primary key, text text)")
    with pytest.raises(SinkError, match="cannot be part of a key"):
        write(PostgresSink(dsn, "one", mode="upsert", key="id"), [])


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_p7_generated_and_identity_columns_are_left_out(dsn, mode):
    """Kind: COPY and INSERT refuse what the table fills in itself."""
    execute(
        dsn,
        "create table filled (nth bigint generated always as identity, id int unique, n int, "
        "twice int generated always as (n * 2) stored, at timestamptz default now())",
    )
    key = {"key": "id"} if mode == "upsert" else {}
    write(PostgresSink(dsn, "filled", mode=mode, **key), [{"id": 1, "n": 5}])
    assert rows(dsn, "select nth, id, n, twice, at is not null from filled") == [(1, 1, 5, 10, True)]


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_p7_an_identity_that_is_named_is_written(dsn, mode):
    """Kind: GENERATED ALWAYS takes a value only with OVERRIDING SYSTEM VALUE."""
    execute(dsn, "create table filled (id int generated always as identity primary key, n int)")
    key = {"key": "id"} if mode == "upsert" else {}
    write(PostgresSink(dsn, "filled", mode=mode, columns=["id", "n"], **key), [{"id": 7, "n": 1}])
    assert rows(dsn, "select * from filled") == [(7, 1)]
    execute(dsn, "create table twice (n int, m int generated always as (n) stored)")
    with pytest.raises(SinkError, match="is generated and cannot be written"):
        write(PostgresSink(dsn, "twice", columns=["n", "m"]), [])


# -- P10: rows that the table refuses -----------------------------------------------------------------


@pytest.fixture
def picky(dsn):
    """A database with a table that refuses some rows."""
    execute(
        dsn,
        "create table picky (id int check (id % 10 <> 3), text text) partition by range (id)",
        "create table picky_1 partition of picky for values from (0) to (100)",
    )
    return dsn


def test_p10_a_row_that_is_refused_stops_the_job_and_is_named(picky):
    """Kind: no partition, or a constraint: found after the decision, and nothing of the checkpoint may be lost."""
    sink = PostgresSink(picky, "picky")
    with opened(sink) as writer:
        committable, state = prepared(writer, 1, [{"id": n, "text": "x"} for n in (1, 2, 200, 4)])
        with pytest.raises(SinkError, match=r"does not take the record \{'id': '200', .*no partition"):
            writer.commit(committable)
        assert rows(picky, "select * from picky") == []
    execute(picky, "create table picky_2 partition of picky for values from (100) to (300)")
    with opened(sink, 2, 1, state, [committable]):
        assert rows(picky, "select id from picky order by id") == [(1,), (2,), (4,), (200,)]


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_p10_rows_that_are_refused_go_to_a_table_of_their_own_once(picky, mode):
    """Kind: one bad row of many must not keep the others, be lost, or be told twice."""
    execute(picky, "alter table picky add unique (id)")
    key = {"key": "id"} if mode == "upsert" else {}
    sink = PostgresSink(picky, "picky", mode=mode, rejected="refused", **key)
    with opened(sink) as writer:
        committable, state = prepared(writer, 1, [{"id": n, "text": "tab\t\\"} for n in (*range(50), 200)])
        writer.commit(committable)
        writer.commit(committable)
    with opened(sink, 2, 1, state, [committable]):
        pass
    assert len(rows(picky, "select id from picky")) == 45
    refused = rows(picky, "select checkpoint, code, record->>'id', record->>'text' from refused order by record->>'id'")
    assert refused == [(1, "23514", number, "tab\t\\") for number in ("13", "200", "23", "3", "33", "43")]


FAMILY = [(1, 4), (2, 99), (3, None), (4, 5), (5, None), (6, 7), (7, 8), (8, None), (9, 2)]


@pytest.mark.parametrize("rejected", ["refused", None])
def test_p10_a_row_that_refers_to_a_later_one_is_not_refused(dsn, rejected):
    """Kind: a valid row that is left out, or blamed, because halves are written one after the other."""
    execute(dsn, "create table family (id int primary key, parent int references family)")
    sink = PostgresSink(dsn, "family", rejected=rejected)
    with opened(sink) as writer:
        committable, _ = prepared(writer, 1, [{"id": number, "parent": parent} for number, parent in FAMILY])
        if rejected is None:
            with pytest.raises(SinkError, match=r"does not take the record \{'id': '2', 'parent': '99'\}"):
                writer.commit(committable)
            return
        writer.commit(committable)
    assert rows(dsn, "select * from family order by id") == [row for row in FAMILY if row[0] not in (2, 9)]
    assert rows(dsn, "select record->>'id' from refused order by 1") == [("2",), ("9",)]


RAISES = {
    "an exception": "raise exception 'too much of %', new.id",
    "a code of its own": "raise exception 'too much' using errcode = 'U0001'",
    "an assertion": "assert new.id <> 200, 'too much'",
}


GUARDS = {
    "deferred": "create constraint trigger guard after insert on keyed deferrable initially deferred",
    "before": "create trigger guard before insert on keyed",
}


@pytest.mark.parametrize("when", GUARDS)
@pytest.mark.parametrize("raises", RAISES)
def test_p10_what_a_trigger_raises_is_about_a_row(dsn, raises, when):
    """Kind: an error without a record's name, which stops a job for good though rejected= is set."""
    body = f"begin if new.id = 200 then {RAISES[raises]}; end if; return new; end"
    execute(
        dsn,
        f"create function refuse() returns trigger language plpgsql as $$ {body} $$",
        f"{GUARDS[when]} for each row execute function refuse()",
    )
    records = [{"id": n, "text": "x"} for n in (1, 2, 200, 4)]
    with opened(keyed(dsn)) as writer:
        committable, state = prepared(writer, 1, records)
        with pytest.raises(SinkError, match=r"does not take the record \{'id': '200', .* rejected=, and run the job"):
            writer.commit(committable)
    assert rows(dsn, "select * from keyed") == []
    with opened(keyed(dsn, rejected="refused"), 2, 1, state, [committable]) as writer:
        writer.commit(committable)
    assert rows(dsn, "select id from keyed order by id") == [(1,), (2,), (4,)]
    [(code, reason, number)] = rows(dsn, "select code, reason, record->>'id' from refused")
    assert code in ("P0001", "U0001", "P0004") and reason.startswith("too much") and number == "200"


def test_p10_a_trigger_that_asks_for_a_later_row(dsn):
    """Kind: a valid row that is left out, since a deferred trigger looks for another one of the same checkpoint."""
    execute(
        dsn,
        "create function refuse() returns trigger language plpgsql as $$ begin "
        "if not exists (select from keyed where text = new.id::text) and new.id % 2 = 0 then "
        "raise exception 'nobody follows %', new.id; end if; return null; end $$",
        f"{GUARDS['deferred']} for each row execute function refuse()",
    )
    pairs = [(2, "0"), (3, "2"), (4, "0"), (6, "0"), (7, "6")]
    with opened(keyed(dsn, rejected="refused")) as writer:
        commit(writer, 1, [{"id": number, "text": text} for number, text in pairs])
    assert rows(dsn, "select id from keyed order by id") == [(2,), (3,), (6,), (7,)]
    assert rows(dsn, "select record->>'id' from refused") == [("4",)]


def test_deletes_leave_rows_of_inheriting_tables(dsn):
    """Kind: rows of other tables that are deleted, since they have the same key."""
    execute(dsn, "create table heir () inherits (keyed)", "insert into heir values (1, 'theirs')")
    with opened(keyed(dsn, delete="gone")) as writer:
        commit(writer, 1, [{**A, "gone": False}])
        commit(writer, 2, [{**A, "gone": True}])
    assert rows(dsn, "select * from only keyed") == []
    assert rows(dsn, "select * from heir") == [(1, "theirs")]


def test_deletes_find_rows_of_partitions(dsn):
    """Kind: rows that were to be deleted and stay, since they lie in a partition."""
    execute(
        dsn,
        "create table parted (id int primary key, text text) partition by range (id)",
        "create table parted_1 partition of parted for values from (0) to (100)",
    )
    with opened(PostgresSink(dsn, "parted", mode="upsert", key="id", delete="gone")) as writer:
        commit(writer, 1, [{**A, "gone": False}, {**A, "id": 2, "gone": False}])
        commit(writer, 2, [{**A, "gone": True}])
    assert [id_ for (id_,) in rows(dsn, "select id from parted")] == [2]


# -- P11 and P12: poolers, limits, triggers, changes --------------------------------------------------


def test_p11_nothing_of_a_session_is_needed(dsn):
    """Kind: a pooler gives each transaction another session."""
    sessions = []

    def connect():
        sessions.append(psycopg.connect(dsn))
        return sessions[-1]

    with opened(PostgresSink(connect, "keyed", mode="upsert", key="id")) as writer:
        for checkpoint_id in range(1, 8):
            commit(writer, checkpoint_id, [{**A, "text": str(checkpoint_id)}])
            (left,) = (
                sessions[0]
                .execute(
                    "select (select count(*) from pg_prepared_statements) + (select count(*) from pg_class where "
                    "relpersistence = 't') + (select count(*) from pg_locks where locktype = 'advisory')"
                )
                .fetchone()
            )
            assert left == 0
            sessions[0].execute("discard all")
    assert rows(dsn, "select * from keyed") == [(1, "7")]
    assert len(sessions) == 1


def test_p12_limits_of_the_role_do_not_hold(dsn):
    """Kind: limits that are for people's queries stop large checkpoints for ever."""
    execute(
        dsn,
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return new; end $$",
        "create trigger slow before insert on appended for each row execute function slow()",
        "do $$ begin execute format('alter database %I set statement_timeout = 200', current_database()); "
        "execute format('alter database %I set default_transaction_read_only = on', current_database()); "
        "execute format('alter database %I set default_transaction_isolation = serializable', current_database()); "
        "execute format('alter database %I set intervalstyle = sql_standard', current_database()); end $$",
    )
    write(PostgresSink(f"{dsn}?target_session_attrs=any", "appended"), [A])
    assert rows(dsn, "select * from appended") == [(1, "a")]


@pytest.mark.parametrize("table", ["appended", "keyed"])
def test_p12_a_trigger_that_leaves_rows_out_is_noticed(dsn, table):
    """Kind: a trigger drops rows without a word."""
    execute(
        dsn,
        "create function drops() returns trigger language plpgsql as $$ begin "
        "return case when new.id <> 1 then new end; end $$",
        f"create trigger drops before insert on {table} for each row execute function drops()",
    )
    sink = keyed(dsn) if table == "keyed" else PostgresSink(dsn, table)
    with pytest.raises(SinkError, match="has taken 1 of 2 rows"):
        write(sink, [A, B])
    assert rows(dsn, f"select * from {table}") == []


def test_p12_a_deferred_constraint_is_found_with_its_row(dsn):
    """Kind: the commit fails, and nobody knows by which row."""
    execute(dsn, "alter table appended add foreign key (id) references keyed deferrable initially deferred")
    execute(dsn, "insert into keyed values (1, '')")
    with pytest.raises(SinkError, match=r"does not take the record \{'id': '2'"):
        write(PostgresSink(dsn, "appended"), [A, B])
    execute(dsn, "drop table onceflow_markers")
    write(PostgresSink(dsn, "appended", rejected="refused"), [A, B])
    assert rows(dsn, "select * from appended") == [(1, "a")]
    assert rows(dsn, "select record->>'id' from refused") == [("2",)]


def test_p12_row_security_is_refused(dsn):
    """Kind: rows that the user may not see are left out, or another one's are not found."""
    execute(
        dsn,
        "drop role if exists limited",
        "create role limited login",
        "grant all on schema public to limited",
        "grant all on appended to limited",
        "alter table appended enable row level security",
    )
    limited = dsn.replace("postgres@", "limited@")
    try:
        with pytest.raises(SinkError, match="row security of table"):
            write(PostgresSink(limited, "appended"), [A])
    finally:
        execute(dsn, "drop owned by limited", "drop role limited")


@pytest.mark.parametrize("change", ["alter id type bigint", "add needed int not null", "drop text"])
def test_p12_a_table_that_is_changed_between_crash_and_resend(dsn, change):
    """Kind: rows that were decided for other columns; they wait until the table is as it was."""
    sink = PostgresSink(dsn, "appended", columns=["id", "text"])
    with opened(sink) as writer:
        committable, state = prepared(writer, 1, [A])
    execute(dsn, f"alter table appended {change}")
    refused(r"was changed since|do not fit|has no column", sink, 2, 1, state, [committable])
    execute(dsn, "drop table appended", "create table appended (id int, text text)")
    with opened(sink, 3, 1, state, [committable]):
        pass
    assert rows(dsn, "select * from appended") == [(1, "a")]


@pytest.mark.parametrize("change", ["alter id type bigint", "add needed int not null", "drop text"])
def test_p12_a_table_that_is_changed_while_the_job_runs(dsn, change):
    """Kind: noticed before the decision, after which there would be no way back."""
    with opened(PostgresSink(dsn, "appended")) as writer:
        commit(writer, 1, [A])
        execute(dsn, "delete from appended", f"alter table appended {change}")
        with pytest.raises(SinkError, match="Nothing of this checkpoint was decided"):
            commit(writer, 2, [B])
    assert rows(dsn, "select count(*) from appended") == [(0,)]


def test_p12_a_table_that_was_dropped_or_truncated_is_refused(dsn):
    """Kind: the job would go on behind what is lost."""
    sink = PostgresSink(dsn, "appended")
    state = write(sink, [A])
    execute(dsn, "truncate appended")
    told = refused(r"it was truncated\. If it is meant to be so: delete from", sink, 2, 1, state)
    with opened(PostgresSink(dsn, "appended", may_be_emptied=True), 2, 1, state):
        pass
    # What the refusal advises.
    execute(dsn, told.partition("meant to be so: ")[2].partition(";")[0])
    with opened(sink, 3, 1, state) as writer:
        commit(writer, 2, [B])
    execute(dsn, "drop table appended")
    refused("there is no table appended", sink, 4, 2)
    execute(dsn, "create table appended (id int, text text)")
    refused("was dropped and made anew", sink, 4, 2)


def test_p12_a_table_that_is_gone_while_the_job_runs(dsn):
    """Kind: what was decided waits until the table is back."""
    sink = PostgresSink(dsn, "appended")
    with opened(sink) as writer:
        committable, state = prepared(writer, 1, [A])
        execute(dsn, "alter table appended rename to away")
        with pytest.raises(SinkError, match="a table is gone"):
            writer.commit(committable)
    execute(dsn, "alter table away rename to appended")
    with opened(sink, 2, 1, state, [committable]):
        pass
    assert rows(dsn, "select * from appended") == [(1, "a")]
