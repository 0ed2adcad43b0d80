"""What refined borders keep of their photographs: the same masks, within a limit of memory."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the server extra")

from diffedit.algorithm.mask import ShapeOptions
from diffedit.imaging import geometry
from diffedit.server.refinement import GuideCache, StoredMap, refine
from diffedit.soft_map import SoftMap


def stored(side: int = 128, canvas: int = 64) -> StoredMap:
    photo = Image.effect_noise((side, side), 90).convert("RGB")
    across = np.linspace(0, 1, canvas // 4, dtype=np.float32)
    heat = np.minimum(across, across[:, None])
    placement = geometry.place((side, side), (canvas, canvas))
    return StoredMap.of(SoftMap(heat, placement, 4, ShapeOptions(cleaning="edges"), photo=photo))


@pytest.mark.parametrize("preview_side", ["", "70"])
def test_refined_masks_are_the_same_with_what_was_kept(preview_side: str) -> None:
    first, guides = stored(), GuideCache()
    for threshold in ("0.3", "0.5", "0.5"):
        fields = {"threshold": threshold}
        if preview_side:
            fields["preview_side"] = preview_side
        plain, cached = refine(first, fields), refine(first, fields, guides)
        assert (cached.mask, cached.shown) == (plain.mask, plain.shown)
        assert cached.shown.blend_mask != plain.shown.mask


def test_a_photograph_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SoftMap] = []
    inner = SoftMap.guide

    def guide(self: SoftMap, photo: Image.Image) -> object:
        made.append(self)
        return inner(self, photo)

    monkeypatch.setattr(SoftMap, "guide", guide)
    first, other, guides = stored(), stored(96), GuideCache()
    for one in (first, first, other, first):
        refine(one, {"threshold": "0.4"}, guides)
    assert len(made) == 2


def test_the_memory_that_is_kept_is_limited() -> None:
    masks = [stored() for _ in range(4)]
    guides = GuideCache(max_bytes=1)
    refine(masks[0], {"threshold": "0.4"}, guides)
    assert guides.nbytes == 0
    refine(masks[0], {"threshold": "0.4"}, guides := GuideCache())
    one = guides.nbytes
    assert one == 3 * 128**2 + (3 + 9 * 8) * 64**2
    guides = GuideCache(max_bytes=2 * one)
    for mask in masks:
        refine(mask, {"threshold": "0.4"}, guides)
    assert guides.nbytes == 2 * one


def test_nothing_of_a_picture_is_kept_longer_than_its_mask() -> None:
    guides, first = GuideCache(), stored()
    photo = weakref.ref(first.soft.photo)
    refined = refine(first, {"threshold": "0.4"}, guides)
    assert guides.nbytes > 0
    del first, refined
    gc.collect()
    assert guides.nbytes == 0 and photo() is None
