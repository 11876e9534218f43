"""What a request looks like, when it is sent again, and what is done about each answer."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial

import httpx
import numpy as np
import pytest
from waits import check_tells

from onceflow import Columns, Dataflow, run
from onceflow.checks import CheckContext
from onceflow.connectors.dead_letters import read_dead_letters
from onceflow.connectors.http import HttpSink
from onceflow.exceptions import (
    ConfigurationError,
    DeliveryGuaranteeError,
    RefusedRecordsWarning,
    RepeatedOutputWarning,
    SinkError,
)
from onceflow.sinks import OutputId, SinkContext
from onceflow.testing import TestingSource

FIRST = OutputId("run", 7, 0, 0)


def opened(url, **settings):
    context = SinkContext("job", "out", 1, 1, run="run")
    return HttpSink(url, **{"backoff_s": 0.01, "max_backoff_s": 0.05, "timeout_s": 20, **settings}).open(context)


def send(url, records, first=FIRST, **settings):
    writer = opened(url, **settings)
    try:
        writer.write_output(records, first)
        writer.flush()
    finally:
        writer.close()
    return writer


def test_a_request(server):
    """Kind: a header that no server understands, or a body that is not the record."""
    send(f"{server.url}?day=1", [{"id": 1, "name": "é"}], headers={"Authorization": "Bearer s3cret"})
    (request,) = server.requests()
    assert request.path == "/orders?day=1"
    assert request.body == '{"id":1,"name":"é"}'.encode()
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer s3cret"
    # A string of structured fields, as the draft of the header says.
    assert re.fullmatch(r'"[0-9a-f]{32}"', request.key)


def test_keys_are_of_the_output_and_not_of_the_attempt(server):
    """Kind: two records with one key, or a record with two of them."""
    records = [{"id": number} for number in range(40)]
    send(server.url, records)
    keys = {request.body: request.key for request in server.requests()}
    assert len(set(keys.values())) == 40
    # In other batches, by another process, with another number of requests at a time.
    send(server.url, records[:15], concurrency=1)
    send(server.url, Columns({"id": np.arange(15, 40)}), OutputId("run", 7, 0, 15), concurrency=20)
    assert {request.body: request.key for request in server.requests()} == keys
    assert len(server.effects()) == 40
    for other in (OutputId("ruin", 7, 0, 0), OutputId("run", 8, 0, 0), OutputId("run", 7, 1, 0)):
        send(server.url, records[:1], other)
    assert len({request.key for request in server.requests()}) == 43


def test_a_key_of_the_record(server):
    """Kind: characters that end the string of the header early."""
    send(server.url, [{"id": 'a"b\\c'}], idempotency_key="id")
    assert server.requests()[0].key == '"a\\"b\\\\c"'
    for bad in ("", "é", "a\nb", 7, None):
        with pytest.raises(SinkError, match="key"):
            send(server.url, [{"id": bad}], idempotency_key="id")
    assert len(server.requests()) == 1


def test_a_lost_answer(server):
    """Kind: a request that was done, and whose answer never came."""
    server.script({"cut": "after"}, {"cut": "before"}, {"cut": "after"})
    send(server.url, [{"id": 1}], concurrency=1)
    assert len(server.requests()) == 4
    assert len({request.key for request in server.requests()}) == 1
    assert server.effects() == [{"id": 1}]


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_statuses_that_pass(server, status):
    """Kind: a job that stops for what would have passed."""
    server.script({"status": status}, {"status": status})
    send(server.url, [{"id": 1}])
    assert len(server.requests()) == 3
    assert server.effects() == [{"id": 1}]


@pytest.mark.parametrize("by_date", [False, True])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(server, status, by_date):
    """Kind: a server that is asked again before it wants to be; also by a clock that is days off."""
    now = datetime.now(UTC) + timedelta(days=3)
    headers = {"Retry-After": "2"}
    if by_date:
        headers = {"Retry-After": format_datetime(now + timedelta(seconds=2), usegmt=True)}
    # The server's own Date is of its real clock, so a date that is days off is ignored unless it says so.
    if by_date:
        server.script({"status": status, "headers": headers, "date": format_datetime(now, usegmt=True)})
    else:
        server.script({"status": status, "headers": headers})
    began = time.monotonic()
    send(server.url, [{"id": 1}])
    assert 2 <= time.monotonic() - began < 60
    assert len(server.requests()) == 2


def test_a_wait_that_is_longer_than_the_deadline(server):
    """Kind: a job that hangs for a day without a word."""
    server.script(always={"status": 429, "headers": {"Retry-After": "86400"}})
    began = time.monotonic()
    with pytest.raises(SinkError, match=r"429.*deadline_s=30 leaves no time.*the same key"):
        send(server.url, [{"id": 1}], deadline_s=30)
    assert time.monotonic() - began < 20


def test_a_server_that_stays_away(server):
    """Kind: a job that tries for ever, or gives up without a reason."""
    server.kill()
    try:
        with pytest.raises(SinkError, match=r"POST http://127.0.0.1:\d+ has failed: ConnectError.*deadline_s=1 leaves"):
            send(server.url, [{"id": 1}], deadline_s=1)
    finally:
        server.start()


@pytest.mark.parametrize("always", [{"drip": True}, {"delay_s": 30}], ids=["drips", "is silent"])
def test_a_server_that_never_ends_its_answer(server, always):
    """Kind: each byte begins the time anew."""
    server.script(always=always)
    began = time.monotonic()
    with pytest.raises(SinkError, match=r"has not answered within timeout_s=0.3"):
        send(server.url, [{"id": 1}], timeout_s=0.3, deadline_s=1)
    assert time.monotonic() - began < 20


def test_refused_stops_the_job_unless_told_otherwise(server):
    """Kind: a record that is lost because nobody said what becomes of it."""
    server.script(always={"status": 422, "text": "no such customer"})
    with pytest.raises(SinkError, match=r"422.*no such customer.*on_refused='dead_letter'"):
        send(server.url, [{"id": 1}])


def test_refused_and_skipped(server):
    """Kind: records that are dropped without a word."""
    server.script(always={"status": 400, "but": ["1"]})
    with pytest.warns(RefusedRecordsWarning, match=r"the first: .*400"):
        writer = send(server.url, [0, 1, 2], on_refused="skip")
    assert writer.refused == 2
    assert server.effects() == [1]


def test_refused_and_put_aside(server, tmp_path):
    """Kind: a dead letter that is kept twice, lacks what it is about, or is sent all the same."""
    path = tmp_path / "refused #1%20.sqlite"
    server.script(always={"status": 400, "text": "no", "but": ["1"]})
    settings = {"on_refused": "dead_letter", "dead_letters": path}
    assert send(server.url, [0, 1, (2, b"x")], body=str, **settings).refused == 2
    letters = read_dead_letters(path)
    assert sorted(str(letter.record) for letter in letters) == ["(2, b'x')", "0"]
    assert {(letter.job, letter.sink) for letter in letters} == {("job", "out")}
    assert all("400" in letter.reason and letter.reason.endswith(": no") for letter in letters)
    # Again, as after a crash, and the server would take them now.
    server.script()
    assert send(server.url, [0, 1, (2, b"x")], body=str, **settings).refused == 0
    assert read_dead_letters(path) == letters
    assert server.effects() == [1]


def test_a_file_that_holds_something_else(server, tmp_path):
    """Kind: somebody's file that is written over, or touched before the refusal."""
    path = tmp_path / "mine.txt"
    path.write_text("something else " * 100)
    with pytest.raises(SinkError, match="dead letters cannot be kept"):
        opened(server.url, on_refused="dead_letter", dead_letters=path)
    assert path.read_text() == "something else " * 100
    with pytest.raises(SinkError, match="does not exist"):
        opened(server.url, on_refused="dead_letter", dead_letters=tmp_path / "none" / "x")
    opened(server.url, on_refused="dead_letter", dead_letters=tmp_path / "new").close()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("status", [301, 302, 401, 403, 404, 501])
