"""Texts to ids with a small real tokenizer: padding, cutting off, and broken folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils import logging

from demo.random_checkpoint import make_tokenizer
from diffedit.conditioning.tokenizer import Tokenizer
from engine.errors import CheckpointError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    make_tokenizer(made)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder, 77)


def vocabulary(folder: Path) -> dict[str, int]:
    there: dict[str, int] = json.loads((folder / "vocab.json").read_text())
    return there


def test_ids_begin_end_and_are_filled_up(tokenizer: Tokenizer, folder: Path) -> None:
    known = vocabulary(folder)
    ids, truncated = tokenizer.ids("A  red\ncup")
    begin, end = known["<|startoftext|>"], known["<|endoftext|>"]
    words = [known[f"{w}</w>"] for w in ("a", "red", "cup")]
    assert ids == (begin, *words, *[end] * 73)
    assert truncated is False


def test_the_empty_text(tokenizer: Tokenizer, folder: Path) -> None:
    known = vocabulary(folder)
    ids, truncated = tokenizer.ids("")
    assert ids == (known["<|startoftext|>"], *[known["<|endoftext|>"]] * 76)
    assert not truncated


def _with(folder: Path, tmp_path: Path, changes: dict[str, str | None]) -> Path:
    """A copy whose configuration says something else."""
    copy = Path(shutil.copytree(folder, tmp_path / "tokenizer"))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        there = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(there | changes))
    return copy


def test_stable_diffusion_2_fills_up_with_its_own_token(folder: Path, tmp_path: Path) -> None:
    known = vocabulary(folder)
    assert known["!"] == 0
    ids, _ = Tokenizer(_with(folder, tmp_path, {"pad_token": "!"}), 77).ids("a cup")
    assert ids[3:] == (known["<|endoftext|>"], *[0] * 73)


def test_a_folder_with_tokenizer_json_alone(folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPTokenizerFast

    CLIPTokenizerFast.from_pretrained(folder).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert not (tmp_path / "vocab.json").exists()
    assert Tokenizer(tmp_path, 77).ids("a red cup") == Tokenizer(folder, 77).ids("a red cup")


def test_a_text_that_just_fits_and_one_that_does_not(tokenizer: Tokenizer, folder: Path) -> None:
    known = vocabulary(folder)
    fits = " ".join(["cup"] * 75)
    assert tokenizer.ids(fits) == (
        (known["<|startoftext|>"], *[known["cup</w>"]] * 75, known["<|endoftext|>"]),
        False,
    )
    assert tokenizer.cut_off(fits) == ""
    ids, truncated = tokenizer.ids(fits + " bowl")
    assert truncated
    assert ids == tokenizer.ids(fits)[0]
    assert tokenizer.cut_off(fits + " bowl") == "bowl"


def test_words_that_are_read_in_part_are_named_whole(tokenizer: Tokenizer) -> None:
    cups = " ".join(["cup"] * 73)
    # "Zzzz" is spelt in four letters, of which two fit
    assert tokenizer.cut_off(cups + " Zzzz Pear") == "Zzzz Pear"


def test_the_warning_names_the_text_and_the_words(tokenizer: Tokenizer) -> None:
    long = " ".join(["cup"] * 75) + " on a Wooden table"
    ids, warnings = tokenizer.ids_of({"source": "a cup", "prompt": long, "negative": long})
    assert ids == {
        "source": tokenizer.ids("a cup")[0],
        "prompt": tokenizer.ids(long)[0],
        "negative": tokenizer.ids(long)[0],
    }
    assert len(warnings) == 2
    assert warnings[0].startswith("The prompt is longer than the 77 tokens")
    assert '"on a Wooden table"' in warnings[0]
    assert warnings[1].startswith("The negative prompt is longer")


def test_a_warning_stays_short(tokenizer: Tokenizer) -> None:
    _, (warning,) = tokenizer.ids_of({"prompt": "cup " * 1000})
    assert len(warning) < 300
    assert '..."' in warning


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=120))
def test_any_text_has_as_many_ids_as_asked_for(tokenizer: Tokenizer, text: str) -> None:
    ids, truncated = tokenizer.ids(text)
    assert len(ids) == 77
    assert (tokenizer.cut_off(text) != "") == truncated
    assert tokenizer.cut_off(text) in text


def test_the_library_says_nothing_of_long_texts(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours is the warning that names the words; theirs, about an index error, is not true here."""
    logging.enable_propagation()
    try:
        Tokenizer(folder, 77).ids("cup " * 500)
    finally:
        logging.disable_propagation()
    assert caplog.text == ""


def test_other_lengths(folder: Path) -> None:
    ids, truncated = Tokenizer(folder, 4).ids("a red cup")
    assert len(ids) == 4
    assert truncated


def test_from_many_threads(tokenizer: Tokenizer) -> None:
    texts = [f"a red cup {'and a pear ' * n}" for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.ids, texts)) == [tokenizer.ids(t) for t in texts]


def _remove(*names: str) -> Callable[[Path], object]:
    return lambda folder: [shutil.move(folder / name, folder.parent) for name in names]


def _write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (shutil.rmtree, "holds no tokenizer"),
        (_remove("vocab.json"), "holds no tokenizer"),
        (_remove("merges.txt"), "holds no tokenizer"),
        (_remove("vocab.json", "merges.txt"), "holds no tokenizer"),
        (_write("vocab.json", b'{"a": 1'), "cannot be read"),
        (_write("vocab.json", b'{"a": 1}'), "cannot be read"),
        (_write("merges.txt", b"\xff\xfe\0"), "cannot be read"),
        (_write("tokenizer_config.json", b"{"), "cannot be read"),
        (_write("tokenizer.json", b"{}"), "cannot be read"),
    ],
)
def test_a_broken_folder_is_a_sentence(
    folder: Path, tmp_path: Path, breaking: Callable[[Path], object], message: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "tokenizer"))
    breaking(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer(copy, 77)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"pad_token": None}, {"pad_token": "[PAD]"}, {"eos_token": "[END]"}, {"bos_token": None}],
)
def test_tokens_that_the_vocabulary_lacks_are_refused(
    folder: Path, tmp_path: Path, changes: dict[str, str | None]
) -> None:
    """They would get ids beyond the text encoder's table."""
    copy = _with(folder, tmp_path, changes)
    with pytest.raises(CheckpointError, match=r"does not begin, end|cannot be read"):
        Tokenizer(copy, 77)


def test_a_tokenizer_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    """Without begin and end the embedding would be read at the wrong place."""
    from tokenizers import Tokenizer as Plain
    from tokenizers.models import WordLevel

    copy = tmp_path / "tokenizer"
    copy.mkdir()
    Plain(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(copy / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="tokenizer"):
        Tokenizer(copy, 77)
