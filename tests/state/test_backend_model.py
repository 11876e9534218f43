"""A backend under random use, compared with dicts: whatever is restored is exactly what was cut."""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from onceflow.embed import StateBackend, key_group
from onceflow.exceptions import CheckpointNotFoundError, CheckpointStateError

TABLES = {
    "sums": ("i64", {"sum": "i64", "n": "u64"}),
    "texts": ("str", {"value": "bytes"}),
    "pairs": (("i64", "str"), {"last": "f64", "flag": "bool"}),
}
KEYS = {
    "sums": st.integers(-40, 40),
    "texts": st.sampled_from(["", "a", "b", "Zürich", "a key too long for a slot of the table", *map(str, range(20))]),
    "pairs": st.tuples(st.integers(-3, 3), st.sampled_from(["x", "y", ""])),
}
ROWS = {
    "sums": st.fixed_dictionaries({"sum": st.integers(-1000, 1000), "n": st.just(1)}),
    "texts": st.fixed_dictionaries({"value": st.binary(max_size=200)}),
    "pairs": st.fixed_dictionaries({"last": st.floats(-1e9, 1e9), "flag": st.booleans()}),
}
NAMES = st.sampled_from(list(TABLES))


class Backend(RuleBasedStateMachine):
    @initialize(retain=st.integers(1, 4))
    def begin(self, retain):
        self.directory = Path(tempfile.mkdtemp())
        self.state = self.directory / "state"
        self.retain = retain
        self.tables = {}
        #: Complete checkpoints: number → (tables, positions, name of the savepoint).
        self.checkpoints = {}
        self.pending = None
        #: Where the job has gone on from another checkpoint than the newest: that one (0: from nothing), and the number
        #: from which on checkpoints are the new lineage's. What lies between is left.
        self.splits = []
        self.lineage = 1
        #: Such a choice before it is durable.
        self.choice = None
        self.steps = 0
        self.backend = StateBackend.open(self.state, retain=retain)

    def teardown(self):
        if hasattr(self, "backend"):
            self.backend.close()
            shutil.rmtree(self.directory)

    def table(self, name):
        key, columns = TABLES[name]
        return self.backend.table(name, key=key, columns=columns)

    def model(self, name):
        return self.tables.setdefault(name, {})

    @rule(name=NAMES, data=st.data())
    def put_or_add(self, name, data):
        batch = data.draw(st.lists(st.tuples(KEYS[name], ROWS[name]), min_size=1, max_size=30))
        keys = [key for key, _ in batch]
        operation = "add" if name == "sums" else "put"
        values = {column: [row[column] for _, row in batch] for column in TABLES[name][1]}
        self.table(name).update(keys, {column: (operation, listed) for column, listed in values.items()})
        for key, row in batch:
            old = self.model(name).get(key)
            self.model(name)[key] = {c: v + old[c] for c, v in row.items()} if old and name == "sums" else row

    @rule(name=NAMES, data=st.data())
    def delete(self, name, data):
        keys = data.draw(st.lists(KEYS[name], min_size=1, max_size=20))
        self.table(name).delete(keys)
        for key in keys:
            self.model(name).pop(key, None)

    @rule(bound=st.integers(-4, 4), name=st.sampled_from(["sums", "pairs"]))
    def drain(self, bound, name):
        self.table(name).drain_below(bound)
        model = self.model(name)
        for key in [key for key in model if (key if name == "sums" else key[0]) < bound]:
            del model[key]

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def drop_table(self, data):
        name = data.draw(st.sampled_from(sorted(self.tables)))
        self.backend.drop_table(name)
        del self.tables[name]

    def left(self, number):
        return any(base < number < first for base, first in self.splits)

    def newest(self):
        """The checkpoint that is resumed from."""
        return max((number for number in self.checkpoints if not self.left(number)), default=None)

    def begin_lineage(self):
        if self.choice is not None:
            base, first = self.choice
            self.splits = [split for split in self.splits if split[1] <= base] + [(base, first)]
            self.lineage, self.choice = self.backend.lineage, None

    def settle(self):
        """The checkpoint under way, if any, is complete."""
        if self.pending is None:
            return
        pending, cut = self.pending
        self.pending = None
        stats = pending.wait(30)
        assert stats.id == pending.id
        assert pending.done
        complete = int(cut[2] is None)
        for number in sorted(self.checkpoints, reverse=True):
            if self.checkpoints[number][2] is not None:
                continue
            if complete >= self.retain:
                del self.checkpoints[number]
            elif not self.left(number):
                complete += 1
        self.checkpoints[pending.id] = cut

    @rule(wait=st.booleans(), savepoint=st.sampled_from([None, None, None, "keep", "keep too"]))
    def checkpoint(self, wait, savepoint):
        self.settle()
        self.steps += 1
        positions = {"number": self.steps, "text": f"at {self.steps}", "bytes": bytes([self.steps % 256])}
        self.begin_lineage()
        pending = self.backend.checkpoint(positions, savepoint=savepoint)
        self.pending = (pending, (copy.deepcopy(self.tables), positions, savepoint))
        if wait:
            self.settle()

    @rule(name=NAMES, key=st.integers(-40, 40))
    def abort(self, name, key):
        self.settle()
        self.begin_lineage()
        pending = self.backend.begin_checkpoint()
        pending.put_blob("lost", b"lost")
        pending.freeze()
        self.table("sums").add([key], sum=1, n=1)
        old = self.model("sums").get(key, {"sum": 0, "n": 0})
        self.model("sums")[key] = {"sum": old["sum"] + 1, "n": old["n"] + 1}
        pending.abort()
        with pytest.raises(CheckpointStateError):
            pending.commit()

    def reopen(self, restored, **settings):
        self.settle()
        self.choice = None
        self.backend.close()
        self.backend = StateBackend.open(self.state, retain=self.retain, **settings)
        tables, positions = {}, {}
        if restored is not None:
            tables, positions, _ = self.checkpoints[restored]
        assert self.backend.positions == positions
        found = self.backend.recovery.restored
        assert (None if found is None else found.id) == restored
        self.tables = copy.deepcopy(tables)
        # A table without rows is still there.
        assert set(self.backend.tables()) >= {name for name, rows in self.tables.items() if rows}

    @rule()
    def close_and_open(self):
        self.settle()
        self.reopen(self.newest())
        assert self.backend.lineage == self.lineage

    @rule(data=st.data())
    def open_from_any_checkpoint(self, data):
        self.settle()
        if self.checkpoints:
            number = data.draw(st.sampled_from(sorted(self.checkpoints)))
            self.reopen(number, resume_from=number)
            # Choosing is another history, also from the newest one.
            assert self.backend.lineage > self.lineage
            self.choice = (number, max(self.checkpoints) + 1)

    @rule()
    def start_over(self):
        self.settle()
        history = self.newest()
        self.reopen(None, resume_from="none")
        # Over nothing there is nothing to be left.
        assert (self.backend.lineage > self.lineage) == (history is not None)
        if history is not None:
            self.choice = (0, max(self.checkpoints) + 1)

    @rule(data=st.data())
    def open_some_key_groups(self, data):
        self.settle()
        first = data.draw(st.integers(0, 127))
        end = data.draw(st.integers(first + 1, 128))
        newest = self.newest()
        self.choice = None
        self.backend.close()
        with StateBackend.open(self.state, read_only=True, restore_key_groups=(first, end)) as part:
            tables = {} if newest is None else self.checkpoints[newest][0]
            for name, rows in tables.items():
                key, columns = TABLES[name]
                wanted = {k: row for k, row in rows.items() if first <= key_group(k, key, 128) < end}
                assert content(part.table(name, key=key, columns=columns)) == wanted
        self.backend = StateBackend.open(self.state, retain=self.retain)
        self.tables = {} if newest is None else copy.deepcopy(self.checkpoints[newest][0])

    @rule(data=st.data())
    def delete_checkpoint(self, data):
        self.settle()
        if not self.checkpoints:
            with pytest.raises(CheckpointNotFoundError):
                self.backend.delete_checkpoint(1)
            return
        newest = self.newest()
        number = data.draw(st.sampled_from(sorted(self.checkpoints)))
        if number == newest:
            with pytest.raises(CheckpointStateError, match="newest"):
                self.backend.delete_checkpoint(number)
        else:
            self.backend.delete_checkpoint(number)
            del self.checkpoints[number]

    @rule()
    def backup(self):
        """While it runs, maybe while a checkpoint is being written: opens as the newest one that was complete."""
        newest = self.newest()
        cuts = [({}, {}, None) if newest is None else self.checkpoints[newest]]
        if self.pending is not None:
            cuts.append(self.pending[1])
        target = self.directory / "backup"
        self.backend.backup(target)
        with StateBackend.open(target) as copied:
            [tables] = [tables for tables, positions, _ in cuts if positions == copied.positions]
            for name, rows in tables.items():
                key, columns = TABLES[name]
                assert content(copied.table(name, key=key, columns=columns)) == rows
        shutil.rmtree(target)

    @invariant()
    def tables_are_as_they_should_be(self):
        if hasattr(self, "backend"):
            for name, rows in self.tables.items():
                assert content(self.table(name)) == rows

    @invariant()
    def checkpoints_are_those_that_are_kept(self):
        if hasattr(self, "backend") and self.pending is None:
            known = {info.id: info for info in self.backend.checkpoints()}
            assert sorted(known) == sorted(self.checkpoints)
            for number, (tables, _, savepoint) in self.checkpoints.items():
                assert known[number].savepoint == savepoint
                assert known[number].damage is None
                rows = {name: count for name, count in known[number].tables.items() if count}
                assert rows == {name: len(rows) for name, rows in tables.items() if rows}


def content(table):
    rows = table.scan()
    columns = rows.columns.items()
    return {
        key: {name: values[index] for name, values in columns} for index, key in enumerate(map(plain, list(rows.keys)))
    }


def plain(key):
    return key if isinstance(key, (str, tuple)) else int(key)


TestBackend = Backend.TestCase
TestBackend.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
