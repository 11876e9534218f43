"""Faults of values that two sides hold: state changed in place without a word, kept until a restart and lost by it."""

from datetime import timedelta

import pytest

from onceflow import Dataflow, run
from onceflow.copies import own_copy
from onceflow.exceptions import SerializationError
from onceflow.operators import own_copies
from onceflow.state import ListState, MapState, Processor, ValueState
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink


class ChangedInPlace(Processor):
    """Changes what it was given, and what it gave, without setting it."""

    value = ValueState()
    nested = ValueState(default=({"seen": []},))
    listed = ListState(ttl=timedelta(days=1))
    mapped = MapState()

    def process(self, record):
        if self.value.get() is None:
            mine = [record["n"]]
            self.value.set(mine)
            mine.append("late")
            self.listed.append(mine)
            self.listed.replace([mine, {"a": mine}])
            self.mapped.put("x", mine)
            mine.append("later")
        self.value.get().append(record["n"])
        self.nested.get()[0]["seen"].append(record["n"])
        self.listed.get()[1]["a"].append(record["n"])
        self.mapped.get("x").append(record["n"])
        self.mapped.items()["x"].append(record["n"])
        yield [self.value.get(), self.nested.get(), self.listed.get(), self.mapped.items()]


def grown(state, record):
    """Changes its state in place, and emits all of it, a part of it, and the record that it keeps."""
    state["rows"].append(record)
    return state, (state, state["rows"])


def replaced(state, record):
    return [*(state or []), record], record


def latest(state, record):
    """Emits a flat part of a state that has more."""
    row = dict(record)
    row["before"] = (state or {"row": {}})["row"].get("n")
    return {"row": row, "seen": [*(state or {"seen": []})["seen"], record["n"]]}, row


STEPS = {
    "process": (
        lambda keyed: keyed.process("step", ChangedInPlace),
        [[[1], ({"seen": []},), [[1, "late"], {"a": [1, "late"]}], {"x": [1, "late"]}]] * 4,
    ),
    "stateful_map": (
        lambda keyed: keyed.stateful_map("step", grown, lambda: {"rows": []}),
        [({"rows": [{"n": n} for n in range(1, m)]}, [{"n": n} for n in range(1, m)]) for m in range(2, 6)],
    ),
    "a result that is a part of the state": (
        lambda keyed: keyed.stateful_map("step", latest).map(lambda row: [row.pop("n"), row["before"]]),
        [[1, None], [2, 1], [3, 2], [4, 3]],
    ),
    "a result that is kept": (
        lambda keyed: (
            keyed.stateful_map("step", replaced)
            .map(lambda record: record.update(n=0) or record)
            .key_by(lambda _: 0)
            .stateful_map("next", grown, lambda: {"rows": []})
            .map(lambda pair: len(pair[0]["rows"]))
        ),
        [1, 2, 3, 4],
    ),
}


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("stops", [False, True], ids=["undisturbed", "resumed"])
@pytest.mark.parametrize("step", STEPS)
def test_state_that_is_changed_in_place_is_the_same_after_a_restart(tmp_path, step, stops, size):
    """A change that memory keeps and no checkpoint knows; results that go on changing after they were emitted."""
    build, wanted = STEPS[step]
    rows = [{"n": 1}, {"n": 2}, *([EOF] if stops else []), {"n": 3}, {"n": 4}]
    out = TransactionalTestingSink()
    flow = Dataflow("flow")
    build(flow.source("in", TestingSource(rows, batch_size=size)).key_by(lambda _: 0)).sink("out", out)
    runs = 1
    while not run(flow, tmp_path, batch_size=size).finished:
        runs += 1
    assert runs == 1 + stops
    assert out.records == wanted


def test_a_state_that_all_keys_share_at_first_stays_as_it_was(tmp_path):
    """A first state that carries what was changed in place from key to key."""
    shared = []
    out = TransactionalTestingSink()
    flow = Dataflow("flow")
    keyed = flow.source("in", TestingSource([1, 2])).key_by(lambda n: n)
    keyed.stateful_map("step", lambda state, n: (state.append(n) or state, list(state)), lambda: shared).sink("o", out)
    run(flow, tmp_path)
    assert out.records == [[1], [2]]
    assert shared == []


@pytest.mark.parametrize(
    "value", [[1, [2]], {"a": {"b": []}}, ([],), {1, 2}, bytearray(b"a"), {("a",): [{}]}], ids=repr
)
@pytest.mark.parametrize(
    "copy",
    [own_copy, own_copies.own_copy, lambda value: own_copies.own_copies([value])[0]],
    ids=["by hand", "by the extension", "of a batch"],
)
def test_a_copy_is_equal_and_shares_nothing(value, copy):
    """A value that comes back as something else, or with a part of the original in it."""
    copied = copy(value)
    assert copied == value
    assert type(copied) is type(value)
    shared, waiting = [], [(value, copied)]
    while waiting:
        old, new = waiting.pop()
        if isinstance(old, list | dict | set | bytearray) and old is new:
            shared.append(old)
        if isinstance(old, list | tuple):
            waiting.extend(zip(old, new, strict=True))
        if isinstance(old, dict):
            waiting.extend((old[name], new[name]) for name in old)
    assert shared == []


def test_a_default_is_known_by_its_identity(tmp_path):
    """A mark of what is missing that is no longer itself."""
    missing = object()

    class Marked(Processor):
        value = ValueState(default=missing)
        mapped = MapState()

        def process(self, record):
            yield self.value.get() is missing and self.mapped.get("x", missing) is missing

    out = TransactionalTestingSink()
    flow = Dataflow("flow")
    flow.source("in", TestingSource([1])).key_by(lambda n: n).process("step", Marked).sink("out", out)
    run(flow, tmp_path)
    assert out.records == [True]


def test_what_cannot_be_copied_is_refused_as_state(tmp_path):
    """A value that ends the run with an error about copies, which its user did not ask for."""
    endless = []
    endless.append(endless)

    class Endless(Processor):
        value = ValueState()

        def process(self, record):
            self.value.set(endless)

    flow = Dataflow("flow")
    flow.source("in", TestingSource([1])).key_by(lambda n: n).process("step", Endless).sink(
        "out", TransactionalTestingSink()
    )
    with pytest.raises(SerializationError, match="step 'step', key 1"):
        run(flow, tmp_path)
