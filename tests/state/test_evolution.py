"""Faults of state that outlives a change of its dataflow: taken over or lost silently, or mixed with other state."""

import ast
import builtins
import re
from datetime import timedelta

import disk
import pytest

from onceflow import Dataflow, count, first, max, mean, min, run, sum
from onceflow._native import StateBackend
from onceflow.exceptions import ConfigurationError, DamagedCheckpointWarning, DataflowChangedError, StoreCorruptError
from onceflow.graph.compatibility import differences
from onceflow.state import ListState, MapState, Processor, ValueState
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.types import StateChange
from onceflow.windows import Tumbling

ROWS = [{"a": n % 3, "b": str(n % 3), "v": n, "t": n} for n in range(40)]
HALF = 20


def source(*marks):
    """Stops half-way, and once more where there is a mark."""
    rest = ROWS[HALF:]
    return TestingSource(
        [*ROWS[:HALF], EOF, *rest[:10], *marks, *rest[10:]], event_time=lambda row: row["t"], batch_size=7
    )


class Flow:
    """A dataflow of one source, and what its sinks have got."""

    def __init__(self, build, *marks, source_id="in"):
        self.flow = Dataflow("flow")
        self.sinks = {}
        build(self, self.flow.source(source_id, source(*marks)))

    def out(self, stream, step_id="out"):
        self.sinks[step_id] = TransactionalTestingSink()
        stream.sink(step_id, self.sinks[step_id])

    def run(self, state, **settings):
        return run(self.flow, state, **settings)

    def records(self, step_id="out"):
        return self.sinks[step_id].records


def totals(step_id="totals", key=("a",), **aggregates):
    return lambda flow, rows: flow.out(rows.key_by(*key).aggregate(step_id, emit="final", **aggregates))


def windows(**aggregates):
    tumbling = Tumbling(timedelta(microseconds=15))
    return lambda flow, rows: flow.out(rows.key_by("a").window("windows", tumbling).aggregate(**aggregates))


class Pages(Processor):
    pages = ListState()

    def process(self, record):
        self.pages.append(record["v"])
        yield {"a": self.key, "pages": len(self.pages.get())}


def refused(flow, state, **settings):
    with pytest.raises(DataflowChangedError) as caught:
        flow.run(state, **settings)
    assert flow.records() == []
    return caught.value


def advised(error):
    """What the text of an error says to write."""
    [text] = re.findall(r"on_change=(\{.*?\})", str(error))
    advice = ast.literal_eval(text)
    assert advice == error.on_change
    return advice


def resumed(before, after, state):
    """Runs one dataflow, then another by the advice of the error that refuses it."""
    assert not Flow(before).run(state).finished
    flow = Flow(after)
    for _ in range(2):
        error = refused(flow, state)
    # Nothing was changed by that.
    assert error.on_change == refused(Flow(after), state).on_change
    told = []
    advice = advised(error)
    result = flow.run(state, on_change=advice, on_event=told.append)
    assert result.finished
    assert result.changes == told[0].changes
    assert {change.name: change.action for change in result.changes} == advice
    return flow, advice


def by_key(rows, function, key="a"):
    groups = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row["v"])
    return {group: function(values) for group, values in groups.items()}


def test_an_aggregate_that_is_new_begins_empty_and_the_others_go_on(state):
    """Old totals that are lost, or a new one that is given values of a past that it has not seen."""
    flow, advice = resumed(
        totals(n=count(), v=sum("v")), totals(n=count(), v=sum("v"), most=max("v"), avg=mean("v"), b=first("b")), state
    )
    assert advice == {"totals/avg": "empty", "totals/b": "empty", "totals/most": "empty"}
    late = ROWS[HALF:]
    assert flow.records() == [
        {
            "a": a,
            "n": by_key(ROWS, len)[a],
            "v": sum_of(ROWS)[a],
            "most": by_key(late, lambda values: values[-1])[a],
            "avg": by_key(late, lambda values: builtins.sum(values) / len(values))[a],
            "b": str(a),
        }
        for a in range(3)
    ]


def sum_of(rows):
    return by_key(rows, builtins.sum)


