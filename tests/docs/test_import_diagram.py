"""The picture of the imports has every package, and its arrows point down."""

from __future__ import annotations

import re
from itertools import pairwise

from docs.generate.import_diagram import BOX, GAP, count_edges, import_diagram
from docs.generate.imports import count_imports, module_graph
from docs.generate.layers import in_layers, positions, reduced

DIAMOND = {("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("a", "d")}


def test_an_edge_is_left_out_if_a_path_connects_its_ends() -> None:
    assert reduced(DIAMOND) == DIAMOND - {("a", "d")}


def test_every_edge_points_to_a_later_layer() -> None:
    assert in_layers(DIAMOND) == [["a"], ["b", "c"], ["d"]]


def test_an_edge_passes_beside_the_boxes_of_other_layers() -> None:
    edges = {("a", "b"), ("b", "c"), ("a", "c")}
    at, routes, (width, height) = positions(edges, BOX, GAP)
    (long,) = (points for points in routes if len(points) > 2)
    (x, upper), (_, lower) = long[1:3]
    assert (upper, lower) == (at["b"][1], at["b"][1] + BOX[1])
    assert abs(x - at["b"][0]) > BOX[0] / 2
    assert 0 < x < width and lower < height


def test_boxes_of_a_layer_do_not_overlap() -> None:
    at, _, (width, _) = positions({("a", name) for name in "bcdef"}, BOX, GAP)
    places = sorted(at[name][0] for name in "bcdef")
    assert all(right - left >= BOX[0] for left, right in pairwise(places))
    assert BOX[0] / 2 <= places[0] and places[-1] <= width - BOX[0] / 2


def test_the_picture_has_every_package_and_no_cycle() -> None:
    page = import_diagram()
    named = re.findall(r">([\w.]+)</text>", page)
    assert {group for pair in count_imports() for group in pair} <= set(named)
    assert named.count("diffedit") == named.count("engine") == 2
    ends = re.findall(r'<path d="M[\d.]+ ([\d.]+)C.* ([\d.]+)" fill', page.replace("/>", "/>\n"))
    assert ends and all(float(start) < float(end) for start, end in ends)


def test_imports_for_types_are_not_drawn() -> None:
    with_types, without = module_graph(), module_graph(types=False)
    assert "diffedit.request" in with_types["diffedit.presets"] - without["diffedit.presets"]
    edges = count_edges({"diffedit.cli": {"diffedit.pipeline"}, "diffedit.pipeline": set()})
    assert edges == {("diffedit.cli", "diffedit"): 1}
