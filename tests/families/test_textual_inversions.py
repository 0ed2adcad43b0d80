"""Textual inversions give the same embeddings as diffusers'; files that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.derived.additions import Additions
from engine.derived.embeddings import parse_embedding
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from tests.families.addition_tools import (
    check_equal,
    condition,
    saved,
    their_condition,
    theirs,
    vectors,
)
from tests.shared import Folders

pytestmark = pytest.mark.usefixtures("own_cache")


VECTORS = {"<one>": 1, "<toy>": 3, "sks": 2}
TEXTS = ["a <toy> on the grass", "sks and <one>, a red ball", "a red ball"]


def files(folder: Path, kind: str) -> tuple[tuple[Path, str | None], ...]:
    """One file per token, in the layouts that people have."""
    found: list[tuple[Path, str | None]] = []
    for seed, (token, count) in enumerate(VECTORS.items()):
        first, second = vectors(count, 32, seed), vectors(count, 32, seed + 50)
        path = folder / f"{token.strip('<>')}.safetensors"
        if kind == "tiny-sdxl":
            save_file({"clip_l": first, "clip_g": second}, path)
            found.append((path, token))
        elif token == "sks":  # as stable-diffusion-webui: the name is that of the file
            save_file({"emb_params": first}, path)
            found.append((path, None))
        else:  # as diffusers: the name is that of the tensor
            save_file({token: first if count > 1 else first[0]}, path)
            found.append((path, None))
    return tuple(found)


@pytest.mark.parametrize("kind", ["tiny", "tiny-sdxl"])
@torch.inference_mode()
def test_textual_inversions_equal_theirs(kind: str, folders: Folders, tmp_path: Path) -> None:
    folder = folders(kind)
    pipe = theirs(folder)
    for seed, (token, count) in enumerate(VECTORS.items()):
        pipe.load_textual_inversion({token: vectors(count, 32, seed)}, token=token)
        if kind == "tiny-sdxl":
            pipe.load_textual_inversion(
                {token: vectors(count, 32, seed + 50)},
                token=token,
                text_encoder=pipe.text_encoder_2,
                tokenizer=pipe.tokenizer_2,
            )
    checkpoint = find_checkpoint(folder, additions=Additions(embeddings=files(tmp_path, kind)))
    for text in TEXTS:
        check_equal(condition(checkpoint, text), their_condition(pipe, text))
    origin = checkpoint.origin
    assert origin is not None
    assert [file.name for file in origin.of("embedding")] == [
        *("one.safetensors", "toy.safetensors", "sks.safetensors")
    ]
    assert checkpoint.source == str(folder)


@torch.inference_mode()
def test_a_text_without_the_token_stays_as_it_is(folders: Folders, tmp_path: Path) -> None:
    folder = folders("tiny")
    more = find_checkpoint(folder, additions=Additions(embeddings=files(tmp_path, "tiny")))
    check_equal(condition(more, "a cat"), condition(find_checkpoint(folder), "a cat"))


BAD: dict[str, tuple[str, dict[str, Tensor], str | None, str]] = {
    "other width": ("tiny", {"emb_params": torch.zeros(1, 768)}, None, "has 768 .* model has 32"),
    "SDXL's on SD": (
        "tiny",
        {"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(1, 32)},
        None,
        "has clip_g, clip_l, but this model needs one tensor",
    ),
    "SD's on SDXL": (
        "tiny-sdxl",
        {"emb_params": torch.zeros(1, 32)},
        None,
        "needs clip_l and clip_g",
    ),
    "unequal": (
        "tiny-sdxl",
        {"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(2, 32)},
        None,
        "has 1 and 2 vectors",
    ),
    "too many": ("tiny", {"emb_params": torch.zeros(99, 32)}, None, "99 vectors; at most 75"),
    "a known word": ("tiny", {"emb_params": torch.zeros(1, 32)}, "cat</w>", "already one of"),
    "two words": ("tiny", {"emb_params": torch.zeros(1, 32)}, "a toy", "must be one word"),
    "not a list": ("tiny", {"emb_params": torch.zeros(1, 1, 32)}, None, "not a list of vectors"),
    "damaged": ("tiny", {"emb_params": torch.full((1, 32), float("nan"))}, None, "NaN"),
    "FLUX": ("tiny-flux", {"clip_l": torch.zeros(1, 32)}, None, "for Stable Diffusion 1, 2 and XL"),
}


@pytest.mark.parametrize("case", BAD)
def test_embeddings_that_do_not_fit(case: str, folders: Folders, tmp_path: Path) -> None:
    kind, tensors, token, words = BAD[case]
    path = saved(tmp_path / "toy9.safetensors", **tensors)
    with pytest.raises(CheckpointError, match=words) as caught:
        find_checkpoint(folders(kind), additions=Additions(embeddings=((path, token),)))
    assert "\n" not in str(caught.value)


def test_embeddings_that_are_not_there(folders: Folders, tmp_path: Path) -> None:
    pickle = tmp_path / "e.pt"
    pickle.write_bytes(b"PK\x03\x04")
    for path, words in ((tmp_path / "no", "There is no embedding"), (pickle, "can run code")):
        with pytest.raises(CheckpointError, match=words):
            find_checkpoint(folders("tiny"), additions=Additions(embeddings=((path, None),)))


def test_two_files_with_one_token(folders: Folders, tmp_path: Path) -> None:
    path = saved(tmp_path / "e.safetensors", emb_params=torch.zeros(1, 32))
    with pytest.raises(CheckpointError, match=r"'<x>' of .* already one of .*e\.safetensors; pass"):
        find_checkpoint(
            folders("tiny"), additions=Additions(embeddings=((path, "<x>"), (path, "<x>")))
        )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a.safetensors:<toy>", ("a.safetensors", "<toy>")),
        ("a.safetensors", ("a.safetensors", None)),
    ],
)
def test_file_and_token(text: str, wanted: tuple[str, str | None]) -> None:
    assert parse_embedding(text) == (Path(wanted[0]), wanted[1])