def test_an_aggregate_that_is_gone_does_not_come_back_with_old_values(state):
    """A column that was dropped and is found again by a later result of its name."""
    assert not Flow(totals(n=count(), v=sum("v"))).run(state).finished
    flow = Flow(totals(n=count()), EOF)
    assert advised(refused(flow, state)) == {"totals/v": "drop"}
    assert not flow.run(state, on_change={"totals/v": "drop"}).finished
    flow = Flow(totals(n=count(), v=sum("v")), EOF)
    assert advised(refused(flow, state)) == {"totals/v": "empty"}
    assert flow.run(state, on_change={"totals/v": "empty"}).finished
    assert flow.records() == [{"a": a, "n": by_key(ROWS, len)[a], "v": sum_of(ROWS[HALF + 10 :])[a]} for a in range(3)]


def test_another_aggregate_of_the_same_name_begins_empty(state):
    """A maximum that begins with a sum."""
    flow, advice = resumed(totals(n=count(), v=sum("v")), totals(n=count(), v=min("v")), state)
    assert advice == {"totals/v": "empty"}
    assert [row["v"] for row in flow.records()] == [21, 22, 20]
    assert [row["n"] for row in flow.records()] == [14, 13, 13]


def test_where_no_aggregate_is_left_no_key_is(state):
    """Rows of keys for which there is nothing to say."""
    flow, advice = resumed(totals(n=count()), totals(most=max("v")), state)
    assert advice == {"totals/n": "drop", "totals/most": "empty"}
    assert [row["most"] for row in flow.records()] == [39, 37, 38]


def test_values_beside_the_table_go_with_their_result(state):
    """Decimals, floats among integers and integers beyond 64 bits: they lie in tables of their own."""

    def mixed(**aggregates):
        def build(flow, rows):
            wide = rows.map(lambda row: {**row, "w": row["v"] if row["v"] % 2 else 1 << 70})
            flow.out(wide.key_by("a").aggregate("totals", emit="final", **aggregates))

        return build

    assert not Flow(mixed(n=count(), w=sum("w"))).run(state).finished
    flow = Flow(mixed(n=count()), EOF)
    assert not flow.run(state, on_change={"totals/w": "drop"}).finished
    flow = Flow(mixed(n=count(), w=max("v")), EOF)
    assert flow.run(state, on_change={"totals/w": "empty"}).finished
    assert [row["w"] for row in flow.records()] == [39, 37, 38]


@pytest.mark.parametrize(
    "key", [("a",), ("b",), ("a", "b"), (lambda row: row["a"] or None,)], ids=["int", "str", "tuple", "also None"]
)
def test_keys_of_every_kind_keep_their_totals(state, key):
    """Keys that are tuples, text, or none: they have other tables, or other columns of keys."""

    def build(**aggregates):
        def made(flow, rows):
            flow.out(rows.key_by(*key).aggregate("totals", emit="final", **aggregates))

        return made

    flow, _ = resumed(build(n=count()), build(n=count(), most=max("v")), state)
    assert sorted((row["n"], row["most"]) for row in flow.records()) == [(13, 37), (13, 38), (14, 39)]


def test_open_windows_go_on_with_another_result(state):
    """Windows that are open at the change: closed twice, never, or with the values of another column."""
    flow, advice = resumed(windows(n=count(), v=sum("v")), windows(n=count(), most=max("v")), state)
    assert advice == {"windows/v": "drop", "windows/most": "empty"}
    assert builtins.sum(row["n"] for row in flow.records()) == 40 - 15
    opened = [row for row in flow.records() if row["window_start"].microsecond == 15]
    assert [row["most"] for row in opened] == [27, 28, 29]


def test_whole_numbers_become_floats(state):
    """A sum that begins anew, or is read as another number, when its type is said."""
    flow, advice = resumed(totals(n=count(), v=sum("v")), totals(n=count(), v=sum("v", type="f64")), state)
    assert advice == {"totals/v": "widen"}
    assert [(row["n"], row["v"]) for row in flow.records()] == [
        (by_key(ROWS, len)[a], float(sum_of(ROWS)[a])) for a in range(3)
    ]
    assert all(isinstance(row["v"], float) for row in flow.records())


def test_a_whole_number_that_no_float_is_is_not_widened(state):
    """A value that changes in passing."""
    big = (1 << 53) + 1

    def build(**settings):
        return lambda flow, rows: flow.out(
            rows.map(lambda row: {**row, "v": big})
            .key_by("a")
            .aggregate("totals", emit="final", v=max("v", **settings))
        )

    assert not Flow(build()).run(state).finished
    flow = Flow(build(type="f64"))
    error = refused(flow, state, on_change={"totals/v": "widen"})
    assert f"the value {big} of column 'v', key " in str(error)
    assert Flow(build()).run(state).finished


