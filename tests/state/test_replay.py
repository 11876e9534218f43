"""A replay after damage ends exactly where it must, and is done only where it is known to be right."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import disk
import pytest
from outbox_table import rows_sink, shown_rows

from onceflow import Dataflow, count, run
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.log import LogSource
from onceflow.embed import StateBackend
from onceflow.events import CheckpointCompleted, Progress
from onceflow.exceptions import DamagedCheckpointWarning, SinkError, SourceChangedError, SourceError, StoreCorruptError
from onceflow.graph.compatibility import why_not_repeatable
from onceflow.log import Log, Producer
from onceflow.operators import aggregating
from onceflow.runtime import held
from onceflow.sinks import IdempotentSink, SinkWriter
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink

HOUR = timedelta(hours=1)
SETTINGS = {"batch_size": 20, "checkpoint_interval_s": 1e9}


def known(state, job="replay"):
    with StateBackend.open(state, job=job, read_only=True, resume_from="none") as backend:
        return [info.id for info in backend.checkpoints() if info.damage is None]


def interrupt_at(records_in):
    """Ctrl-C once so many records are read: the only checkpoint is that at the end."""

    sent = []

    def on_event(event):
        if isinstance(event, Progress) and event.records_in >= records_in and not sent:
            sent.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    return on_event


def test_a_source_that_follows_a_log_is_cut_within_its_batch(state, tmp_path):
    """The kind of fault: a read steps over the place where the replay must end, so that all output is suppressed."""
    log = Log.open(tmp_path / "log", create=True)
    log.create_topic("in")

    def produce(first, last):
        with Producer(log) as producer:
            for number in range(first, last):
                producer.produce("in", f'{{"k": {number % 3}, "n": {number}}}')

    def flow():
        made = Dataflow("replay")
        rows = made.source("rows", LogSource(log, "in", decode="json", stop_at_end=False))
        rows.sink("rows-out", JsonLinesSink(tmp_path / "rows"))
        rows.key_by("k").aggregate("totals", n=count()).sink("totals-out", JsonLinesSink(tmp_path / "totals"))
        return made

    settings = {"batch_size": 64, "checkpoint_interval_s": 1e9}
    produce(0, 70)
    assert not run(flow(), state, on_event=interrupt_at(70), **settings).finished
    produce(70, 100)
    # Its checkpoint stands within what is one batch for who begins at the checkpoint before.
    result = run(flow(), state, on_event=interrupt_at(100), **settings)
    produce(100, 300)
    disk.damage(state, "chunks", result.last_checkpoint)
    with pytest.warns(DamagedCheckpointWarning, match="the output stays exact. Look"):
        assert not run(flow(), state, on_event=interrupt_at(300), **settings).finished
    rows = read_parts(tmp_path / "rows").decode().splitlines()
    assert rows == [f'{{"k":{number % 3},"n":{number}}}' for number in range(300)]
    newest = {line.split(",")[0]: line for line in read_parts(tmp_path / "totals").decode().splitlines()}
    assert sorted(newest.values()) == [f'{{"k":{key},"n":100}}' for key in range(3)]
    log.close()


class Numbered(Source):
    """Items whose positions are their own numbers; without end, so that what is missing is waited for."""

    def __init__(self, *partitions):
        self.items = [list(items) for items in partitions]

    def partitions(self):
        return [str(number) for number in range(len(self.items))]

    def open(self, partition, position):
        return NumberedReader(self.items[int(partition)], position or 0)


class NumberedReader(SourceReader):
    def __init__(self, items, position):
        self.items = items
        self.at = position

    def read(self, max_records):
        found = [item for item in self.items if item >= self.at][:max_records]
        if found:
            self.at = found[-1] + 1
        return SourceBatch([{"n": item} for item in found])

    def position(self):
        return self.at


def numbered(source, **settings):
    sink = TransactionalTestingSink()
    made = Dataflow("replay", **settings)
    rows = made.source("in", source)
    rows.sink("out", sink)
    rows.key_by("n").aggregate("totals", times=count()).sink("totals-out", TransactionalTestingSink())
    return made, sink


def stopped_and_damaged(state, made, source, *counts):
    """Checkpoints after each of these numbers of records of the partitions; the newest one is damaged."""
    items, source.items = source.items, [[] for _ in source.items]
    for numbers in counts:
        for part, number in enumerate(numbers):
            source.items[part][:] = items[part][:number]
        result = run(made, state, on_event=interrupt_at(sum(numbers)), **SETTINGS)
        assert result.records_in == sum(numbers)
    disk.damage(state, "chunks", result.last_checkpoint)


@pytest.mark.parametrize(
    ("change", "now"),
    [(lambda items: items.remove(30), 39), (lambda items: items.insert(31, 30), 41)],
    ids=["less", "more"],
)
def test_input_that_is_not_what_it_was_is_an_error(state, change, now):
    """The kind of fault: a replay that misses its target goes on for ever, or takes other state for the same."""
    source = Numbered(range(40))
    made, sink = numbered(source)
    stopped_and_damaged(state, made, source, [20], [40])
    change(source.items[0])
    output = list(sink.records)
    with (
        pytest.warns(DamagedCheckpointWarning),
        pytest.raises(SourceChangedError, match=rf"there were 40 records, and now there are {now}: .*resume_from"),
    ):
        run(made, state, **SETTINGS)
    assert sink.records == output


def test_a_stop_is_heeded_within_a_replay(state):
    """The kind of fault: Ctrl-C is not heard until the replay ends, which it may not."""
    source = Numbered(range(40))
    made, sink = numbered(source)
    stopped_and_damaged(state, made, source, [20], [40])
    del source.items[0][35:]
    told = []

    def interrupt(event):
        told.append(event)
        if isinstance(event, Progress) and event.records_in == 35 and told.count(event) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.warns(DamagedCheckpointWarning):
        result = run(made, state, on_event=interrupt, **SETTINGS)
    assert (result.finished, result.checkpoints, result.records_in) == (False, 0, 35)
    # With what was missing it goes on to its end and beyond.
    source.items[0][35:] = range(35, 60)
    with pytest.warns(DamagedCheckpointWarning):
        run(made, state, on_event=interrupt_at(60), **SETTINGS)
    assert [record["n"] for record in sink.records] == list(range(60))


def test_partitions_that_have_arrived_wait_for_the_others(state):
    """The kind of fault: a partition is read beyond its position while another one is behind."""
    source = Numbered(range(0, 80, 2), range(1, 20, 2))
    made, sink = numbered(source, deterministic=True)
    stopped_and_damaged(state, made, source, [10, 5], [40, 10])
    source.items[1] += range(21, 80, 2)
    source.items[0] += range(80, 200, 2)
    with pytest.warns(DamagedCheckpointWarning, match="exact, if the dataflow is deterministic, as it says"):
        run(made, state, on_event=interrupt_at(140), **SETTINGS)
    numbers = [record["n"] for record in sink.records]
    assert sorted(numbers) == sorted([*range(0, 200, 2), *range(1, 20, 2), *range(21, 80, 2)])


# -- what is replayed only if it is known to be right ---------------------------------------------


class Job:
    """Numbers keys in the order of their coming, by a function. The first runs end with a checkpoint each."""

    def __init__(self, sink=None, source=None, **settings):
        self.sink = sink or TransactionalTestingSink()
        self.source = source or TestingSource([*range(10), EOF, *range(10, 20), EOF, *range(20, 40)])
        self.flow = Dataflow("replay", **settings)
        keyed = self.flow.source("in", self.source).key_by(lambda n: n % 3)
        keyed.stateful_map("nth", lambda nth, n: ((nth or 0) + 1, (n, (nth or 0) + 1))).sink("out", self.sink)

    def run(self, state, **settings):
        return run(self.flow, state, **settings)

    def twice(self, state):
        return [self.run(state).last_checkpoint for _ in range(2)]


EXACT = [(n, n // 3 + 1) for n in range(40)]


def test_functions_that_nobody_calls_deterministic_are_not_replayed(state):
    """The kind of fault: functions that give something else the second time contradict what was written before, and the
    message says that the output stays exact."""
    job = Job()
    _, newest = job.twice(state)
    disk.damage(state, "chunks", newest)
    output = list(job.sink.records)
    for _ in range(2):
        with pytest.raises(
            StoreCorruptError, match=r"step 'nth' calls functions.*Dataflow\(.*deterministic=True\).*resume_from"
        ):
            job.run(state)
    assert job.sink.records == output
    # What it advises, one way and the other.
    with pytest.warns(DamagedCheckpointWarning, match="if the dataflow is deterministic, as it says"):
        assert Job(job.sink, job.source, deterministic=True).run(state).finished
    assert job.sink.records == EXACT


def test_or_outputs_are_written_again_from_a_checkpoint_of_choice(state):
    job = Job()
    before, newest = job.twice(state)
    disk.damage(state, "chunks", newest)
    with pytest.raises(StoreCorruptError, match="resume_from"):
        job.run(state)
    del job.sink.committed[newest, 0]
    assert job.run(state, resume_from=before).finished
    assert job.sink.records == EXACT


class Telling(TransactionalTestingSink):
    """Knows what it has made visible. The third commit fails, unless told otherwise: the second one is a recovery's."""

    def __init__(self, commit=3):
        super().__init__(fail={"commit": commit})

    def open(self, context):
        writer = super().open(context)
        writer.applied = lambda number: (number, 0) in self.committed
        return writer


