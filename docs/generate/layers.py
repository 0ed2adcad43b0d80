"""Lay out an acyclic graph in layers, in which every edge points down (Sugiyama's method)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

Edge = tuple[str, str]
"""(from, to)."""
Point = tuple[float, float]
"""(x, y) in pixels; y grows downwards."""

SWEEPS = 12
"""How often the order within the layers is improved."""
LINE = 22
"""Width in pixels that an edge takes in a layer that it passes."""


def reduced(edges: Collection[Edge]) -> set[Edge]:
    """The edges without those between nodes that a longer path connects."""
    after = _after(edges)

    def reaches(start: str, end: str) -> bool:
        return any(node == end or reaches(node, end) for node in after[start])

    return {
        (one, other)
        for one, other in edges
        if not any(reaches(node, other) for node in after[one] - {other})
    }


def in_layers(edges: Collection[Edge]) -> list[list[str]]:
    """The nodes by layer: a node is in the layer after the lowest node with an edge to it."""
    before = _after([(other, one) for one, other in edges])
    depths: dict[str, int] = {}

    def depth(node: str) -> int:
        if node not in depths:
            depths[node] = 1 + max(map(depth, before[node]), default=-1)
        return depths[node]

    nodes = sorted({node for edge in edges for node in edge})
    layers: list[list[str]] = [[] for _ in range(1 + max(map(depth, nodes)))]
    for node in nodes:
        layers[depth(node)].append(node)
    return layers


def positions(
    edges: Collection[Edge], box: tuple[int, int], gap: tuple[int, int]
) -> tuple[dict[str, Point], list[list[Point]], Point]:
    """Place the nodes, and route the edges around them.

    Args:
        edges: of an acyclic graph.
        box: width and height of a node in pixels.
        gap: space between the nodes of a layer, and between layers, in pixels.

    Returns: the middle of the upper side of each node; the points of each edge; width and height.
    """
    layers, chains = _with_lines(in_layers(edges), edges)
    nodes = {node for edge in edges for node in edge}
    _untangle(layers, [link for chain in chains for link in pairwise(chain)])
    widths = {item: box[0] if item in nodes else LINE for layer in layers for item in layer}
    whole = max(sum(widths[item] + gap[0] for item in layer) for layer in layers)
    at: dict[str, Point] = {}
    for number, layer in enumerate(layers):
        x = (whole - sum(widths[item] + gap[0] for item in layer)) / 2
        for item in layer:
            at[item] = (x + (widths[item] + gap[0]) / 2, 2.0 + number * (box[1] + gap[1]))
            x += widths[item] + gap[0]
    routes = [_route(chain, at, box[1]) for chain in chains]
    height = len(layers) * (box[1] + gap[1]) - gap[1] + 4
    return {node: at[node] for node in sorted(nodes)}, routes, (whole, height)


def _after(edges: Collection[Edge]) -> dict[str, set[str]]:
    after: dict[str, set[str]] = defaultdict(set)
    for one, other in edges:
        after[one].add(other)
    return after


def _with_lines(
    layers: Sequence[Sequence[str]], edges: Collection[Edge]
) -> tuple[list[list[str]], list[list[str]]]:
    """Add an item for every edge to each layer that the edge passes. Returns the layers, and the
    items of each edge from its start to its end."""
    filled = [list(layer) for layer in layers]
    depth = {node: number for number, layer in enumerate(layers) for node in layer}
    chains = []
    for one, other in sorted(edges):
        passed = range(depth[one] + 1, depth[other])
        names = [f"{one} -> {other} in {number}" for number in passed]
        for number, name in zip(passed, names, strict=True):
            filled[number].append(name)
        chains.append([one, *names, other])
    return filled, chains


def _untangle(layers: list[list[str]], links: Sequence[Edge]) -> None:
    """Sort each layer by the mean position of its neighbors, downwards and upwards in turn."""
    above, below = _after([(other, one) for one, other in links]), _after(links)
    place = {item: _place(index, layer) for layer in layers for index, item in enumerate(layer)}
    for sweep in range(SWEEPS):
        neighbors = below if sweep % 2 else above
        for layer in reversed(layers) if sweep % 2 else layers:
            layer.sort(key=lambda item: _mean(neighbors[item], place, place[item]))
            place |= {item: _place(index, layer) for index, item in enumerate(layer)}


def _place(index: int, layer: Sequence[str]) -> float:
    """The position of an item in a layer, from -0.5 to 0.5."""
    return (index + 0.5) / len(layer) - 0.5


def _mean(items: Collection[str], place: Mapping[str, float], otherwise: float) -> float:
    return sum(place[item] for item in items) / len(items) if items else otherwise


def _route(chain: Sequence[str], at: Mapping[str, Point], height: float) -> list[Point]:
    """The points of an edge: it passes other layers vertically."""
    (x, y), (end_x, end_y) = at[chain[0]], at[chain[-1]]
    points = [(x, y + height)]
    for item in chain[1:-1]:
        points += [at[item], (at[item][0], at[item][1] + height)]
    return [*points, (end_x, end_y - 1)]