def test_what_concerns_all_records_stops_the_job(server, tmp_path, status):
    """Kind: a token that has expired, and a whole stream among the dead letters."""
    server.script(always={"status": status, "headers": {"Location": "/other"}})
    with pytest.raises(SinkError, match=f"{status}.*the job stops"):
        send(server.url, [1], on_refused="dead_letter", dead_letters=tmp_path / "letters")
    assert len(server.requests()) == 1


def test_policies_by_status(server):
    """Kind: a policy that is not the one that was given."""
    server.script({"status": 404}, {"status": 500}, {"status": 418})
    send(server.url, [1], on_status={404: "retry", "5xx": "retry", 418: "ok"}, concurrency=1)
    assert len(server.requests()) == 3
    server.script({"status": 404})
    with pytest.warns(RefusedRecordsWarning):
        writer = send(lambda record: server.url, [1], on_refused="skip")
    assert writer.refused == 1
    server.script({"status": 503})
    with pytest.raises(SinkError, match="503"):
        send(server.url, [1], on_status={"5xx": "fail"})


def test_redirects(server):
    """Kind: a body that gets lost on the way, headers that go to a stranger."""
    server.script({"status": 307, "headers": {"Location": "/elsewhere"}})
    send(server.url, [{"id": 1}])
    first, second = server.requests()
    assert (second.path, second.key, second.body) == ("/elsewhere", first.key, first.body)
    server.script({"status": 308, "headers": {"Location": "http://127.0.0.2:9/secret-path"}})
    with pytest.raises(SinkError, match=r"sent on to http://127.0.0.2:9, which is not followed"):
        send(server.url, [{"id": 2}])
    server.script(always={"status": 307, "headers": {"Location": "/round"}})
    with pytest.raises(SinkError, match="more than 5 times"):
        send(server.url, [{"id": 3}])