def decided_and_damaged(state, job):
    """The newest checkpoint is decided, no sink has applied it, and its state is damaged."""
    job.run(state)
    with pytest.raises(SinkError, match="a fault was asked for at commit"):
        job.run(state)
    newest = known(state)[-1]
    disk.damage(state, "chunks", newest)
    return newest


def test_what_no_sink_has_applied_is_computed_anew_whatever_the_functions_do(state):
    """The kind of fault: where the sinks can tell that nothing got out, the job stops or replays all the same."""
    job = Job(Telling())
    newest = decided_and_damaged(state, job)
    with pytest.warns(DamagedCheckpointWarning, match="Nothing newer had reached an output"):
        assert job.run(state).finished
    assert newest not in known(state)
    assert job.sink.records == EXACT


def test_an_older_run_that_commits_in_between_is_noticed(state):
    """The kind of fault: a sink is asked before it fences a paused run, which commits after the answer."""
    sink = Telling()
    job = Job(sink)
    newest = decided_and_damaged(state, job)

    def woken(context):
        writer = Telling.open(sink, context)
        recover = writer.recover

        def recover_late(decided):
            sink.committed[newest, 0] = sink.prepared.pop((newest, 0))
            recover(decided)

        writer.recover = recover_late
        return writer

    sink.open = woken
    with pytest.raises(StoreCorruptError, match=rf"of checkpoint {newest} visible in \['out'\].*Run the job again"):
        job.run(state)
    del sink.open
    with pytest.raises(StoreCorruptError, match="deterministic=True"):
        job.run(state)


