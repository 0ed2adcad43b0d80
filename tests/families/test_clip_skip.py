"""clip_skip gives the same embeddings as diffusers', for each family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from demo import random_checkpoint
from engine.derived.additions import Additions
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from tests.families.addition_tools import (
    check_equal,
    condition,
    their_condition,
    theirs,
)
from tests.shared import Folders

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(("kind", "skip"), [("deep", 1), ("deep-sdxl", 1), ("deep-sd3", 2)])
@torch.inference_mode()
def test_clip_skip_equals_theirs(kind: str, skip: int, tmp_path: Path) -> None:
    """With more layers than the tiny encoders have, because SDXL and SD 3 leave out one already."""
    base = kind.replace("deep", "tiny") + ("-no-t5" if kind == "deep-sd3" else "")
    configs = dict(random_checkpoint.KINDS[base])
    for part in ("text_encoder", "text_encoder_2"):
        if part in configs:
            configs[part] = {**configs[part], "num_hidden_layers": 4}
    random_checkpoint.KINDS[kind] = configs
    try:
        folder = random_checkpoint.make(tmp_path / base, kind)
    finally:
        del random_checkpoint.KINDS[kind]
    checkpoint = find_checkpoint(folder, additions=Additions(clip_skip=skip))
    pipe = theirs(folder)
    inner = getattr(
        pipe.text_encoder, "text_model", pipe.text_encoder
    )  # the level that transformers dropped
    object.__setattr__(pipe.text_encoder, "text_model", inner)
    ours = condition(checkpoint, "a red ball")
    check_equal(ours, their_condition(pipe, "a red ball", clip_skip=skip))
    plain = their_condition(pipe, "a red ball")
    assert (ours[0] - plain[0]).abs().max() > 0.01


def test_clip_skip_changes_the_digests_of_text_encoders_alone(folders: Folders) -> None:
    """Engines that were built without it therefore belong to another model."""
    plain, skipping = (
        find_checkpoint(folders("tiny"), additions=Additions(clip_skip=skip)).digests()
        for skip in (0, 1)
    )
    assert [part for part in plain if plain[part] != skipping[part]] == ["text_encoder"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("tiny", "clip_skip is 9, but .* can skip at most 1"),
        ("tiny-flux", "does not use the hidden layers"),
    ],
)
def test_clip_skip_that_cannot_be(kind: str, words: str, folders: Folders) -> None:
    with pytest.raises(CheckpointError, match=words):
        find_checkpoint(folders(kind), additions=Additions(clip_skip=9))
