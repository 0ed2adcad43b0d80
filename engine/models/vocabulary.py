"""Check that a tokenizer fits a text encoder. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.models.reading import read_json, whole

END = "<|endoftext|>"
"""CLIP's end token."""
CLIP_END, OLD_END = 49407, 2
"""Its id in the published models. Old configs have 2 instead, which is wrong."""
BYTE_TOKENS = 514
"""CLIP's tokens without merges: 256 bytes, 256 bytes at the end of a word, 2 special tokens."""
MERGED_SHARE = 0.9
"""Maximum number of tokens that may have been added to a vocabulary."""
OTHERWISE = "the tokenizer is missing"


def check_vocabulary(folder: Path, text_encoder: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a tokenizer's ids are those of a text encoder.

    Args:
        folder: a checkpoint's `tokenizer` folder.
        text_encoder: the text encoder's config. Its table may have more rows than there are tokens,
            but not fewer.
    """
    ids = _ids(folder)
    tokens, rows = max(ids.values(), default=-1) + 1, whole(text_encoder, "vocab_size", 49408)
    end = text_encoder.get("eos_token_id", CLIP_END)
    if end == OLD_END:
        end = CLIP_END if rows > CLIP_END else None
    there = ids.get(END)
    if tokens > rows:
        problem = f"has {tokens} tokens, but the text encoder has {rows}"
    elif isinstance(end, int) and there is not None and there != end:
        problem = f"ends a text with token {there}, but the text encoder with {end}"
    else:
        return
    raise CheckpointError(
        f"The tokenizer in {folder} {problem}, so they are of different models; copy the "
        "tokenizer of this checkpoint."
    )


def _ids(folder: Path) -> dict[str, int]:
    """Token -> id, added tokens included; empty if only the package sentencepiece can read it."""
    fast, slow = folder / "tokenizer.json", folder / "vocab.json"
    if fast.is_file():
        data = read_json(fast, OTHERWISE)
        model, added = data.get("model"), data.get("added_tokens")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, list):  # of [token, score]: the place is the id
            vocabulary = {str(entry): n for n, entry in enumerate(vocabulary)}
        tokens = [t for t in added or [] if isinstance(t, dict)]
        return _whole(vocabulary) | _whole({str(t.get("content")): t.get("id") for t in tokens})
    if (folder / "spiece.model").is_file():
        return {}
    if not (slow.is_file() and (folder / "merges.txt").is_file()):
        raise CheckpointError(
            f"{folder} contains no tokenizer (vocab.json and merges.txt, or tokenizer.json); copy "
            "it from the checkpoint again."
        )
    ids = _whole(read_json(slow, OTHERWISE))
    merged = [token for token in ids if not (token.startswith("<|") and token.endswith("|>"))]
    _check_merges(folder / "merges.txt", len(merged))
    if (folder / "added_tokens.json").is_file():
        ids |= _whole(read_json(folder / "added_tokens.json", OTHERWISE))
    return ids


def _check_merges(path: Path, tokens: int) -> None:
    """Raise CheckpointError if lines are missing: every token except the bytes needs a merge.

    With a truncated file the tokenizer would silently split words into other tokens.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy it again.") from None
    merges = sum(bool(line.strip()) and not line.startswith("#version") for line in lines)
    if merges < MERGED_SHARE * (tokens - BYTE_TOKENS):
        raise CheckpointError(
            f"{path} has {merges} merges, but the {tokens} tokens of vocab.json need more, so it "
            "is incomplete; copy or download it again."
        )


def _whole(values: Any) -> dict[str, int]:
    """The entries of an object that are whole numbers."""
    items = values.items() if isinstance(values, dict) else ()
    return {key: value for key, value in items if isinstance(value, int)}