class Silent(TransactionalTestingSink):
    """Cannot tell what it has made visible."""

    def open(self, context):
        writer = super().open(context)
        writer.applied = lambda number: None
        return writer


def test_output_of_a_sink_that_cannot_tell_is_not_computed_anew(state):
    """The kind of fault: not to know is taken for not to have, and what was visible comes once more."""
    job = Job(Silent())
    _, newest = job.twice(state)
    disk.damage(state, "chunks", newest)
    output = list(job.sink.records)
    with pytest.raises(StoreCorruptError, match="step 'nth' calls functions"):
        job.run(state)
    assert job.sink.records == output


def test_a_checkpoint_without_output_needs_no_answer_of_the_sinks(state):
    """The kind of fault: a job stops for good although nothing of what is damaged can have got out."""
    job = Job(Silent(), TestingSource([*range(10), EOF, *range(100, 110), EOF, *range(10, 40)]))
    job.flow = Dataflow("replay")
    keyed = job.flow.source("in", job.source).key_by(lambda n: n % 3)
    counted = keyed.stateful_map("nth", lambda nth, n: ((nth or 0) + 1, (n, (nth or 0) + 1)))
    counted.filter(lambda pair: pair[0] < 100).sink("out", job.sink)
    _, newest = job.twice(state)
    disk.damage(state, "chunks", newest)
    with pytest.warns(DamagedCheckpointWarning, match="Nothing newer had reached an output"):
        assert job.run(state).finished
    assert [n for n, _ in job.sink.records] == list(range(40))


