"""The identity of output that waits for the decision: one for each record, and the same whenever it is written."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import msgspec
import pytest
from lives import Life
from paced import Paced

from onceflow import Dataflow, Log, Producer
from onceflow.codec import MsgpackCodec
from onceflow.columns import rows_of
from onceflow.connectors.log import LogSource
from onceflow.exceptions import DeliveryGuaranteeError, SinkError
from onceflow.runtime.delivery import open_delivery
from onceflow.runtime.run import run
from onceflow.sinks import IdempotentSink, OutputId, SinkContext, SinkWriter
from onceflow.testing import IdempotentTestingSink, TestingSource
from onceflow.types import Guarantee

pytestmark = pytest.mark.usefixtures("crash_points")
ROWS = 60


class Told(IdempotentSink):
    """Writes down, a line a record, what it is told of its identity."""

    recognises = "outputs"

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, context):
        return _Writer(self.path)


class _Writer(SinkWriter):
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, records):
        raise AssertionError("a decision fixes output, and then it has an identity")

    def write_output(self, records, first):
        for nth, record in enumerate(rows_of(records)):
            one = [first.run, first.checkpoint, first.worker, first.number + nth]
            os.write(self._file, json.dumps([one, record]).encode() + b"\n")

    def flush(self):
        pass

    def close(self):
        os.close(self._file)


class Rows(Paced, TestingSource):
    """So that several checkpoints fall within a run, and a killed one leaves rows to the next."""

    batches = 2


def live(top, guarantee="exactly_once"):
    flow = Dataflow("told")
    rows = flow.source("rows", Rows([*range(ROWS)]))
    rows.map(lambda number: [number, random.random()]).sink("out", Told(top / "out"))
    run(flow, top / "state", guarantee=guarantee, batch_size=7, checkpoint_interval_s=1e-6)


def told(top):
    return [json.loads(line) for line in (top / "out").read_text().splitlines()]


@pytest.mark.parametrize("point", ["sink.mid_write:2", "decide.post_wait:2", "sink.pre_commit:3", "sink.post_commit:2"])
def test_a_record_has_one_identity_and_an_identity_one_record(tmp_path, point):
    """Kind: a repeat that looks new, or something new that looks like a repeat."""
    assert Life(lambda: live(tmp_path), CRASH_AT=point).wait() == "killed"
    life = Life(lambda: live(tmp_path))
    assert life.wait() == "done", life.error
    lines = told(tmp_path)
    assert len(lines) >= ROWS
    records = {tuple(one): record for one, record in lines}
    # A random number in each record tells when it was computed: what is sent again is what was decided.
    assert all(records[tuple(one)] == record for one, record in lines)
    assert sorted(number for number, _ in records.values()) == list(range(ROWS))
    assert len({run for run, *_ in records}) == 2


def test_a_state_that_was_put_back_gives_other_identities(tmp_path):
    """Kind: another record with the identity of one that the target has, which it then drops as a repeat."""
    for copy in ("one", "other"):
        (tmp_path / copy).mkdir()
        assert Life(lambda: live(tmp_path / copy)).wait() == "done"  # noqa: B023 - at once
    ones, others = told(tmp_path / "one"), told(tmp_path / "other")
    assert not {tuple(one) for one, _ in ones} & {tuple(one) for one, _ in others}


def test_at_most_once_has_identities_too(tmp_path):
    """Kind: records that share one."""
    live(tmp_path, guarantee="at_most_once")
    lines = told(tmp_path)
    assert len({tuple(one) for one, _ in lines}) == len(lines) == ROWS


def test_before_a_decision_there_is_none(tmp_path):
    """Kind: effectively_once by identities that a crash changes."""
    with pytest.raises(DeliveryGuaranteeError, match="which exactly_once alone fixes"):
        live(tmp_path, guarantee="effectively_once")
    assert not (tmp_path / "state").exists()


def test_output_that_an_earlier_version_has_decided(tmp_path):
    """Kind: an upgrade between a decision and its writes."""
    context = SinkContext("told", "out", 2, 1, run="now", worker=0)
    codec = MsgpackCodec()
    delivery = open_delivery(Told(tmp_path / "out"), context, Guarantee.EXACTLY_ONCE, codec, lambda: None)
    delivery.recover([(5, msgspec.msgpack.encode([codec.encode([1, 2]), codec.encode([3])]))])
    delivery.close()
    assert told(tmp_path) == [[["", 5, 0, nth], nth + 1] for nth in range(3)]


def test_a_writer_without_a_use_for_them_is_called_as_before():
    """Kind: users' sinks that are not called any more."""
    written = []

    class Plain(SinkWriter):
        def write(self, records):
            written.append(records)

        def flush(self):
            pass

    Plain().write_output([1], OutputId("", 1, 0, 0))
    assert written == [[1]]


def repeating(sink, log, **settings):
    flow = Dataflow("repeating")
    source = LogSource(log, "numbers", decode="json")
    flow.source("in", source).filter(lambda number: number > 0).sink("out", sink)
    return run(flow, log.parent / "state", guarantee="exactly_once", **settings)


def numbers(log, *some):
    with Log.open(log) as opened, Producer(opened) as producer:
        opened.create_topic("numbers", partitions=1, exist_ok=True)
        for number in some:
            producer.produce("numbers", str(number))


@pytest.mark.parametrize("until", ["end", "caught_up"])
def test_nothing_is_written_again_after_an_orderly_end(tmp_path, until):
    """Kind: a restart that sends thousands of requests which were answered long since, to a server that may know their
    keys no more."""
    log, sink = tmp_path / "log", IdempotentTestingSink(int)
    numbers(log, 1, 2, 3)
    for _ in range(3):
        repeating(sink, log, until=until)
        assert sink.writes == 3
    if until == "caught_up":
        numbers(log, 4)
        repeating(sink, log, until=until)
        assert sink.writes == 4


def test_what_a_later_decision_tells_is_not_written_again(tmp_path):
    """Kind: output of an older checkpoint, written again though the job has gone on since. After a savepoint, which is
    the newest checkpoint, nothing tells that it was written, so it is, once more and with the same identity."""
    log, sink = tmp_path / "log", IdempotentTestingSink(int)
    numbers(log, 1, 2, 3)
    repeating(sink, log, until="caught_up", savepoint="kept")
    assert sink.writes == 3
    numbers(log, -1)
    # Its checkpoint has no output.
    repeating(sink, log, until="caught_up")
    assert sink.writes == 6
    repeating(sink, log, until="caught_up")
    assert sink.writes == 6 and sink.records == {1: 1, 2: 2, 3: 3}


def test_what_may_be_unwritten_is_written_after_a_crash(tmp_path):
    """Kind: output that nobody has written, taken for written."""
    log, sink = tmp_path / "log", IdempotentTestingSink(int, fail={"flush": 1})
    numbers(log, 1, 2, 3)
    with pytest.raises(SinkError):
        repeating(sink, log, until="caught_up")
    repeating(sink, log, until="caught_up")
    assert sink.records == {1: 1, 2: 2, 3: 3} and sink.writes == 6
    repeating(sink, log, until="caught_up")
    assert sink.writes == 6
