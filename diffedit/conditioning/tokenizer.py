"""Texts to token ids: the only user of the tokenizer.

It knows CLIP's tokenizer and how many tokens the text encoder reads. It runs no network: ids become
embeddings in the flows, which also keep them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError

Ids = tuple[int, ...]


class Tokenizer:
    """The tokenizer of one checkpoint, for sequences of one length. Safe to call from threads.

    Shorter texts are filled up with the checkpoint's own padding token: the end token for Stable
    Diffusion 1.x, "!" (id 0) for 2.x.

    Attributes:
        length: tokens of every sequence, begin and end included (77).
    """

    def __init__(self, folder: str | Path, length: int) -> None:
        """Read the checkpoint's `tokenizer` folder; raises CheckpointError with one sentence."""
        self.length = length
        self._tokenizer = _read(Path(folder))
        self._lock = threading.Lock()  # tokenizers refuses to be borrowed twice

    def ids(self, text: str) -> tuple[Ids, bool]:
        """`length` token ids, and whether the end of the text did not fit and was left out."""
        ids, _ = self._encode(text)
        if len(ids) > self.length:
            return (*ids[: self.length - 1], ids[-1]), True
        padding: int = self._tokenizer.pad_token_id
        return ids + (padding,) * (self.length - len(ids)), False

    def cut_off(self, text: str) -> str:
        """The words that are not read, or only in part; empty where everything fits."""
        ids, starts = self._encode(text)
        if len(ids) <= self.length:
            return ""
        start = starts[self.length - 1]
        while start and not text[start - 1].isspace():  # back to where the word begins
            start -= 1
        return text[start:].strip()

    def ids_of(self, texts: Mapping[str, str]) -> tuple[dict[str, Ids], tuple[str, ...]]:
        """The ids of named texts, and one warning for each text that is too long."""
        warnings = []
        for name, text in texts.items():
            if words := self.cut_off(text):
                warnings.append(
                    f"The {_NAMES.get(name, name)} is longer than the {self.length} tokens this "
                    f'model reads, so its end was ignored: "{_shortened(words)}"; shorten it or '
                    "put what matters first."
                )
        return {name: self.ids(text)[0] for name, text in texts.items()}, tuple(warnings)

    def _encode(self, text: str) -> tuple[Ids, list[int]]:
        """All ids, begin and end included, and the character at which each one starts."""
        with self._lock:
            found = self._tokenizer(text, return_offsets_mapping=True, verbose=False)
        return tuple(found["input_ids"]), [start for start, _ in found["offset_mapping"]]


_NAMES = {"source": "source prompt", "negative": "negative prompt"}


def _read(folder: Path) -> Any:
    """The tokenizer of a folder, checked to begin and end a text as CLIP does."""
    files = ("tokenizer.json",), ("vocab.json", "merges.txt")
    if not any(all((folder / name).is_file() for name in names) for names in files):
        raise CheckpointError(
            f"{folder} holds no tokenizer (vocab.json and merges.txt, or tokenizer.json); copy it "
            "from the checkpoint again."
        )
    from transformers import CLIPTokenizerFast

    try:
        tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
        ids = tokenizer("a")["input_ids"]
    except Exception as error:  # the library raises plain Exception, too
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"The tokenizer in {folder} cannot be read ({why}); copy it from the checkpoint again."
        ) from None
    begin, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    known = all(i is not None and i < tokenizer.vocab_size for i in (begin, end, padding))
    if not known or (ids[0], ids[-1]) != (begin, end):
        raise CheckpointError(
            f"The tokenizer in {folder} does not begin, end and fill up texts as CLIP's does; copy "
            "it from the checkpoint again."
        )
    return tokenizer


def _shortened(words: str, most: int = 80) -> str:
    return words if len(words) <= most else words[: most - 3].rstrip() + "..."
