"""The commands of ``onceflow log``, as a shell uses them."""

from __future__ import annotations

import json
import signal
import time

import pytest

import onceflow as of
from onceflow.connectors.log import LogSink, LogSource
from onceflow.log import Consumer, Log, Producer


@pytest.fixture
def payments(tmp_path):
    """A log with the topic ``payments`` of two partitions."""
    with Log.open(tmp_path / "events") as log:
        log.create_topic("payments", partitions=2)


def produced(onceflow, text, *options):
    return onceflow("log", "produce", "events", "payments", *options, input=text, stdin=None)


def test_create_and_topics(onceflow, payments, tmp_path):
    assert onceflow("log", "create", "events", "other").returncode == 0
    done = onceflow("log", "create", "events", "small", "--retention", "2m", "--retention-bytes", "1000", "--compact")
    assert done.returncode == 0, done.stderr
    listed = onceflow("log", "topics", "events").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["topic", "other", "payments", "small"]
    assert "2 min 0 s" in listed[3]
    other, payments, small = json.loads(onceflow("log", "topics", "events", "--json").stdout)
    assert (other["partitions"], other["retention_ms"]) == (1, None)
    assert (payments["partitions"], payments["records"]) == (2, 0)
    assert (small["retention_ms"], small["retention_bytes"], small["cleanup_policy"]) == (120_000, 1000, "compact")


def test_lines_come_back(onceflow, payments):
    assert produced(onceflow, "one\ntwo\n\nlast").stderr.strip().endswith("payments: 4 records")
    assert sorted(onceflow("log", "tail", "events", "payments").stdout.split("\n")) == ["", "", "last", "one", "two"]


def test_keys(onceflow, payments):
    assert produced(onceflow, "a=1\nb=2\na=x=y\n", "--key-separator", "=").returncode == 0
    lines = onceflow("log", "tail", "events", "payments", "--from-beginning", "--format", "jsonl").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert sorted((record["key"], record["value"]) for record in records) == [("a", "1"), ("a", "x=y"), ("b", "2")]


def test_json_goes_around(onceflow, payments):
    first = [
        {"key": "k", "value": "text", "partition": 1, "timestamp_ms": 5, "headers": {"h": "1", "n": None}},
        {"key": None, "value": {"amount": 3}, "partition": 1},
        {"key_base64": "/w==", "value_base64": "/w==", "partition": 1},
    ]
    text = "".join(json.dumps(record) + "\n" for record in first)
    assert produced(onceflow, text, "--format", "jsonl").returncode == 0
    tail = ("log", "tail", "events", "payments", "--format", "jsonl", "--partition", "1", "--lines", "3")
    copied = onceflow(*tail).stdout
    assert produced(onceflow, copied, "--format", "jsonl").returncode == 0
    records = [json.loads(line) for line in copied.splitlines()]
    again = [json.loads(line) for line in onceflow(*tail).stdout.splitlines()]
    assert [{**record, "offset": record["offset"] + 3} for record in records] == again
    assert records[0]["headers"] == {"h": "1", "n": None}
    assert records[0]["timestamp_ms"] == 5
    assert json.loads(records[1]["value"]) == {"amount": 3}
    assert records[2]["value_base64"] == "/w=="


@pytest.mark.parametrize("line", ["{", '{"velue": 1}', '{"value_base64": "?"}', '{"partition": "x"}'])
def test_a_bad_line_is_named_and_a_transaction_leaves_nothing(onceflow, payments, line):
    done = produced(onceflow, f'{{"value": "good"}}\n{line}\n', "--format", "jsonl", "--transactional-id", "load")
    assert done.returncode == 1
    assert "line 2" in done.stderr
    assert onceflow("log", "tail", "events", "payments").stdout == ""


def test_a_transaction_of_all_lines(onceflow, payments):
    assert produced(onceflow, "a\nb\n", "--transactional-id", "load").returncode == 0
    (info,) = json.loads(onceflow("log", "transactions", "events", "--json").stdout)
    assert (info["transactional_id"], info["last_outcome"], info["started_ms"]) == ("load", "committed", None)
    assert "committed" in onceflow("log", "transactions", "events").stdout
    assert len(onceflow("log", "tail", "events", "payments").stdout.split()) == 2


def test_the_last_lines(onceflow, payments):
    text = "".join(f'{{"value": "{number}", "partition": 0}}\n' for number in range(20))
    produced(onceflow, text, "--format", "jsonl")
    assert onceflow("log", "tail", "events", "payments").stdout.split() == [str(number) for number in range(10, 20)]
    assert onceflow("log", "tail", "events", "payments", "-n", "2").stdout.split() == ["18", "19"]
    assert len(onceflow("log", "tail", "events", "payments", "--from-beginning").stdout.split()) == 20


def test_a_group_reads_on_where_it_was(onceflow, payments):
    tail = ("log", "tail", "events", "payments", "--group", "readers")
    produced(onceflow, "a\nb\n")
    assert sorted(onceflow(*tail).stdout.split()) == ["a", "b"]
    produced(onceflow, "c\n")
    rows = json.loads(onceflow("log", "groups", "events", "--json").stdout)
    assert sum(row["lag"] for row in rows) == 1
    assert onceflow(*tail).stdout.split() == ["c"]
    listed = onceflow("log", "groups", "events").stdout.splitlines()
    assert listed[1].split()[:2] == ["readers", "payments"]