def test_no_more_at_a_time_than_asked_for(server):
    """Kind: a server that is run over."""
    server.script(always={"delay_s": 0.05})
    send(server.url, list(range(40)), concurrency=5)
    assert 2 <= max(request.under_way for request in server.requests()) <= 5


def test_requests_of_a_key_keep_their_order(server):
    """Kind: the later state of a customer that is overtaken by the earlier one."""
    server.script(*[{"delay_s": 0.02 * (number % 3)} for number in range(60)])
    records = [{"user": number % 7, "nth": number} for number in range(60)]
    send(server.url, records, key="user", concurrency=6)
    found = server.effects()
    assert max(request.under_way for request in server.requests()) > 1
    for user in range(7):
        mine = [record for record in found if record["user"] == user]
        assert mine == [record for record in records if record["user"] == user]
    with pytest.raises(SinkError, match="give a text, a number or a tuple"):
        send(server.url, [{"user": []}, {"user": []}], key="user")


def test_where_one_fails_the_others_come_to_their_answers(server):
    """Kind: requests that are cut off and connections that are left; or a failure that waits for all others."""
    server.script({"delay_s": 0.3}, {"delay_s": 0.3}, {"status": 403}, always={"status": 503})
    began = time.monotonic()
    with pytest.raises(SinkError, match="403"):
        send(server.url, list(range(50)), concurrency=4, backoff_s=100, max_backoff_s=100)
    assert time.monotonic() - began < 30
    assert len(server.effects()) == 2
    assert len(server.requests()) < 10


def test_in_order_one_at_a_time(server):
    """Kind: an order that one request at a time should have."""
    send(server.url, list(range(30)), concurrency=1)
    assert server.effects() == list(range(30))


@pytest.mark.parametrize("bad", [float("nan"), object()], ids=["nan", "object"])
def test_values_that_json_does_not_hold(server, bad):
    """Kind: a value that is sent as another one."""
    with pytest.raises(SinkError, match="JSON cannot hold a record"):
        send(server.url, [{"value": bad}])
    assert not server.requests()


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_most_once"])
@pytest.mark.parametrize(
    ("bad", "settings"),
    [
        ({"id": 1, "v": float("nan")}, {}),
        ({"id": 1}, {"url": lambda record: f"{record['v']}"}),
        ({"id": 1, "v": "a\nb"}, {"headers": lambda record: {"X-V": record["v"]}}),
        ({"id": 1, "v": ["a"]}, {"key": "v"}),
    ],
    ids=["body", "url", "header", "key"],
)
def test_a_record_that_makes_no_request_is_found_before_the_decision(server, state, guarantee, bad, settings):
    """Kind: what cannot be sent is decided, and each further run stops there."""

    def job(records, **settings):
        flow = Dataflow("orders")
        flow.source("in", TestingSource(records)).sink("out", HttpSink(**{"url": server.url, **settings}))
        run(flow, state, guarantee=guarantee)

    with pytest.raises(SinkError):
        job([bad], **settings)
    assert not server.requests()
    job([{"id": 2}])
    assert server.effects() == [{"id": 2}]


