"""Textual inversions that are saved in a checkpoint: token ids equal to diffusers'."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffedit.conditioning.tokenizer import Tokenizer
from engine.hub import find_checkpoint
from engine.loader import quiet

VECTORS = {"<one>": 1, "<two>": 2, "<toy>": 3, "<long-thing>": 5, "sks": 2, "<Upper>": 2}
"""Token -> vectors. CLIP lowers the case of a text, and of added tokens."""


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> Any:
    with quiet():
        pipe = StableDiffusionPipeline.from_pretrained(tiny)
        for token, count in VECTORS.items():
            pipe.load_textual_inversion({token: torch.randn(count, 32)}, token=token)
    return pipe


@pytest.fixture(scope="module")
def folder(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline as diffusers saves it."""
    folder = tmp_path_factory.mktemp("inversions") / "model"
    with quiet():
        pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder / "tokenizer", 77)


def ids_of_diffusers(pipe: Any, text: str) -> tuple[int, ...]:
    """As `StableDiffusionPipeline.encode_prompt` computes them."""
    converted = pipe.maybe_convert_prompt(text, pipe.tokenizer)
    with quiet():
        ids = pipe.tokenizer(converted, padding="max_length", max_length=77, truncation=True)
    return tuple(ids["input_ids"])


TEXTS = [
    "a red ball",
    "a <one> ball",
    "a <two> ball",
    "<toy>",
    "a <toy> ball",
    "a <long-thing> on a <toy>",
    "<toy> and <toy>",
    "<toy><two>",
    "a <toy>, a (<two>)!",
    "photo of <toy>'s cup",
    "a sks dog, sks",
    "a <Upper> and a <upper>",
    "a <TOY> ball",
    "a <toy",
    "a\n<toy>\tball",
    "é <toy> 🙂 <two>",
    *(" ".join(["cup"] * n) + " <long-thing> bowl" for n in range(68, 77)),
    "<long-thing> " * 30,
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:40].replace("\n", " "))
def test_the_ids_are_those_of_diffusers(pipe: Any, tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == ids_of_diffusers(pipe, text)


def test_the_ids_of_random_texts_are_those_of_diffusers(pipe: Any, tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    words = [*VECTORS, "a", "cup", "Zebra", ",", "(", ")", ".", "!", "<", ">", "_1"]
    for _ in range(200):
        text = "".join(
            draw.choice(words) + draw.choice(["", " ", "  "]) for _ in range(draw.randint(1, 40))
        )
        if any(f"{token}_1" in text for token in VECTORS):
            continue  # a text that names an inner token: diffusers' answer depends on the hash seed
        assert tokenizer.encode(text) == ids_of_diffusers(pipe, text), text


def test_the_files_of_older_versions_give_the_same_ids(
    tiny: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Transformers 4 wrote added tokens to a file of their own."""
    old = Path(shutil.copytree(tiny / "tokenizer", tmp_path / "tokenizer"))
    added = tokenizer._tokenizer.added_tokens_encoder
    vocabulary = json.loads((old / "vocab.json").read_text())
    added = {token: number for token, number in added.items() if token not in vocabulary}
    (old / "added_tokens.json").write_text(json.dumps(added))
    assert len(added) == sum(VECTORS.values())
    for text in TEXTS:
        assert Tokenizer(old, 77).encode(text) == tokenizer.encode(text), text


def test_the_checkpoint_with_inversions_opens(folder: Path, tokenizer: Tokenizer) -> None:
    family = find_checkpoint(folder).family
    assert max(tokenizer.encode("<long-thing> <Upper>")) < family.text_inputs[0].vocabulary


def test_a_warning_quotes_the_text_as_it_was_written(tokenizer: Tokenizer) -> None:
    cups = " ".join(["cup"] * 73)
    assert tokenizer.truncated_text(f"{cups} <toy> Pear") == "<toy> Pear"  # two of its three fit
    assert tokenizer.truncated_text(f"{cups} <two> Pear") == "Pear"
    assert tokenizer.truncated_text(f"{cups} <two>") == ""
    assert tokenizer.truncated_text(f"<long-thing> {cups} bowl") == "cup cup cup bowl"