def test_a_step_that_is_gone_or_new_is_named(state):
    """State that nobody asks for any more, and a step that begins empty beside old state."""

    def build(step_id):
        def made(flow, rows):
            flow.out(rows.key_by("a").aggregate("totals", emit="final", n=count()))
            flow.out(rows.key_by("a").process(step_id, Pages), "pages-out")

        return made

    flow, advice = resumed(build("pages"), build("visits"), state)
    assert advice == {"pages": "drop", "visits": "empty"}
    assert [row["n"] for row in flow.records()] == [14, 13, 13]
    assert sorted(row["pages"] for row in flow.records("pages-out"))[-1] == 7
    with StateBackend.open(state, job="flow", read_only=True, create=False) as backend:
        assert set(backend.tables()) == {"totals", "visits"}


def test_a_step_of_another_kind_begins_empty(state):
    """State of one kind that is read as that of another."""

    def process(flow, rows):
        flow.out(rows.key_by("a").process("step", Pages))

    flow, advice = resumed(totals("step", n=count()), process, state)
    assert advice == {"step": "empty"}
    assert len(flow.records()) == HALF


def test_another_key_begins_empty(state):
    """Totals by one column that are taken for totals by another."""
    flow, advice = resumed(totals(n=count()), totals(key="b", n=count()), state)
    assert advice == {"totals": "empty"}
    assert flow.records() == [{"b": b, "n": n} for b, n in sorted(by_key(ROWS[HALF:], len, "b").items())]


def test_another_window_begins_empty_and_open(state):
    """Windows that the closed ones of another size keep shut."""

    def build(size):
        tumbling = Tumbling(timedelta(microseconds=size))
        return lambda flow, rows: flow.out(rows.key_by("a").window("windows", tumbling).aggregate(n=count()))

    flow, advice = resumed(build(15), build(4), state)
    assert advice == {"windows": "empty"}
    assert builtins.sum(row["n"] for row in flow.records()) == HALF


def test_a_window_step_in_place_of_another_step_begins_anew(state):
    """What another step kept of itself, read by a window step."""

    def process(flow, rows):
        flow.out(rows.key_by("a").process("windows", Pages))

    flow, advice = resumed(process, windows(n=count()), state)
    assert advice == {"windows": "empty"}
    assert builtins.sum(row["n"] for row in flow.records()) == HALF


def test_a_window_step_that_begins_anew_has_seen_no_time(state):
    """Event time of a source that is gone, by which all records of the one in its place are late."""

    def build(size):
        tumbling = Tumbling(timedelta(microseconds=size))
        return lambda flow, rows: flow.out(rows.key_by("a").window("windows", tumbling).aggregate(n=count()))

    assert not Flow(build(15)).run(state).finished
    flow = Flow(build(4), source_id="other")
    assert not flow.run(state, on_change={"in": "drop", "other": "empty", "windows": "empty"}).finished
    result = flow.run(state)
    assert result.finished
    assert result.late == {"windows": 0}
    assert builtins.sum(row["n"] for row in flow.records()) == len(ROWS)


def test_a_key_without_any_value_stays(state):
    """A row whose cells are all unset, lost when the columns of its table change."""

    def build(**aggregates):
        def made(flow, rows):
            holes = rows.map(lambda row: {**row, "v": None if row["a"] == 1 or row["v"] >= HALF else row["v"]})
            others = holes.filter(lambda row: row["a"] != 1 or row["t"] < HALF)
            flow.out(others.key_by("a").aggregate("totals", emit="final", **aggregates))

        return made

    flow, advice = resumed(build(n=count(), v=sum("v")), build(v=sum("v")), state)
    assert advice == {"totals/n": "drop"}
    assert flow.records() == [{"a": 0, "v": 63}, {"a": 1, "v": None}, {"a": 2, "v": 57}]


