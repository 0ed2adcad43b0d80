"""Random checkpoints of the published dimensions can be opened: their parts fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.random_checkpoint import KINDS, make_tokenizer
from diffedit.conditioning.tokenizer import Tokenizer
from engine.models.vocabulary import check_vocabulary


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_the_tokenizer_of_a_published_size_fits_its_text_encoder(kind: str, tmp_path: Path) -> None:
    rows = KINDS[kind]["text_encoder"]["vocab_size"]
    assert make_tokenizer(tmp_path / "large", size=rows) == rows
    check_vocabulary(tmp_path / "large", KINDS[kind]["text_encoder"])
    small = make_tokenizer(tmp_path / "small")
    ids = {name: Tokenizer(tmp_path / name, 77).encode("a red cup") for name in ("small", "large")}
    assert ids["large"][0] == rows - 2 and ids["small"][0] == small - 2
    assert ids["large"][1:4] == ids["small"][1:4], "the words are the same tokens"