def test_of_two_damaged_checkpoints_the_newer_one_counts(state):
    """The kind of fault: a sink has both, is taken to have the older one only, and gets the rest once more."""
    sink = Telling(commit=100)
    items = [*range(10), EOF, *range(10, 20), EOF, *range(20, 30), EOF, *range(30, 40)]
    job = Job(sink, TestingSource(items), deterministic=True)
    for _ in range(3):
        newest = job.run(state, retain=10).last_checkpoint
    with_changes = sorted({disk.checkpoint_of("chunks", key) for key in disk.values(state, "chunks")})
    assert with_changes[-1] == newest
    for number in with_changes[-2:]:
        disk.damage(state, "chunks", number)
    with pytest.warns(DamagedCheckpointWarning, match=f"Up to checkpoint {newest} the input is processed again"):
        assert job.run(state, retain=10).finished
    assert job.sink.records == EXACT


def test_a_record_that_cannot_be_read_and_that_no_sink_has_applied_is_given_up(state):
    """The kind of fault: it stays where it is, and each later start finds it again."""
    job = Job(Telling())
    job.run(state)
    with pytest.raises(SinkError, match="a fault was asked for at commit"):
        job.run(state)
    newest = known(state)[-1]
    disk.damage(state, "records", newest)
    with pytest.warns(DamagedCheckpointWarning, match="Nothing newer had reached an output"):
        assert job.run(state).finished
    with StateBackend.open(state, job="replay", read_only=True, resume_from="none") as backend:
        assert newest not in [info.id for info in backend.checkpoints()]
    assert job.sink.records == EXACT


def test_input_that_ends_before_the_replay_does_is_an_error(state):
    """The kind of fault: of input that has become shorter the rest is taken for replayed, and the job for finished."""
    job = Job(deterministic=True)
    _, newest = job.twice(state)
    disk.damage(state, "chunks", newest)
    output = list(job.sink.records)
    shorter = Job(job.sink, TestingSource([*range(10), EOF, *range(10, 15)]), deterministic=True)
    with (
        pytest.warns(DamagedCheckpointWarning),
        pytest.raises(SourceError, match="ended before the positions of the damaged checkpoint were reached"),
    ):
        shorter.run(state)
    assert job.sink.records == output


class Learning(TransactionalTestingSink):
    """Learns how often it was sealed, and notes what it is given of that."""

    def __init__(self):
        super().__init__()
        self.given, self.sealed = [], 0

    def open(self, context):
        self.given.append(context.restored_state)
        writer = super().open(context)
        writer.snapshot = self.learn
        return writer

    def learn(self):
        self.sealed += 1
        return self.sealed


def test_a_sink_goes_on_from_what_it_has_written_also_where_that_state_is_damaged(state):
    """The kind of fault: it learns anew what its output of a damaged checkpoint already has, such as its columns."""
    job = Job(Learning(), deterministic=True)
    _, newest = job.twice(state)
    learnt = job.sink.sealed
    disk.damage(state, "chunks", newest)
    with pytest.warns(DamagedCheckpointWarning, match=f"Up to checkpoint {newest} the input is processed again"):
        job.run(state)
    first, resumed, after_damage = job.sink.given
    assert first is None
    assert isinstance(resumed, int) and resumed < learnt
    assert after_damage == learnt


class Upserts(IdempotentSink, SinkWriter):
    """Written at once where the guarantee is effectively once; stages nothing then."""

    def __init__(self):
        self.records = []

    def open(self, context):
        return self

    def write(self, records):
        self.records += records

    def flush(self):
        pass


def test_what_was_written_at_once_is_not_computed_anew_by_functions(state):
    """The kind of fault: nothing staged is taken for nothing written, and other values replace the first ones."""
    job = Job(Upserts())
    settings = {"guarantee": "effectively_once"}
    newest = [job.run(state, **settings).last_checkpoint for _ in range(2)][-1]
    disk.damage(state, "chunks", newest)
    output = list(job.sink.records)
    with pytest.raises(StoreCorruptError, match="step 'nth' calls functions"):
        job.run(state, **settings)
    assert job.sink.records == output


