"""Token ids from a small real tokenizer: padding, truncation, warnings, and broken folders."""

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
from diffedit.conditioning.conditioner import Conditioner
from diffedit.conditioning.tokenizer import Tokenizer, truncation_warning
from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer_folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    make_tokenizer(tokenizer_folder)
    return tokenizer_folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder, 77)


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> dict[str, int]:
    entries: dict[str, int] = json.loads((folder / "vocab.json").read_text())
    return entries


def test_texts_get_begin_end_and_padding_tokens(
    tokenizer: Tokenizer, vocabulary: dict[str, int]
) -> None:
    begin, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    words = [vocabulary[f"{word}</w>"] for word in ("a", "red", "cup")]
    assert tokenizer.encode("A  red\ncup") == (begin, *words, *[end] * 73)
    assert tokenizer.encode("") == (begin, *[end] * 76)


def _with_config(folder: Path, tmp_path: Path, changes: dict[str, str | None]) -> Path:
    """A copy of the tokenizer folder with changed special tokens."""
    copy = Path(shutil.copytree(folder, tmp_path / "tokenizer"))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        config = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(config | changes))
    return copy


def test_stable_diffusion_2_pads_with_its_own_token(
    folder: Path, vocabulary: dict[str, int], tmp_path: Path
) -> None:
    assert vocabulary["!"] == 0
    ids = Tokenizer(_with_config(folder, tmp_path, {"pad_token": "!"}), 77).encode("a cup")
    assert ids[3:] == (vocabulary["<|endoftext|>"], *[0] * 73)


def test_a_folder_with_only_tokenizer_json(folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPTokenizerFast

    CLIPTokenizerFast.from_pretrained(folder).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert not (tmp_path / "vocab.json").exists()
    expected = Tokenizer(folder, 77).encode("a red cup")
    assert Tokenizer(tmp_path, 77).encode("a red cup") == expected


def test_the_longest_text_that_fits_is_not_truncated(
    tokenizer: Tokenizer, vocabulary: dict[str, int]
) -> None:
    text = " ".join(["cup"] * 75)
    begin, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    assert tokenizer.encode(text) == (begin, *[vocabulary["cup</w>"]] * 75, end)
    assert tokenizer.truncated_text(text) == ""


def test_one_more_word_is_dropped(tokenizer: Tokenizer) -> None:
    text = " ".join(["cup"] * 75)
    assert tokenizer.encode(text + " bowl") == tokenizer.encode(text)
    assert tokenizer.truncated_text(text + " bowl") == "bowl"


def test_the_truncated_text_starts_with_a_whole_word(tokenizer: Tokenizer) -> None:
    cups = " ".join(["cup"] * 73)
    # "Zzzz" takes four tokens, of which two fit
    assert tokenizer.truncated_text(cups + " Zzzz Pear") == "Zzzz Pear"


def test_a_warning_names_the_prompt_and_the_dropped_words(tiny: Path) -> None:
    conditioner = Conditioner(Checkpoint.open(tiny))
    long = " ".join(["cup"] * 75) + " on a Wooden table"
    ids, warnings = conditioner.encode_prompts(
        {"source": "a cup", "prompt": long, "negative": long}
    )
    assert ids == {
        "source": conditioner.encode("a cup"),
        "prompt": conditioner.encode(long),
        "negative": conditioner.encode(long),
    }
    assert len(warnings) == 2
    assert warnings[0].startswith("The prompt is longer than the 77 tokens")
    assert '"on a Wooden table"' in warnings[0]
    assert warnings[1].startswith("The negative prompt is longer")


def test_a_warning_shortens_a_long_quotation() -> None:
    warning = truncation_warning("source", "cup " * 1000, 77)
    assert warning.startswith("The source prompt is longer")
    assert len(warning) < 300
    assert '..."' in warning


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=120))
def test_any_text_gives_ids_of_the_fixed_length(tokenizer: Tokenizer, text: str) -> None:
    all_ids, _ = tokenizer._encode_all(text)
    assert len(tokenizer.encode(text)) == 77
    assert (tokenizer.truncated_text(text) != "") == (len(all_ids) > 77)
    assert tokenizer.truncated_text(text) in text


def test_the_library_logs_nothing_about_long_texts(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The library warns of indexing errors, which truncation prevents here."""
    logging.enable_propagation()
    try:
        Tokenizer(folder, 77).encode("cup " * 500)
    finally:
        logging.disable_propagation()
    assert caplog.text == ""


def test_other_lengths(folder: Path) -> None:
    short = Tokenizer(folder, 4)
    assert len(short.encode("a red cup")) == 4
    assert short.truncated_text("a red cup") == "cup"


def test_threads_share_a_tokenizer(tokenizer: Tokenizer) -> None:
    texts = [f"a red cup {'and a pear ' * n}" for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(tokenizer.encode, texts))
    assert ids == [tokenizer.encode(text) for text in texts]


def _remove(*names: str) -> Callable[[Path], object]:
    return lambda folder: [shutil.move(folder / name, folder.parent) for name in names]


def _write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (shutil.rmtree, "contains no tokenizer"),
        (_remove("vocab.json"), "contains no tokenizer"),
        (_remove("merges.txt"), "contains no tokenizer"),
        (_remove("vocab.json", "merges.txt"), "contains no tokenizer"),
        (_write("vocab.json", b'{"a": 1'), "cannot be loaded"),
        (_write("vocab.json", b'{"a": 1}'), "cannot be loaded"),
        (_write("merges.txt", b"\xff\xfe\0"), "cannot be loaded"),
        (_write("tokenizer_config.json", b"{"), "cannot be loaded"),
        (_write("tokenizer.json", b"{}"), "cannot be loaded"),
    ],
)
def test_a_broken_folder_raises_one_sentence(
    folder: Path, tmp_path: Path, breaking: Callable[[Path], object], message: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "tokenizer"))
    breaking(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer(copy, 77)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token": None}, "does not add begin, end and padding"),
        ({"pad_token": "[PAD]"}, "does not add begin, end and padding"),
        ({"eos_token": "[END]"}, "does not add begin, end and padding"),
        ({"bos_token": None}, "cannot be loaded"),
    ],
)
def test_special_tokens_outside_the_vocabulary_are_refused(
    folder: Path, tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    """Their ids would index past the text encoder's embedding table."""
    copy = _with_config(folder, tmp_path, changes)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer(copy, 77)


def test_a_tokenizer_without_begin_and_end_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    """The text encoder reads its pooled embedding at the end token."""
    from tokenizers import Tokenizer as Plain
    from tokenizers.models import WordLevel

    copy = tmp_path / "tokenizer"
    copy.mkdir()
    Plain(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(copy / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        Tokenizer(copy, 77)
