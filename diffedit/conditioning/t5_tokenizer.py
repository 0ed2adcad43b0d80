"""Turn prompts into token ids with a T5 tokenizer, as SD 3 and FLUX.1 use it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError


class T5Tokenizer:
    """The T5 tokenizer of one checkpoint, for sequences of a fixed length. Thread-safe.

    Reads `tokenizer.json`, or converts `spiece.model` where the packages sentencepiece or tiktoken
    are installed.

    Attributes:
        length: number of tokens in every sequence, end token included.
    """

    def __init__(self, folder: str | Path, length: int) -> None:
        """Load the tokenizer. Raises CheckpointError if the folder is incomplete or damaged."""
        self.length = length
        self._tokenizer = _load(Path(folder))
        self._lock = threading.Lock()  # the library raises when two threads use one tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """Return exactly `length` token ids: padded, or truncated before the end token."""
        ids, _ = self._encode_all(text)
        if len(ids) > self.length:
            return (*ids[: self.length - 1], ids[-1])
        padding: int = self._tokenizer.pad_token_id
        return ids + (padding,) * (self.length - len(ids))

    def truncated_text(self, text: str) -> str:
        """Return the end of the text that `encode` drops, from the first incomplete word on."""
        ids, starts = self._encode_all(text)
        if len(ids) <= self.length:
            return ""
        start = starts[self.length - 1]
        while start and not text[start - 1].isspace():
            start -= 1
        return text[start:].strip()

    def _encode_all(self, text: str) -> tuple[tuple[int, ...], list[int]]:
        with self._lock:
            encoding = self._tokenizer(text, return_offsets_mapping=True, verbose=False)
        return tuple(encoding["input_ids"]), [start for start, _ in encoding["offset_mapping"]]


def _load(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        raise CheckpointError(
            f"{folder} contains no tokenizer (tokenizer.json or spiece.model); copy it from the "
            "checkpoint again."
        )
    from transformers import T5TokenizerFast

    try:
        tokenizer = T5TokenizerFast.from_pretrained(folder, local_files_only=True)
        ids = tokenizer("a")["input_ids"]
    except ImportError as error:
        raise CheckpointError(
            f"{folder} has no tokenizer.json, and converting spiece.model needs a package "
            f"({str(error).strip().splitlines()[0]}); install sentencepiece and protobuf."
        ) from None
    except Exception as error:  # the library raises bare Exception for damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"The tokenizer in {folder} cannot be loaded ({reason}); copy it from the checkpoint "
            "again."
        ) from None
    if ids[-1] != tokenizer.eos_token_id or tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"The tokenizer in {folder} does not add end and padding tokens as T5's does; copy it "
            "from the checkpoint again."
        )
    return tokenizer