def test_a_source_that_cannot_be_read_again_is_not_replayed(state):
    """The kind of fault: a replay of what follows in its place, with its outputs suppressed."""
    items = [*range(10), EOF, *range(10, 20), EOF, *range(20, 40)]
    job = Job(source=TestingSource(items, replayable=False), deterministic=True)
    settings = {"guarantee": "at_most_once"}
    newest = [job.run(state, **settings).last_checkpoint for _ in range(2)][-1]
    disk.damage(state, "chunks", newest)
    output = list(job.sink.records)
    with pytest.raises(StoreCorruptError, match="no exact recovery is possible"):
        job.run(state, **settings)
    assert job.sink.records == output


def graph(build, **settings):
    made = Dataflow("graph", **settings)
    build(made)
    return made.graph


def rows(made, **settings):
    return made.source("in", TestingSource([], **settings))


def out(stream):
    stream.sink("out", TransactionalTestingSink())


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda made: out(rows(made).key_by("k").aggregate("n", n=count())), None),
        (lambda made: out(rows(made).map(str)), None),
        (lambda made: out(rows(made).inspect(print).key_by("k").aggregate("n", n=count())), None),
        (lambda made: out(rows(made).key_by("k").aggregate("n", n=count()).map(str)), None),
        (lambda made: out(rows(made).map(str).key_by("k").aggregate("n", n=count())), "step 'map-1' calls functions"),
        (lambda made: out(rows(made).key_by(len).aggregate("n", n=count())), "step 'n' calls functions"),
        (
            lambda made: out(rows(made).key_by("k").stateful_map("s", lambda state, row: (1, row))),
            "step 's' calls functions",
        ),
        (lambda made: out(rows(made).drop_duplicates("d", "k", horizon=HOUR)), "step 'd' goes by the clock"),
        (
            lambda made: out(rows(made).assign_timestamps("times", "t").drop_duplicates("d", "k", horizon=HOUR)),
            None,
        ),
        (
            lambda made: out(rows(made, event_time=len).key_by("k").aggregate("n", n=count())),
            "source 'in' calls functions",
        ),
    ],
)
def test_what_may_differ_is_found_upstream_of_state(build, why):
    told = why_not_repeatable(graph(build), waited=False)
    assert told is None if why is None else told is not None and told.startswith(why)
    assert why_not_repeatable(graph(build, deterministic=True), waited=True) is None


def test_the_order_of_partitions_that_waited_is_a_matter_of_time(state):
    by_key = graph(lambda made: out(rows(made).key_by("k").aggregate("n", n=count())))
    assert "the order in which partitions were read" in str(why_not_repeatable(by_key, waited=True))
    source = Numbered(range(40), range(5))
    made, _ = numbered(source)
    stopped_and_damaged(state, made, source, [10, 5], [40, 5])
    with pytest.raises(StoreCorruptError, match="the order in which partitions were read"):
        run(made, state, **SETTINGS)


def test_damage_within_the_end_of_a_job_is_no_reason_to_repeat_results(state, tmp_path, monkeypatch):
    """Where in its results a damaged checkpoint stood, no position of a source says: they came out twice."""
    monkeypatch.setattr(aggregating, "_ROWS_AT_ONCE", 30)
    monkeypatch.setattr(held, "MAX_HELD_RECORDS", 100)
    within = []

    def on_event(event):
        if isinstance(event, CheckpointCompleted) and event.records_out:
            within.append(event.stats.id)
            if len(within) == 3:
                os.kill(os.getpid(), signal.SIGINT)

    flow = Dataflow("replay")
    source = flow.source("rows", TestingSource([{"k": number} for number in range(1000)]))
    source.key_by("k").aggregate("totals", n=count(), emit="final").sink(
        "out", rows_sink(tmp_path / "out.db", ("k", "n"))
    )
    assert not run(flow, state, batch_size=100, checkpoint_interval_s=1e-9, retain=100, on_event=on_event).finished
    before = shown_rows(tmp_path / "out.db")
    assert 0 < len(before) < 1000
    # The last checkpoint in which a table had changed: all later ones need its chunks.
    disk.damage(state, "chunks", max(disk.checkpoint_of("chunks", key) for key in disk.values(state, "chunks")))
    with pytest.raises(StoreCorruptError, match="handing out its results") as info:
        run(flow, state, batch_size=100, retain=100)
    assert "deterministic=True" not in str(info.value)
    assert shown_rows(tmp_path / "out.db") == before
