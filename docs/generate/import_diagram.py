"""Draw which package imports which: an SVG picture, computed from the source.

The modules directly in `diffedit` and in `engine` are of two kinds: those that use the subpackages,
and those that the subpackages use. Each kind is a separate box. Imports for type annotations are
not counted. If two boxes import each other, the arrow has the direction with more imports. An arrow
is left out if a chain of arrows connects the same boxes. `docs.generate.layers` computes the
positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from html import escape

from docs.generate.imports import group_of, module_graph
from docs.generate.layers import Edge, Point, positions, reduced

BOX = (138, 44)
"""Width and height of a box in pixels."""
GAP = (16, 40)
"""Space between the boxes of a layer, and between layers, in pixels."""
FILL = {"diffedit": "#3949ab", "engine": "#00695c", "export": "#8d4e00"}
"""Top-level package -> color. White text on it has a contrast above 4.5."""
TITLES = {
    "diffedit +": ("diffedit", "pipeline, handle, result"),
    "diffedit": ("diffedit", "request, presets"),
    "engine +": ("engine", "checkpoint, batcher"),
    "engine": ("engine", "rows, netspec, manifest"),
}
"""Box -> its two lines, if it is not a whole package."""
HEAD = (
    '<defs><marker id="import-end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
    'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>'
)


def import_diagram() -> str:
    """The picture as an HTML block with inline SVG."""
    counts = count_edges(module_graph(types=False))
    down = {(one, other) for one, other in counts if counts[one, other] > counts[other, one]}
    at, routes, size = positions(reduced(down), BOX, GAP)
    shapes = [*map(_arrow, routes), *(_box(box, *point) for box, point in at.items())]
    return (
        f'<div class="diagram"><svg viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" role="img" '
        f'aria-label="Which package imports which">{HEAD}{"".join(shapes)}</svg></div>'
    )


def count_edges(graph: Mapping[str, Collection[str]]) -> Counter[Edge]:
    """The number of imports from the modules of one box to those of another."""
    boxes = {module: _box_of(module, graph) for module in graph}
    pairs = ((boxes[one], boxes[other]) for one in graph for other in graph[one])
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def _box_of(module: str, graph: Mapping[str, Collection[str]]) -> str:
    """The package of a module; "diffedit +" or "engine +" if it uses the package's subpackages."""
    group, top = group_of(module), module.split(".")[0]
    if group != top:
        return group
    reached, waiting = {module}, [module]
    while waiting:
        found = set(graph[waiting.pop()]) - reached
        reached |= found
        waiting += found
    uses_subpackages = any(group_of(other) not in (top, other.split(".")[0]) for other in reached)
    return f"{top} +" if uses_subpackages and _is_split(top, graph, reached) else top


def _is_split(top: str, graph: Mapping[str, Collection[str]], reached: Collection[str]) -> bool:
    """Whether some of the reached modules are in subpackages of `top`."""
    return any(group_of(other) != top for other in reached if other.startswith(f"{top}."))


def _box(box: str, x: float, y: float) -> str:
    """A rounded box with its name; (x, y) is the middle of its upper side."""
    width, height = BOX
    lines = TITLES.get(box, (box,))
    first = y + height / 2 + (4.5 if len(lines) == 1 else -3)
    texts = [
        f'<text x="{x:.1f}" y="{first + 16 * number:.1f}" text-anchor="middle" fill="#fff" '
        f'font-size="{11.5 if number else 13}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    fill = FILL[box.split(".")[0].removesuffix(" +")]
    return (
        f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width}" height="{height}" rx="5" '
        f'fill="{fill}"/>{"".join(texts)}'
    )


def _arrow(points: Sequence[Point]) -> str:
    """A smooth curve through points that begins and ends vertically."""
    (x, y), *others = points
    path = f"M{x:.1f} {y:.1f}"
    for end_x, end_y in others:
        middle = (y + end_y) / 2
        path += f"C{x:.1f} {middle:.1f} {end_x:.1f} {middle:.1f} {end_x:.1f} {end_y:.1f}"
        x, y = end_x, end_y
    return (
        f'<path d="{path}" fill="none" stroke="currentColor" stroke-opacity=".6" '
        'stroke-width="1.4" marker-end="url(#import-end)"/>'
    )