def test_bodies_and_methods(server):
    """Kind: a body that is not what was given."""
    send(server.url, [1], method="DELETE", body=lambda record: None)
    settings = {"body": lambda record: b"\x00\xff", "headers": lambda record: {"X-Id": f"{record}"}}
    send(server.url, [2], OutputId("run", 8, 0, 0), method="PUT", **settings)
    third = OutputId("run", 9, 0, 0)
    send(lambda record: f"{server.url}/{record}", [3], third, body=lambda record: {"number": record})
    first, second, third = server.requests()
    assert (first.body, "content-type" in first.headers) == (b"", False)
    assert (second.body, second.headers["x-id"]) == (b"\x00\xff", "2")
    assert (third.path, third.body) == ("/orders/3", b'{"number":3}')


def test_a_client_of_ones_own(server):
    """Kind: settings of the user's that are passed over."""
    made = []

    def client():
        made.append(httpx.AsyncClient(auth=("user", "password"), trust_env=False))
        return made[0]

    send(server.url, [1], client=client)
    assert server.requests()[0].headers["authorization"].startswith("Basic ")
    assert made[0].is_closed


def test_a_certificate_that_nobody_knows(server):
    """Kind: TLS that is retried for minutes, or not checked."""
    with pytest.raises(SinkError, match="TLS refuses the server: it does not speak TLS"):
        send(server.url.replace("http:", "https:"), [1])
    assert not server.requests()


def test_secrets_are_in_no_message(server, tmp_path):
    """Kind: a token in a log."""
    secret = "s3cr3t-t0ken"
    url = server.url.replace("//", f"//user:{secret}@") + f"/{secret}?token={secret}"
    echo = f"you sent Bearer {secret} to /orders/{secret}?token={secret}"
    sink = HttpSink(url, headers={"X-Key": f"Bearer {secret}"})
    assert secret not in repr(sink) + str(sink.relies_on)
    for action in ({"status": 400, "text": echo}, {"status": 401, "text": echo}, {"status": 503, "text": echo}):
        server.script(always=action)
        with pytest.raises(SinkError) as raised:
            send(url, [1], headers={"X-Key": f"Bearer {secret}"}, deadline_s=0.1)
        assert secret not in str(raised.value)
    path = tmp_path / "letters"
    server.script(always={"status": 400, "text": echo})
    send(url, [1], headers={"X-Key": secret}, on_refused="dead_letter", dead_letters=path)
    assert secret.encode() not in path.read_bytes()
    server.kill()
    try:
        with pytest.raises(SinkError) as raised:
            send(url, [1], headers={"X-Key": secret}, deadline_s=0.1)
        assert secret not in str(raised.value)
        with pytest.raises(SinkError) as raised:
            send(url, [1], headers={"X-Key": f"{secret}\n"})
        assert secret not in str(raised.value)
    finally:
        server.start()
    server.script()
    with pytest.raises(SinkError) as raised:
        send(url, [1], headers={f"X {secret}": "value"})
    assert secret not in str(raised.value)
    for bad in (f"ftp://{secret}", secret, f"http:///{secret}"):
        with pytest.raises(ConfigurationError) as refused:
            HttpSink(bad)
        assert secret not in str(refused.value)
        with pytest.raises(SinkError) as raised:
            send(lambda record, bad=bad: bad, [1])
        assert secret not in str(raised.value)


