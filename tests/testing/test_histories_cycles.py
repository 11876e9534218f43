"""Cycles are found exactly where a naive search finds them, each is one, and depth is no limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onceflow.testing.histories.cycles import cycles


def _reachable(edges, start):
    found, queue = set(), [start]
    while queue:
        for node in edges.get(queue.pop(), ()):
            if node not in found:
                found.add(node)
                queue.append(node)
    return found


@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=4), max_size=8))
def test_as_a_naive_search(edges):
    edges = {node: [other for other in others if other != node] for node, others in edges.items()}
    knots = {
        frozenset(other for other in _reachable(edges, node) if node in _reachable(edges, other))
        for node in edges
        if node in _reachable(edges, node)
    }
    found = list(cycles(edges))
    assert len(found) == len(knots)
    for cycle in found:
        assert len(set(cycle)) == len(cycle)
        assert any(set(cycle) <= knot for knot in knots)
        for one, other in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            assert other in edges[one]


def test_a_long_chain():
    length = 100_000
    edges = {node: [node + 1] for node in range(length)}
    assert list(cycles(edges)) == []
    edges[length] = [length - 1]
    assert [set(cycle) for cycle in cycles(edges)] == [{length - 1, length}]
