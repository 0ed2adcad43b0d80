"""Scenes: pictures, captions and masks agree with each other at any size."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from demo import scenes
from demo.scenes import EVALUATION, KINDS, batch, describe, parse, random_recipe, render, scene
from demo.scenes.backgrounds import PAINTERS
from demo.scenes.colours import COLOURS
from tests.demo.drawn import SEEDS, all_edits, grown, some

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", [0, 5, 123_456, EVALUATION])
def test_a_seed_is_a_scene(seed: int) -> None:
    one, two = scene(seed, 48), scene(seed, 48)
    assert one.image.shape == (48, 48, 3) and one.image.dtype == np.uint8
    assert one.recipe == two.recipe and one.caption == two.caption
    assert np.array_equal(one.image, two.image)
    for a, b in zip(one.objects, two.objects, strict=True):
        assert np.array_equal(a.mask, b.mask)
    edits = [[(e.index, e.source, e.target) for e in s.edits()] for s in (one, two)]
    assert edits[0] == edits[1]


def test_other_seeds_are_other_scenes() -> None:
    assert len({s.image.tobytes() for s in some()}) == len(SEEDS)


def test_scenes_are_the_same_on_every_machine() -> None:
    """A change of this digest changes what the shipped model was trained and measured on."""
    digest = hashlib.sha256()
    for seed in range(64):
        digest.update(scene(seed).image.tobytes())
    assert digest.hexdigest()[:16] == "63725b81acf6b93b"


def full_digest(seed: int, size: int) -> str:
    """Of the picture, the caption, the masks and all edits with their results."""
    one, digest = scene(seed, size), hashlib.sha256()
    digest.update(one.image.tobytes() + one.caption.encode())
    for o in one.objects:
        digest.update(o.mask.tobytes() + json.dumps([o.kind, o.colour, o.box]).encode())
    for edit in one.edits():
        digest.update((edit.change + edit.source + edit.target).encode())
        digest.update(one.edited(edit).image.tobytes() + one.touched(edit).tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("seed", "size", "digest"),
    [
        (0, 64, "b93529e902c9cc3f"),
        (1, 128, "ab13eae249414859"),
        (2, 48, "8c36498ad20ba912"),
        (7, 16, "26e5bf3d91a86399"),
        (123_456, 64, "6ee50807fe6f6fa1"),
        (970_004, 128, "07085bf7d2af57fa"),
        (EVALUATION, 128, "fa211980d443e093"),
        (EVALUATION + 1, 200, "5391c6a4e6174cd1"),
    ],
)
def test_masks_captions_and_edits_of_a_seed_never_change(seed: int, size: int, digest: str) -> None:
    assert full_digest(seed, size) == digest


def test_batches_and_words_never_change() -> None:
    images, captions = batch(range(5000, 5300))
    digest = hashlib.sha256(images.tobytes() + "\n".join(captions).encode())
    assert digest.hexdigest()[:16] == "c63031a8a0ce8501"
    assert hashlib.sha256(" ".join(scenes.WORDS).encode()).hexdigest()[:16] == "a344ce8088553532"


@pytest.mark.parametrize("seed", range(12))
def test_another_size_is_the_same_scene(seed: int) -> None:
    small, large = scene(seed, 64), scene(seed, 256)
    assert small.caption == large.caption
    reduced = np.asarray(Image.fromarray(large.image).reduce(4), np.float32)
    assert np.abs(reduced - small.image).mean() < 4
    for a, b in zip(small.objects, large.objects, strict=True):
        assert a.box == b.box
        blocks = b.mask.reshape(64, 4, 64, 4).mean((1, 3)) >= 0.5
        assert (blocks & a.mask).sum() / (blocks | a.mask).sum() > 0.87
        off = blocks != a.mask  # only along the outline
        assert not (off & ~(grown(a.mask) & grown(~a.mask))).any()


def test_batch_is_its_scenes() -> None:
    images, captions = batch(range(7, 15), 32)
    assert images.shape == (8, 32, 32, 3) and images.flags.writeable
    for n, seed in enumerate(range(7, 15)):
        assert np.array_equal(images[n], scene(seed, 32).image)
        assert captions[n] == scene(seed, 32).caption


def test_captions_name_the_objects_from_left_to_right() -> None:
    for s in some():
        assert parse(s.caption) == (tuple((o.kind, o.colour) for o in s.objects), s.background)
        assert [o.centre[0] for o in s.objects] == sorted(o.centre[0] for o in s.objects)
        assert len({o.kind for o in s.objects}) == len({o.colour for o in s.objects})
        assert len({o.kind for o in s.objects}) == len(s.objects) in (1, 2, 3)


def test_a_caption_reads_like_this() -> None:
    two = [("ball", "red"), ("cube", "orange")]
    assert describe(two, "wood") == "a red ball and an orange cube on a wooden table"
    assert describe([("star", "white")], "studio") == "a white star in a studio"


@given(
    things=st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from(scenes.COLOURS)), min_size=1, max_size=3
    ),
    background=st.sampled_from(tuple(scenes.BACKGROUNDS)),
)
def test_parse_is_describe_backwards(things: list[tuple[str, str]], background: str) -> None:
    assert parse(describe(things, background)) == (tuple(things), background)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red ball",
        "on the grass",
        "a orange ball on the grass",
        "a red house on the grass",
        "a red ball and on the grass",
        "a red ball and on the grass in a studio",
        "a red ball and a big green cube on the grass",
        "a red ball on the moon",
    ],
)
def test_other_texts_are_no_captions(text: str) -> None:
    with pytest.raises(ValueError, match="not a caption"):
        parse(text)


def test_the_vocabulary_is_closed_and_has_no_idle_word() -> None:
    captions = [s.caption for s in some()] + [e.target for _, e in all_edits()]
    assert {w for c in captions for w in c.split()} == set(scenes.WORDS)
    assert len(scenes.WORDS) < 48


def test_every_background_has_a_painter() -> None:
    assert list(PAINTERS) == list(scenes.BACKGROUNDS)


def test_masks_are_apart_and_inside_their_boxes() -> None:
    for s in some():
        assert sum(o.mask.astype(int) for o in s.objects).max() == 1  # type: ignore[union-attr]
        for o in s.objects:
            assert o.mask.shape == s.image.shape[:2] and o.mask.dtype == np.bool_
            assert 0 < o.box[0] < o.box[2] < 1 and 0 < o.box[1] < o.box[3] < 1
            rows, columns = np.nonzero(o.mask)
            left, top, right, bottom = (64 * b for b in o.box)
            assert left - 1 <= columns.min() and columns.max() <= right
            assert top - 1 <= rows.min() and rows.max() <= bottom


def test_every_object_is_large_enough_and_hardly_hidden() -> None:
    for s in some():
        for i, o in enumerate(s.objects):
            assert 0.015 < o.mask.mean() < 0.25
            _, owner = render(replace(s.recipe, objects=(s.recipe.objects[i],)), 64)
            assert o.mask.sum() >= 0.85 * (owner == 0).sum()


def test_the_foremost_object_owns_a_pixel() -> None:
    """If two objects overlap, the lower one in the picture hides the other."""
    plan = random_recipe(next(seed for seed in SEEDS if len(random_recipe(seed).objects) == 2))
    first, second = plan.objects
    back = replace(first, kind="ball", x=0.5, base=0.8, scale=0.4)
    front = replace(second, kind="cube", x=0.5, base=0.9, scale=0.4)
    for things, nearer in (((back, front), 1), ((front, back), 0)):
        _, owner = render(replace(plan, objects=things), 64)
        assert (owner == nearer).sum() > 1.2 * (owner == 1 - nearer).sum() > 0


def nearest_colour(pixels: NDArray[np.uint8]) -> str:
    """The colour whose line from shade to full light is nearest to the pixels' median."""
    middle = np.median(pixels.astype(np.float64), axis=0)

    def distance(name: str) -> float:
        shade, full = (np.array(c, np.float64) for c in COLOURS[name])
        share = np.clip((middle - shade) @ (full - shade) / ((full - shade) @ (full - shade)), 0, 1)
        return float(np.linalg.norm(middle - shade - share * (full - shade)))

    return min(COLOURS, key=distance)


def test_an_object_has_the_colour_it_is_said_to_have() -> None:
    for s in [*some(), *(s.edited(e) for s, e in all_edits()[::3])]:
        for o in s.objects:
            assert nearest_colour(s.image[o.mask]) == o.colour


def test_objects_stand_out_from_what_is_around_them() -> None:
    """The rim just outside a mask differs from the object in the median by a clear step."""
    for s in some():
        others = np.any([o.mask for o in s.objects], axis=0)
        for o in s.objects:
            around = grown(grown(grown(o.mask))) & ~grown(others)
            inside = np.median(s.image[o.mask].astype(float), axis=0)
            outside = np.median(s.image[around].astype(float), axis=0)
            assert np.abs(inside - outside).max() > 20
