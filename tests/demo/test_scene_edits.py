"""Edits of scenes: what changes, and what stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from demo import scenes
from demo.scenes import EVALUATION, KINDS, describe, random_recipe
from tests.demo.drawn import all_edits, grown, some


def test_every_object_has_a_recolouring_and_a_replacement() -> None:
    for s in some():
        edits = s.edits()
        assert [(e.index, e.change) for e in edits] == [
            (i, change) for i in range(len(s.objects)) for change in ("recolour", "replace")
        ]
        for e in edits:
            o = s.objects[e.index]
            same, other = (e.kind, e.colour) if e.change == "recolour" else (e.colour, e.kind)
            assert same in (o.kind, o.colour)
            assert other not in {n for p in s.objects for n in (p.kind, p.colour)}
            assert np.array_equal(e.mask, o.mask)
            assert e.source == s.caption


def test_the_edited_scene_is_what_the_target_text_says() -> None:
    for s, e in all_edits()[::2]:
        after = s.edited(e)
        things = [(o.kind, o.colour) for o in s.objects]
        things[e.index] = (e.kind, e.colour)
        assert after.caption == e.target == describe(things, s.background)
        assert after.objects[e.index].box == s.objects[e.index].box


def test_an_edit_leaves_every_other_pixel_and_mask_as_it_was() -> None:
    for s, e in all_edits():
        after, touched = s.edited(e), s.touched(e)
        differs = (after.image != s.image).any(axis=2)
        assert not (differs & ~touched).any()
        old, new = s.objects[e.index].mask, after.objects[e.index].mask
        assert not ((old | new) & ~touched).any()
        for i, (a, b) in enumerate(zip(s.objects, after.objects, strict=True)):
            assert i == e.index or not ((a.mask != b.mask) & ~touched).any()


def test_a_recolouring_stays_within_two_pixels_of_the_object() -> None:
    for s, e in all_edits():
        if e.change == "recolour":
            after = s.edited(e)
            differs = (after.image != s.image).any(axis=2)
            assert not (differs & ~grown(grown(e.mask))).any()
            assert (differs & e.mask).sum() > 0.9 * e.mask.sum()
            for a, b in zip(s.objects, after.objects, strict=True):
                assert np.array_equal(a.mask, b.mask)


def test_a_replacement_changes_the_shape() -> None:
    for s, e in all_edits():
        if e.change == "replace":
            old, new = e.mask, s.edited(e).objects[e.index].mask
            assert (old & new).sum() / (old | new).sum() < 0.97
            assert s.touched(e).mean() < 0.5


def test_undoing_an_edit_gives_the_scene_back() -> None:
    for s, e in all_edits()[::7]:
        o = s.objects[e.index]
        back = s.edited(e).edited(replace(e, kind=o.kind, colour=o.colour))
        assert np.array_equal(back.image, s.image)


def test_everything_occurs_about_equally_often() -> None:
    plans = [random_recipe(seed) for seed in range(4000)]
    counts: list[Counter[object]] = [
        Counter(p.background for p in plans),
        Counter(len(p.objects) for p in plans),
        Counter(t.kind for p in plans for t in p.objects),
        Counter(t.colour for p in plans for t in p.objects),
        Counter((t.kind, t.colour) for p in plans for t in p.objects),
    ]
    assert [len(c) for c in counts] == [8, 3, 8, 8, 64]
    for count, slack in zip(counts, (0.15, 0.1, 0.1, 0.1, 0.4), strict=True):
        mean = count.total() / len(count)
        assert all(abs(n / mean - 1) < slack for n in count.values())


def test_edits_choose_among_all_kinds_and_colours() -> None:
    assert {e.kind for _, e in all_edits()} == set(KINDS)
    assert {e.colour for _, e in all_edits()} == set(scenes.COLOURS)


def test_training_never_reaches_the_reserved_seeds() -> None:
    assert EVALUATION == 1_000_000
    assert scenes.training_seeds() == range(EVALUATION)
    assert scenes.training_seeds(10, 5) == range(5, 15)
    assert max(scenes.training_seeds(1, EVALUATION - 1)) < min(scenes.evaluation_seeds(200))
    for count, start in ((EVALUATION + 1, 0), (2, EVALUATION - 1), (1, EVALUATION), (1, -1)):
        with pytest.raises(ValueError, match="kept for evaluation"):
            scenes.training_seeds(count, start)