def test_a_source_and_a_sink_are_named_too(state):
    """A source that is read from its beginning without a word, a sink that lacks what came before it."""

    def both(flow, rows):
        flow.out(rows)
        flow.out(rows, "more")

    flow, advice = resumed(lambda flow, rows: flow.out(rows), both, state)
    assert advice == {"more": "empty"}
    assert flow.records("more") == ROWS[HALF:]


def test_output_of_a_sink_that_is_gone_is_named(state):
    """Output that was prepared and decided, and that nobody commits any more."""

    def both(flow, rows):
        flow.out(rows)
        flow.out(rows.filter(lambda row: row["v"] < HALF), "early")

    assert not Flow(both, EOF).run(state).finished
    flow = Flow(lambda flow, rows: flow.out(rows), EOF)
    with pytest.raises(DataflowChangedError, match="sink 'early' is gone, and its output of checkpoint 1 stays hidden"):
        flow.run(state)
    [change] = flow.run(state, on_change={"early": "drop"}).changes
    assert "stays hidden unless it was committed" in change.what


def test_another_source_begins_at_its_beginning(state):
    """Positions of a source that is gone, in the way of one that takes its place."""
    assert not Flow(totals(n=count())).run(state).finished
    flow = Flow(totals(n=count()), source_id="other")
    error = refused(flow, state)
    assert "was one of ['in'] renamed to one of ['other']?" in str(error)
    assert advised(error) == {"in": "drop", "other": "empty"}
    assert not flow.run(state, on_change=error.on_change).finished
    assert flow.run(state).finished
    assert [row["n"] for row in flow.records()] == [14 + 7, 13 + 7, 13 + 6]


def test_what_was_done_once_may_stay_in_the_program(state):
    """A setting that empties state at each start."""
    assert not Flow(totals(n=count())).run(state).finished
    again = {"totals/v": "empty", "gone": "drop"}
    flow = Flow(totals(n=count(), v=sum("v")), EOF)
    assert len(flow.run(state, on_change=again).changes) == 1
    result = flow.run(state, on_change=again)
    assert result.finished
    assert result.changes == ()
    assert flow.records() == [{"a": a, "n": by_key(ROWS, len)[a], "v": sum_of(ROWS[HALF:])[a]} for a in range(3)]


def test_a_setting_that_stays_does_not_allow_another_change(state):
    """A slip months later that empties what a setting of then had allowed to be emptied."""
    stops = [EOF] * 9
    stays = {"totals": "empty", "gone": "drop"}
    assert not Flow(totals(n=count()), *stops).run(state).finished
    assert not Flow(totals(key="b", n=count()), *stops).run(state, on_change=stays).finished
    # There and back, again and again: each of them is a change of its own.
    for key in ("v", "b", "v", "b"):
        flow = Flow(totals(key=key, n=count()), *stops)
        error = refused(flow, state, on_change=stays)
        assert "what on_change says of ['totals" in str(error) and "for an earlier change only" in str(error)
        stays = advised(error)
        assert set(stays.values()) == {"drop", "empty"} and len(stays) == 2
        assert [change.name for change in flow.run(state, on_change=stays).changes] == ["totals"]
        assert flow.run(state, on_change=stays).changes == ()


def test_a_setting_that_was_taken_out_may_come_again(state):
    """A change that is refused for ever since another one of its name was meant once."""
    stops = [EOF] * 3
    empty = {"totals": "empty"}
    assert not Flow(totals(n=count()), *stops).run(state).finished
    assert not Flow(totals(key="b", n=count()), *stops).run(state, on_change=empty).finished
    assert not Flow(totals(key="b", n=count()), *stops).run(state).finished
    assert Flow(totals(n=count()), *stops).run(state, on_change=empty).changes[0].name == "totals"


def test_a_change_that_was_interrupted_is_still_allowed(state):
    """A setting that counts as used though nothing of it was kept."""
    assert not Flow(totals(n=count())).run(state).finished

    def failing(flow, rows):
        def fail(row):
            raise RuntimeError("down")

        flow.out(rows.map(fail).key_by("b").aggregate("totals", emit="final", n=count()))

    for _ in range(2):
        with pytest.raises(Exception, match="down"):
            Flow(failing).run(state, on_change={"totals": "empty"})
    assert Flow(totals(key="b", n=count())).run(state, on_change={"totals": "empty"}).finished


