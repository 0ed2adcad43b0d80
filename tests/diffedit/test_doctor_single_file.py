"""`doctor FILE`: what a single file is, without loading or converting it."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffedit.doctor.model import check_model
from tests.shared import Folders
from tests.single_files import single_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_single_file_is_named_and_not_converted(tiny: Path, tmp_path: Path, cache: Path) -> None:
    (check,) = check_model(str(single_file(tiny, tmp_path / "m.safetensors")))
    assert check.state == "ok"
    assert "m.safetensors is Stable Diffusion 1 in a single file (text_encoder, unet" in check.what
    assert "--base" not in check.what
    assert not cache.exists()


def test_a_file_without_all_parts_needs_a_base(folders: Folders, tmp_path: Path) -> None:
    """Otherwise the first edit would be refused after the report said ok."""
    file = single_file(folders("tiny-sdxl"), tmp_path / "m.safetensors", parts=("unet", "vae"))
    (check,) = check_model(str(file))
    assert check.state == "ok"
    assert "without its text_encoder and text_encoder_2: pass --base with them" in check.what


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.ckpt", b"PK\x03\x04", "pickle format"),
        ("m.safetensors", b"GGUF", "is a GGUF file"),
        ("m.txt", b"hello", "is not a model"),
    ],
)
def test_other_files(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    (check,) = check_model(str(tmp_path / name))
    assert check.state == "problem"
    assert words in check.what
    assert check.fix
