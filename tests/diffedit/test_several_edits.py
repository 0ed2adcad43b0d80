"""`edits`: the requests, their errors, and the results of a pipeline."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from diffedit import DiffEditPipeline, Edit, EditRequest, EditResult
from diffedit.request import InvalidRequest, parameters

FAST: dict[str, Any] = {
    "preset": "paper",
    "num_inference_steps": 5,
    "num_maps_per_mask": 2,
    "mask_thresholding_ratio": 2.5,
}
TWO = [("a red ball", "a blue ball"), ("a red ball", "green grass")]


@pytest.fixture(scope="module")
def wide() -> Image.Image:
    rows = np.random.default_rng(0).integers(0, 255, (9, 16, 3), np.uint8)
    return Image.fromarray(rows).resize((320, 180))


def edited(pipe: DiffEditPipeline, photo: Image.Image, edits: Any, **options: Any) -> EditResult:
    return pipe(photo, edits=edits, **{**FAST, **options})


def union(masks: list[Image.Image]) -> Image.Image:
    first, *others = masks
    for other in others:
        first = ImageChops.lighter(first, other)
    return first


@pytest.mark.parametrize(
    "one",
    [
        Edit("a cup", "a pear"),
        Edit(prompt="a cup", source_prompt="a pear"),
        {"prompt": "a cup", "source_prompt": "a pear"},
        ("a pear", "a cup"),
        ["a pear", "a cup"],
        "a pear -> a cup",
        "a pear->a cup ",
    ],
)
def test_an_edit_is_written_in_several_ways(one: Any) -> None:
    request = EditRequest("a.png", edits=[one, Edit("a dog")])
    assert request.edits == (Edit("a cup", "a pear"), Edit("a dog", ""))
    assert request.pairs == (("a pear", "a cup"), ("", "a dog"))
    hash(request)


def test_the_parameters_survive_json() -> None:
    request = EditRequest("a.png", edits=TWO, preset="draft")
    stored = parameters(request)
    again = EditRequest.from_parameters("a.png", json.loads(json.dumps(stored)))
    assert again.edits == request.edits and parameters(again) == stored
    assert "edits" not in parameters(EditRequest("a.png", "a cup"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"edits": [("a", "b"), ("a", " ")]}, "Edit 2: prompt is blank"),
        ({"edits": [("a", "b"), ("a", 3)]}, "Edit 2: prompt is 3 of type int"),
        ({"edits": [("a", "b\0")]}, "Edit 1: prompt .*NUL"),
        ({"edits": ["a cup"]}, "Edit 1: An edit is 'a cup', but must be an Edit"),
        ({"edits": [("a", "b", "c")]}, "Edit 1: An edit is .*a pair"),
        ({"edits": [{"promt": "a"}]}, "Edit 1: There is no field of an edit 'promt'; did you mean"),
        ({"edits": [{"source_prompt": "a"}]}, "Edit 1: .*prompt"),
        ({"edits": "a -> b"}, "edits is 'a -> b', but must be a list"),
        ({"edits": ("a", "b")}, "Edit 1: An edit is 'a'"),
        ({"edits": 3}, "edits is 3, but must be a list"),
        ({"edits": [("a", "b")] * 17}, "edits has 17 edits, but at most 16"),
        ({"edits": TWO, "prompt": "c"}, "prompt is 'c', but edits is given"),
        ({"edits": TWO, "source_prompt": "c"}, "source_prompt is 'c', but edits"),
        ({"edits": TWO, "mask_image": b""}, "mask_image is given, but each"),
        ({"edits": TWO, "method": "encode-decode"}, "method is 'encode-decode', which makes one"),
        ({"edits": TWO, "preset": "instant"}, "method is 'chordedit', which makes one"),
        ({"edits": TWO, "focus": True}, "focus is True, but a window"),
        ({"edits": TWO, "focus": "auto"}, "focus is 'auto', but a window"),
        ({"edits": []}, "prompt is blank"),
        ({}, "prompt is blank"),
    ],
)
def test_contradictions(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        EditRequest("a.png", **options)


@pytest.mark.parametrize("cleaning", ["none", "edges"])
def test_the_result_has_the_mask_of_each_edit(
    pipe: DiffEditPipeline, wide: Image.Image, cleaning: str
) -> None:
    result = edited(pipe, wide, TWO, mask_cleaning=cleaning, mask_feather=0.02)
    one, other = result.edits
    assert one.mask.getbbox() and other.mask.getbbox(), "the test needs two masks"
    assert not (one.latent_mask & other.latent_mask).any()
    assert (one.latent_mask | other.latent_mask == result.latent_mask).all()
    assert not ImageChops.difference(union([one.mask, other.mask]), result.mask).getbbox()
    assert (np.maximum(one.heatmap, other.heatmap) == result.heatmap).all()
    outside = np.asarray(result.mask) == 0
    assert (np.asarray(result.image)[outside] == np.asarray(wide)[outside]).all()
    assert not ImageChops.subtract(result.blend_mask, result.mask).getbbox()
    single = pipe(wide, TWO[0][1], TWO[0][0], mask_cleaning=cleaning, mask_feather=0.02, **FAST)
    assert not (one.latent_mask & ~single.latent_mask).any()
    if cleaning == "none":  # else a margin may give way to the other mask
        assert not ImageChops.difference(one.mask, single.mask).getbbox()
    refined = pipe.refine(other, threshold=0.2)
    assert np.asarray(refined.mask).sum() >= np.asarray(other.mask).sum()
    with pytest.raises(InvalidRequest, match="several edits"):
        pipe.refine(result)


def test_an_edit_without_a_mask_is_named_and_the_others_go_on(
    pipe: DiffEditPipeline, wide: Image.Image
) -> None:
    edits = [("a red ball", "a red ball"), *TWO, TWO[0]]
    result = edited(pipe, wide, edits)
    assert [bool(edit.latent_mask.any()) for edit in result.edits] == [False, True, True, False]
    first, last = result.warnings
    assert first.startswith("Edit 1 ('a red ball') changes nothing. Both texts are the same")
    assert last.startswith("Edit 4 ('a blue ball') changes nothing. Its texts do not differ")
    again = edited(pipe, wide, TWO)
    assert not ImageChops.difference(result.image, again.image).getbbox()


def test_a_long_text_is_named_by_its_edit(pipe: DiffEditPipeline, wide: Image.Image) -> None:
    (warning,) = edited(pipe, wide, [TWO[0], ("a", "very " * 200 + "long")]).warnings
    assert "prompt of edit 2" in warning


def test_the_masks_alone(pipe: DiffEditPipeline, wide: Image.Image) -> None:
    request = EditRequest(wide, edits=TWO, **FAST)
    found = pipe.submit(request, mask_only=True).result()
    assert found.stats.rows["unet"] == 2 * 3
    whole = edited(pipe, wide, TWO)
    for edit, other in zip(found.edits, whole.edits, strict=True):
        assert (edit.latent_mask == other.latent_mask).all()


def test_writing_into_a_result_changes_no_other(pipe: DiffEditPipeline, wide: Image.Image) -> None:
    handle = pipe.submit(EditRequest(wide, edits=TWO, **FAST))
    first, second = handle.result(), handle.result()
    kept = second.edits[0].latent_mask.copy()
    first.edits[0].latent_mask[:] = True
    first.edits[0].heatmap[:] = 5
    assert (second.edits[0].latent_mask == kept).all()
    assert (handle.result().edits[0].latent_mask == kept).all()
