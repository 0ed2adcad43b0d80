"""Token ids from a small T5 tokenizer: padding, truncation, and folders that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.random_checkpoint import make_t5_tokenizer, make_tokenizer
from diffedit.conditioning.tokenizer import Tokenizer
from engine.errors import CheckpointError, ResourceError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    make_t5_tokenizer(folder)
    return folder


def test_texts_get_an_end_token_and_padding(folder: Path) -> None:
    tokenizer = Tokenizer(folder, 8, "t5")
    padding, end = 0, 1
    cup, *rest = tokenizer.encode("cup")
    assert rest == [end, *[padding] * 6] and cup > 2
    assert tokenizer.encode("cup " * 20) == (*[cup] * 7, end)
    assert tokenizer.truncated_text("cup " * 7 + "red Cup") == "red Cup"
    assert tokenizer.truncated_text("cup " * 7) == ""


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\(spiece.model, or tokenizer.json\)"):
        Tokenizer(tmp_path, 8, "t5")
    make_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="contains no tokenizer"):
        Tokenizer(tmp_path, 8, "t5")


def test_a_damaged_file_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=f"{tmp_path} cannot be loaded"):
        Tokenizer(tmp_path, 8, "t5")


def test_lack_of_memory_is_a_resource_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One function loads both kinds and distinguishes memory errors from damaged files."""
    from transformers import T5TokenizerFast

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(T5TokenizerFast, "from_pretrained", full)
    with pytest.raises(ResourceError, match="not enough memory"):
        Tokenizer(folder, 8, "t5")