def test_what_is_named_otherwise_is_refused(state):
    """An action that is taken for another, and half an answer that is taken for a whole one."""
    assert not Flow(totals(n=count(), v=sum("v"))).run(state).finished
    for given in ({}, {"totals": "drop"}, {"totals/v": "empty", "totals/w": "empty"}, {"totals/v": "drop"}):
        error = refused(Flow(totals(n=count(), w=sum("v"))), state, on_change=given)
        assert error.on_change == {**given, "totals/v": "drop", "totals/w": "empty"}


@pytest.mark.parametrize("wrong", ["drop", None, {"a": "keep"}, {1: "drop"}, ["a"]], ids=str)
def test_what_cannot_be_meant_is_refused(state, wrong):
    """A setting that is read as something else."""
    with pytest.raises(ConfigurationError, match="on_change is "):
        Flow(totals(n=count())).run(state, on_change=wrong)


def test_a_crash_before_the_first_checkpoint_changes_nothing(state):
    """State that was dropped for good before the job had anything in its place."""
    assert not Flow(totals(n=count(), v=sum("v"))).run(state).finished

    def failing(flow, rows):
        def fail(row):
            raise RuntimeError("down")

        flow.out(rows.key_by("a").aggregate("totals", emit="final", n=count()).union(rows.map(fail)))

    with pytest.raises(Exception, match="down"):
        Flow(failing).run(state, on_change={"totals/v": "drop"})
    flow = Flow(totals(n=count(), v=sum("v")))
    assert flow.run(state).finished
    assert [row["v"] for row in flow.records()] == [sum_of(ROWS)[a] for a in range(3)]


def test_a_job_that_has_finished_says_what_is_gone_and_does_nothing(state):
    """Work that is begun for a job that has nothing left to do."""
    first_run = Flow(totals(n=count()))
    first_run.run(state)
    assert first_run.run(state).finished
    assert advised(refused(Flow(totals("other", n=count())), state)) == {"totals": "drop"}
    result = Flow(totals("other", n=count())).run(state, on_change={"totals": "drop"})
    assert result.finished
    assert result.changes == ()


def test_results_that_swap_their_fields_do_not_go_on_with_each_other(state):
    """Values of one field that are added to what another one gave."""
    flow, advice = resumed(totals(n=count(), v=sum("v"), w=sum("a")), totals(n=count(), v=sum("a"), w=sum("v")), state)
    assert advice == {"totals/v": "empty", "totals/w": "empty"}
    assert flow.records() == [
        {
            "a": a,
            "n": by_key(ROWS, len)[a],
            "v": a * by_key(ROWS[HALF:], len)[a],
            "w": sum_of(ROWS[HALF:])[a],
        }
        for a in range(3)
    ]


def test_a_checkpoint_without_the_settings_of_results_is_resumed(state, monkeypatch):
    """A job of an earlier version, which did not keep them, that an upgrade refuses; it is compared from then on."""
    with monkeypatch.context() as earlier:
        earlier.setattr("onceflow.runtime.job.settings_of", lambda graph: {})
        assert not Flow(totals(n=sum("v"))).run(state).finished
    flow = Flow(totals(n=sum("v")), EOF)
    assert not flow.run(state).finished
    assert refused(Flow(totals(n=sum("t"))), state).on_change == {"totals/n": "empty"}


def remembering(**states):
    """A processor with these states, which says how much is in each."""

    class Remembers(Processor):
        # A class body does not take names from outside.
        locals().update(states)

        def __init__(self):
            self.made = True

        def process(self, record):
            told = {"a": self.key, "made": self.made}
            for name in states:
                state = getattr(self, name)
                if isinstance(state, ValueState):
                    state.set(state.get() + 1)
                    told[name] = state.get()
                elif isinstance(state, ListState):
                    state.append(record["v"])
                    told[name] = len(state.get())
                else:
                    state.put(record["v"], 1)
                    told[name] = len(state.items())
            yield told

    return lambda flow, rows: flow.out(rows.key_by(lambda row: row["a"] or None).process("step", Remembers))


def counts(flow, name):
    return [row[name] for row in flow.records() if row["a"] == 1]