def test_secrets_are_in_no_log(server, caplog):
    """Kind: a client that logs each URL, with the token in it."""
    caplog.set_level("DEBUG")
    url = server.url.replace("//", "//user:s3cr3t@") + "?token=t0ken"
    server.script({"status": 503, "headers": {"Set-Cookie": "c00kie=1"}})
    send(url, [1], headers={"X-Key": "k3y"})
    assert len(server.requests()) == 2
    for secret in ("s3cr3t", "t0ken", "k3y", "c00kie"):
        assert secret not in caplog.text
    # What a program of the user's asks for is the user's.
    httpx.post(url, content=b"1", trust_env=False)
    assert "t0ken" in caplog.text


def test_explained_and_checked(server):
    """Kind: a promise whose other half is not said, or said to hold where nobody listens."""
    flow = Dataflow("orders")
    flow.source("rows", TestingSource([1])).sink("out", HttpSink(server.url))
    text = flow.explain()
    assert "out: HttpSink is idempotent: its output is fixed by the decision" in text
    assert "note     out: the server must honour Idempotency-Key" in text
    assert "effectively_once would be cheaper" not in text
    assert "NOT effectively_once" in flow.explain("effectively_once")
    context = CheckContext("orders", "out")
    assert [finding.level for finding in HttpSink(server.url).check(context)] == ["ok", "warning"]
    assert not server.requests()
    server.kill()
    try:
        reached, _ = HttpSink(server.url).check(context)
        assert reached.level == "error"
        assert "cannot be reached" in reached.text
    finally:
        server.start()


def test_effectively_once_needs_a_key_of_the_record(server, tmp_path):
    """Kind: a repeat that nobody can recognise, and a guarantee that says there is none."""
    flow = Dataflow("orders")
    flow.source("rows", TestingSource([1])).sink("out", HttpSink(server.url))
    with pytest.raises(DeliveryGuaranteeError, match=r"identity of its output.*choose exactly_once, or give the sink"):
        run(flow, tmp_path / "state", guarantee="effectively_once")
    # What the message advises.
    other = Dataflow("orders")
    other.source("rows", TestingSource([{"id": "a"}, {"id": "a"}, {"id": "b"}])).sink(
        "out", HttpSink(server.url, idempotency_key="id", concurrency=1)
    )
    run(other, tmp_path / "state", guarantee="effectively_once")
    assert server.effects() == [{"id": "a"}, {"id": "b"}]
    assert run(flow, tmp_path / "other").refused == {}


def test_refused_records_are_counted(server, tmp_path):
    """Kind: a count that nobody sees."""
    server.script(always={"status": 400, "but": ["1"]})
    flow = Dataflow("orders")
    sink = HttpSink(server.url, on_refused="dead_letter", dead_letters=tmp_path / "letters")
    flow.source("rows", TestingSource([0, 1, 2])).sink("out", sink)
    assert run(flow, tmp_path / "state").refused == {"out": 2}


def test_going_back_on_purpose_is_told(server):
    """Kind: requests that are made twice without a word."""
    context = SinkContext("job", "out", 1, 2, restored_checkpoint=3, newest_left=5)
    with pytest.warns(RepeatedOutputWarning, match="had come to 5"):
        HttpSink(server.url).open(context)
    HttpSink(server.url, idempotency_key="id").open(context).close()


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "GET"},
        {"concurrency": 0},
        {"concurrency": True},
        {"max_waiting": 0},
        {"timeout_s": 0},
        {"deadline_s": float("inf")},
        {"on_status": {99: "ok"}},
        {"on_status": {404: "perhaps"}},
        {"on_refused": "dead_letter"},
        {"dead_letters": "x"},
        {"on_refused": "ignore"},
        {"key": 3},
        {"idempotency_key": 3},
        {"key_header": "a b"},
        {"body": "text"},
        {"client": 3},
    ],
    ids=lambda settings: "-".join(f"{name}" for name in settings),
)
def test_settings_that_cannot_be(settings):
    """Kind: a setting that is passed over."""
    with pytest.raises(ConfigurationError):
        HttpSink("http://127.0.0.1/", **settings)


def test_a_server_that_is_away_is_told(monkeypatch, server):
    """Kind: a job that stands still without a word."""
    writer = opened(f"{server.url}?token=s3cr3t", timeout_s=0.5)
    try:
        work = partial(writer.write_output, [{"id": 1}], FIRST)
        check_tells(monkeypatch, server, "sink 'job/out'", work)
    finally:
        writer.close()