def test_members_are_shown(onceflow, payments, tmp_path):
    with Log.open(tmp_path / "events") as log, Consumer(log, "g") as consumer:
        consumer.subscribe(["payments"])
        consumer.poll(0)
        rows = json.loads(onceflow("log", "groups", "events", "--json").stdout)
        assert [row["partition"] for row in rows] == [0, 1]
        assert len({row["member"] for row in rows}) == 1


def test_follow(start, onceflow, payments, tmp_path):
    program = start("log", "tail", "events", "payments", "--follow", "--from-beginning")
    with Log.open(tmp_path / "events") as log, Producer(log) as producer:
        for number in range(3):
            time.sleep(0.05)
            producer.produce_many("payments", [f"{number}"])
            assert program.stdout.readline() == f"{number}\n"
    program.send_signal(signal.SIGINT)
    assert program.wait(30) == 130


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("topics", "nowhere"), 3),
        (("tail", "events", "nothing"), 2),
        (("produce", "events", "nothing"), 2),
        (("create", "events", "payments"), 2),
        (("create", "events", "a b"), 2),
        (("create", "events", "x", "--retention", "soon"), 2),
        (("tail", "events", "payments", "--partition", "7"), 2),
        (("tail", "events", "payments", "--group", "g", "--from-beginning"), 2),
        (("produce", "events", "payments", "--key-separator", ""), 2),
    ],
)
def test_what_cannot_be(onceflow, payments, arguments, code):
    done = onceflow("log", *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_yet(onceflow, tmp_path):
    Log.open(tmp_path / "events").close()
    for command in ("topics", "groups", "transactions"):
        done = onceflow("log", command, "events")
        assert (done.returncode, done.stdout) == (0, "")
        assert "has no" in done.stderr


def test_a_round_trip_is_exact(onceflow, payments, tmp_path):
    """``tail --format jsonl | produce`` collapsed repeated headers, changed bytes that are not UTF-8, and took the
    timestamp 0 for now."""
    with Log.open(tmp_path / "events") as log, Producer(log) as producer:
        log.create_topic("copy", partitions=2)
        given = [
            {"value": b"\xff\x00", "key": b"\xfe", "headers": [("h", b"\xff"), ("h", b"1"), ("h", None), ("", b"")]},
            {"value": None, "key": b"", "timestamp": 0},
            {"value": b"", "key": None, "timestamp": -1, "headers": [("a", b"\xc3\xa9"), ("b", None)]},
            {"value": "é\n\r\x00\u2028".encode(), "partition": 1, "timestamp": 253_402_300_799_999},
            {"value": b"null", "key": b"null", "headers": {"base64": b"x"}},
            {"value": b'{"value": 1}', "key": b"5", "headers": [("x", b"{}")] * 3},
        ]
        for record in given:
            producer.produce("payments", **{"partition": 0, **record})
    text = onceflow("log", "tail", "events", "payments", "--format", "jsonl", "--from-beginning").stdout
    done = onceflow("log", "produce", "events", "copy", "--format", "jsonl", input=text, stdin=None)
    assert done.returncode == 0, done.stderr
    with Log.open(tmp_path / "events") as log:
        for partition in (0, 1):
            first, second = (log.native.fetch(topic, partition, 0) for topic in ("payments", "copy"))
            assert (first.keys, first.values, first.headers) == (second.keys, second.values, second.headers)
            assert first.timestamps.tolist() == second.timestamps.tolist()
            assert len(first) == (5, 1)[partition]


def test_sinks_are_no_groups_and_jobs_have_a_lag(onceflow, payments, tmp_path):
    """``log groups`` showed the sinks' own markers as groups that lag, and a job's real lag nowhere."""
    produced(onceflow, "a\nb\nc\n")
    directory, state = tmp_path / "events", tmp_path / "state"
    flow = of.Dataflow("copy")
    flow.source("in", LogSource(directory, "payments")).sink("out", LogSink(directory, "copied", partitions=1))
    of.run(flow, state)
    produced(onceflow, "d\ne\n")
    listed = onceflow("log", "groups", "events")
    assert "has no consumer groups" in listed.stderr
    assert "log groups events --state STATE" in listed.stderr
    assert [line.split()[:3] for line in listed.stdout.splitlines()[1:]] == [["copy", "out", "copied"]]
    (row,) = json.loads(onceflow("log", "groups", "events", "--json").stdout)
    assert (row["kind"], row["job"], row["sink"], row["topic"], row["lag"]) == ("sink", "copy", "out", "copied", None)
    # The advice.
    rows = json.loads(onceflow("log", "groups", "events", "--state", "state", "--json").stdout)
    jobs = [row for row in rows if row["kind"] == "job"]
    assert [(row["group"], row["topic"]) for row in jobs] == [("job copy, source in", "payments")] * 2
    assert sorted(row["lag"] for row in jobs) == [0, 2] or sum(row["lag"] for row in jobs) == 2
    assert "job copy, source in" in onceflow("log", "groups", "events", "--state", "state").stdout
