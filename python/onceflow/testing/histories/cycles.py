"""Cycles of a directed graph, shortest first within each knot."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

__all__ = ["cycles"]

N = TypeVar("N")


def cycles(edges: Mapping[N, Iterable[N]]) -> Iterator[list[N]]:
    """One cycle of each strongly connected component that has any, as nodes in the order of the edges.

    Linear in nodes and edges, but for the search of a short cycle, which is linear in the component.
    """
    for component in _components(edges):
        if len(component) > 1:
            yield _short_cycle(edges, set(component), component[0])


def _components(edges: Mapping[N, Iterable[N]]) -> Iterator[list[N]]:
    # Tarjan's algorithm with a stack of its own, since chains of transactions are longer than Python's.
    numbers: dict[N, int] = {}
    lowest: dict[N, int] = {}
    open_nodes: list[N] = []
    is_open: set[N] = set()
    for root in edges:
        if root in numbers:
            continue
        path: list[tuple[N, Iterator[N]]] = []

        def enter(node: N, path: list[tuple[N, Iterator[N]]] = path) -> None:
            numbers[node] = lowest[node] = len(numbers)
            open_nodes.append(node)
            is_open.add(node)
            path.append((node, iter(edges.get(node, ()))))

        enter(root)
        while path:
            node, successors = path[-1]
            for successor in successors:
                if successor not in numbers:
                    enter(successor)
                    break
                if successor in is_open:
                    lowest[node] = min(lowest[node], numbers[successor])
            else:
                path.pop()
                if path:
                    before = path[-1][0]
                    lowest[before] = min(lowest[before], lowest[node])
                if lowest[node] == numbers[node]:
                    component: list[N] = []
                    while not component or component[-1] != node:
                        component.append(open_nodes.pop())
                        is_open.discard(component[-1])
                    yield component


def _short_cycle(edges: Mapping[N, Iterable[N]], component: set[N], start: N) -> list[N]:
    # Breadth first from the start until an edge leads back to it.
    before: dict[N, N] = {}
    queue = deque([start])
    while True:
        node = queue.popleft()
        for successor in edges.get(node, ()):
            if successor == start:
                path = [node]
                while path[-1] != start:
                    path.append(before[path[-1]])
                return path[::-1]
            if successor in component and successor not in before:
                before[successor] = node
                queue.append(successor)
