"""The size of a tokenizer's vocabulary, from its files. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.models.reading import read_json

PADDED_ROWS = 128
"""A text encoder's table may have this many rows more than there are tokens: some trainers round
its size up."""


def check_vocabulary(folder: Path, rows: int) -> None:
    """Raise CheckpointError unless a tokenizer's ids fit a text encoder with `rows` embeddings.

    Args:
        folder: a checkpoint's `tokenizer` folder.
    """
    tokens = max(_ids(folder), default=-1) + 1
    if not rows - PADDED_ROWS <= tokens <= rows:
        raise CheckpointError(
            f"The tokenizer in {folder} has {tokens} tokens, but the text encoder knows {rows}: "
            "they are of different models; copy the tokenizer of this checkpoint."
        )


def _ids(folder: Path) -> Iterator[int]:
    """The ids of every token, added ones included."""
    fast = folder / "tokenizer.json"
    slow = folder / "vocab.json"
    if not fast.is_file() and not (slow.is_file() and (folder / "merges.txt").is_file()):
        raise CheckpointError(
            f"{folder} contains no tokenizer (vocab.json and merges.txt, or tokenizer.json); copy "
            "it from the checkpoint again."
        )
    if fast.is_file():
        data = read_json(fast, "the tokenizer is missing")
        model, added = data.get("model"), data.get("added_tokens")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        yield from _numbers(vocabulary)
        yield from _numbers([t.get("id") for t in added or [] if isinstance(t, dict)])
        return
    yield from _numbers(read_json(slow, "the tokenizer is missing"))
    for name in ("added_tokens.json",):
        if (folder / name).is_file():
            yield from _numbers(read_json(folder / name, "the tokenizer is missing"))
    config = folder / "tokenizer_config.json"
    if config.is_file():
        decoder = read_json(config, "the tokenizer is missing").get("added_tokens_decoder")
        yield from _numbers([int(k) for k in decoder or {} if str(k).isdigit()])


def _numbers(values: Any) -> Iterator[int]:
    """The whole numbers of a list, or of the values of an object."""
    items = values.values() if isinstance(values, dict) else values or []
    yield from (value for value in items if isinstance(value, int))