STATES = [
    # before, after, advice, where the count of each state begins
    ({"n": ValueState(0), "entries": ListState()}, {"n": ValueState(0)}, {"step/entries": "drop"}, {"n": 7}),
    (
        {"n": ValueState(0), "x": ValueState(0)},
        {"n": ListState(), "x": ValueState(0)},
        {"step/n": "empty"},
        {"n": 0, "x": 7},
    ),
    (
        {"n": ListState(), "x": MapState(ttl=timedelta(1)), "y": ValueState(0)},
        {"n": MapState(), "x": MapState(ttl=timedelta(1)), "z": ValueState(0)},
        {"step/n": "empty", "step/y": "drop"},
        {"n": 0, "x": 7, "z": 0},
    ),
]


@pytest.mark.parametrize(("before", "after", "advice", "begins"), STATES, ids=["gone", "kind", "several"])
@pytest.mark.parametrize("whole", [False, True], ids=["by state", "by step"])
@pytest.mark.parametrize("chunk", [64, 2])
def test_states_of_a_processor_are_dropped_and_begin_anew(
    state, monkeypatch, before, after, advice, begins, whole, chunk
):
    """States that nobody can take away, or that come back with what another state of their name had."""
    monkeypatch.setattr("onceflow.entries.CHUNK_ENTRIES", chunk)
    assert not Flow(remembering(**before)).run(state).finished
    flow = Flow(remembering(**after), EOF)
    error = refused(flow, state)
    assert advised(error) == advice
    given = {"step": "empty"} if whole else advice
    result = flow.run(state, on_change=given)
    assert {change.name: change.action for change in result.changes} == given
    for name, count_before in begins.items():
        start = 0 if whole else count_before
        assert counts(flow, name) == list(range(start + 1, start + len(counts(flow, name)) + 1))
    # Taken away and back again, it begins anew, too.
    names = [name for name in before if name not in after]
    again = Flow(remembering(**{**after, **{name: before[name] for name in names}}), EOF)
    assert again.run(state).finished
    for name in names:
        assert counts(again, name)[0] == 1


def test_results_begin_anew_with_their_step(state):
    """A step that is named as a whole, and refused because only a part of it has changed."""
    assert not Flow(totals(n=count(), v=sum("v"))).run(state).finished
    flow = Flow(totals(n=count(), v=max("v")))
    [change] = flow.run(state, on_change={"totals": "empty"}).changes
    assert change.name == "totals" and "the result 'v'" in change.what
    assert [row["n"] for row in flow.records()] == [by_key(ROWS[HALF:], len)[a] for a in range(3)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("aggregate by a, n=count", {}),
        ("aggregate by a, n=count, v=sum", {"totals/v": "drop"}),
        ("aggregate by a, n=count of a field", {"totals/n": "empty"}),
        # Not by "a" with a result called "b, n".
        ("aggregate by a, b, n=count", {"totals": "empty"}),
        ("aggregate by b, n=count", {"totals": "empty"}),
        ("aggregate by a, n=median", {"totals": "empty"}),
        ("aggregate by a", {"totals": "empty"}),
        ("window by a, windows of 1 day, 0:00:00 from 0:00:00, n=count", {"totals": "empty"}),
    ],
)
def test_what_checkpoints_know_of_a_step_is_read(old, new):
    """The text that checkpoints hold of steps, also those of versions before ``on_change``, read as something else."""
    graph = Flow(totals(n=count())).flow.graph
    changes = differences({"in": "source", "out": "sink", "totals": old}, graph)
    assert {change.name: change.action for change in changes} == new
    assert all(isinstance(change, StateChange) for change in changes)


def test_a_changed_dataflow_is_not_replayed(state):
    """Damaged state that is made anew by another dataflow, and taken for what it was."""
    sink = TransactionalTestingSink()

    def flow(**aggregates):
        made = Dataflow("flow", deterministic=True)
        made.source("in", source(EOF)).key_by("a").aggregate("totals", **aggregates).sink("out", sink)
        return made

    for _ in range(2):
        run(flow(n=count(), v=sum("v")), state, batch_size=7)
    with StateBackend.open(state, job="flow", read_only=True, create=False) as backend:
        newest = backend.checkpoints()[-1].id
    disk.damage(state, "chunks", newest)
    with pytest.raises(StoreCorruptError, match=r"the dataflow is not what it was .*; run it once as it was"):
        run(flow(n=count()), state, batch_size=7, on_change={"totals/v": "drop"})
    with pytest.warns(DamagedCheckpointWarning):
        assert run(flow(n=count(), v=sum("v")), state, batch_size=7).resumed_from < newest
