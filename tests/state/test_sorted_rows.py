"""Rows sorted by key in the core come in the order that Python gives the keys, and slices of them are what they say.

``emit="final"`` and windows sorted tuples in Python: nine million pairs took 83 seconds and three gigabytes.
"""

from __future__ import annotations

import tempfile
from itertools import chain

from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow import Columns, Dataflow, count, last, run
from onceflow.codec import MsgpackCodec
from onceflow.embed import StateBackend
from onceflow.testing import TestingSource, TransactionalTestingSink

ELEMENTS = {
    "i64": st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    "u64": st.integers(0, 2**64 - 1) | st.integers(0, 3),
    # Beside short ones also long ones that differ late, zero bytes, and one that another begins with.
    "str": st.text(st.characters(codec="utf-8"), max_size=3)
    | st.sampled_from(["", "\x00", "a\x00", "a" * 30, "a" * 31]),
    "bytes": st.binary(max_size=3) | st.sampled_from([b"", b"\x00", b"\x00\xff", b"a" * 40, b"a" * 39 + b"b"]),
}


@st.composite
def tables(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(ELEMENTS)), min_size=1, max_size=3))
    one = st.tuples(*(ELEMENTS[kind] for kind in kinds))
    keys = draw(st.lists(one, min_size=1, max_size=40, unique=True))
    return (kinds[0], [key[0] for key in keys]) if len(kinds) == 1 else (tuple(kinds), keys)


@settings(max_examples=40, deadline=None)
@given(tables(), st.integers(0, 40), st.integers(0, 40))
def test_rows_are_sorted_as_python_sorts_their_keys(table, start, stop):
    kind, keys = table
    keys = list(dict.fromkeys(keys))
    with tempfile.TemporaryDirectory() as directory, StateBackend.open(f"{directory}/state") as backend:
        rows = backend.table("t", key=kind, columns={"n": "i64", "b": "bytes"})
        rows.put(keys, n=list(range(len(keys))), b=[str(number).encode() for number in range(len(keys))])
        ordered = sorted(keys)
        places = [keys.index(key) for key in ordered]
        found = rows.scan(sort=True)
        assert list(found.keys) == ordered
        assert found.columns["n"].tolist() == places
        part = found.slice(start, stop)
        assert list(part.keys) == ordered[start:stop]
        assert part.columns["b"] == [str(place).encode() for place in places[start:stop]]
        elements = [list(column) for column in found.key_columns()]
        assert elements == ([ordered] if isinstance(kind, str) else [list(part) for part in zip(*ordered, strict=True)])


def test_totals_come_out_in_parts(state):
    """So that Python objects exist for some of them only, whatever the state has."""
    sizes = []
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource(list(range(150_000)), batch_size=50_000))
    totals = stream.key_by(lambda n: (n % 1000, n)).aggregate("t", emit="final", n=count())
    totals.map_batch(lambda batch: sizes.append((type(batch), len(batch))) or batch).sink("out", sink)
    run(flow, state, batch_size=50_000)
    assert sizes == [(Columns, 16_384)] * 9 + [(Columns, 2_544)]
    assert [row["key"] for row in sink.records] == sorted((n % 1000, n) for n in range(150_000))


def test_the_last_of_a_batch_is_written_once_a_key(state, monkeypatch):
    """Each record's value was encoded, of which all but one a key were thrown away."""
    encoded = []
    encode_all = MsgpackCodec.encode_all
    monkeypatch.setattr(
        MsgpackCodec, "encode_all", lambda codec, values: encoded.append(list(values)) or encode_all(codec, values)
    )
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    records = [{"k": n % 3, "v": str(n)} for n in range(3000)]
    stream = flow.source("in", TestingSource(records, batch_size=1000))
    stream.key_by("k").aggregate("t", emit="final", v=last("v")).sink("out", sink)
    run(flow, state)
    assert len(list(chain.from_iterable(encoded))) <= 3 * 3 + 3
    assert [row["v"] for row in sink.records] == ["2997", "2998", "2999"]
