"""Turn prompts into token ids with a checkpoint's tokenizer: CLIP's, or T5's for SD 3 and FLUX.1.

This is the only module that uses the tokenizer library. It runs no network: the flows of
`diffedit.algorithm` compute and cache the embeddings.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffedit.notices import Notice
from engine.errors import CheckpointError
from engine.load_errors import known_reason
from engine.utf8_path import utf8_path

TokenIds = tuple[int, ...]

RECENT = 64
"""Texts whose tokens a tokenizer keeps."""
PROMPT_NAMES = {"source": "source prompt", "negative": "negative prompt"}
"""Key of a prompt -> its name in warnings, if they differ."""


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer: CLIP's or T5's.

    Attributes:
        name: name of the text encoder, for messages.
        class_name: name of the tokenizer's class in transformers.
        layouts: combinations of files; a folder must have all files of one of them.
        adds: the tokens that it adds to every text, for messages.
        is_valid: whether a tokenizer and its ids of a text have these tokens.
    """

    name: str
    class_name: str
    layouts: tuple[tuple[str, ...], ...]
    adds: str
    is_valid: Callable[[Any, Sequence[int]], bool]


def _is_clip(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether `ids` begin and end with special tokens that are inside the vocabulary."""
    begin, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    # Ids beyond the vocabulary would index past the text encoder's embedding table.
    valid = all(i is not None and i < tokenizer.vocab_size for i in (begin, end, padding))
    return valid and (ids[0], ids[-1]) == (begin, end)


def _is_t5(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether `ids` end with the end token, and there is a padding token."""
    return bool(ids[-1] == tokenizer.eos_token_id) and tokenizer.pad_token_id is not None


KINDS = {
    "clip": Kind(
        "CLIP",
        "CLIPTokenizerFast",
        (("vocab.json", "merges.txt"), ("tokenizer.json",)),
        "begin, end and padding tokens",
        _is_clip,
    ),
    "t5": Kind(
        "T5",
        "T5TokenizerFast",
        (("spiece.model",), ("tokenizer.json",)),
        "end and padding tokens",
        _is_t5,
    ),
}
"""By the name that `engine.models` uses. T5's spiece.model is converted if sentencepiece and
protobuf are installed."""


class Tokenizer:
    """One tokenizer of a checkpoint, for sequences of a fixed length. Thread-safe.

    Shorter texts are padded with the checkpoint's padding token: the end token for Stable
    Diffusion 1.x, "!" (id 0) for 2.x. Longer texts are truncated before the end token.

    A textual inversion with several vectors has several tokens: "<toy>" in a text is replaced by
    "<toy> <toy>_1 <toy>_2", as in diffusers' `maybe_convert_prompt`.

    Attributes:
        length: number of tokens in every sequence, begin and end tokens included (77 for CLIP).
    """

    def __init__(self, folder: str | Path, length: int, kind: str = "clip") -> None:
        """Load the tokenizer of a `kind` (a key of `KINDS`) from its folder in a checkpoint.

        Raises:
            CheckpointError: the folder is incomplete, damaged or has another kind of tokenizer.
        """
        self.length = length
        self._tokenizer = _load(Path(folder), KINDS[kind])
        self._expansions = _expansions(self._tokenizer.added_tokens_encoder)
        self._lock = threading.Lock()  # the library raises when two threads use one tokenizer
        self._encode_all = lru_cache(RECENT)(self._encode_new)  # texts come back, at least twice

    def encode(self, text: str) -> TokenIds:
        """Return exactly `length` token ids: padded, or truncated before the end token."""
        ids, _ = self._encode_all(text)
        if len(ids) > self.length:
            return (*ids[: self.length - 1], ids[-1])
        padding: int = self._tokenizer.pad_token_id
        return ids + (padding,) * (self.length - len(ids))

    def truncated_text(self, text: str) -> str:
        """Return the end of the text that `encode` drops, from the first incomplete word on.

        The result is empty if the whole text fits.
        """
        ids, starts = self._encode_all(text)
        if len(ids) <= self.length:
            return ""
        start = starts[self.length - 1]
        while start and not text[start - 1].isspace():  # back to the start of the word
            start -= 1
        return text[start:].strip()

    def _encode_new(self, text: str) -> tuple[TokenIds, Sequence[int]]:
        """Return all token ids, begin and end included, and the first character of each token."""
        with self._lock:
            expanded, origins = self._expand(text)
            encoding = self._tokenizer(expanded, return_offsets_mapping=True, verbose=False)
        starts = tuple(origins[start] for start, _ in encoding["offset_mapping"])
        return tuple(encoding["input_ids"]), starts

    def _expand(self, text: str) -> tuple[str, Sequence[int]]:
        """Expand the tokens of every textual inversion. Returns the text, and the position in the
        original text of each of its characters and of its end."""
        origins: Sequence[int] = range(len(text) + 1)
        if not self._expansions:
            return text, origins
        for token in dict.fromkeys(self._tokenizer.tokenize(text)):
            if token in self._expansions:
                text, origins = _replace(text, origins, token, self._expansions[token])
        return text, origins


def _expansions(added: Iterable[str]) -> dict[str, str]:
    """Token -> all of its tokens, for textual inversions of two vectors or more."""
    names, found = set(added), {}
    for name in names:
        tokens = [name]
        while f"{name}_{len(tokens)}" in names:
            tokens.append(f"{name}_{len(tokens)}")
        if len(tokens) > 1:
            found[name] = " ".join(tokens)
    return found


def _replace(text: str, origins: Sequence[int], old: str, new: str) -> tuple[str, Sequence[int]]:
    """`text.replace(old, new)`, and the origins of the characters of the result."""
    at, pieces, places = 0, [], []
    while (found := text.find(old, at)) >= 0:
        pieces += [text[at:found], new]
        places += [*origins[at:found], *[origins[found]] * len(new)]
        at = found + len(old)
    return "".join([*pieces, text[at:]]), [*places, *origins[at:]]


def truncation_warning(name: str, dropped: str, length: int) -> Notice:
    """Return the warning for a prompt that is longer than the text encoder's input.

    Args:
        name: key of the prompt, such as "source".
        dropped: the end of the prompt that the model does not read.
        length: tokens that the model reads.
    """
    return Notice(
        "prompt_truncated",
        f"The {PROMPT_NAMES.get(name, name)} is longer than the {length} tokens this model reads, "
        f'so its end is ignored: "{_shortened(dropped)}"; shorten the prompt or move the important '
        "words to its start.",
    )


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


def _load(folder: Path, kind: Kind) -> Any:
    """Load a tokenizer and check that it adds the tokens of its kind."""
    if not any(all((folder / name).is_file() for name in names) for names in kind.layouts):
        wanted = ", or ".join(" and ".join(names) for names in kind.layouts)
        raise CheckpointError(
            f"{folder} contains no tokenizer ({wanted}); copy it from the checkpoint again."
        )
    import transformers

    try:
        with utf8_path(folder) as path:
            loader: Any = getattr(transformers, kind.class_name)
            tokenizer = loader.from_pretrained(path, local_files_only=True)
        ids = tokenizer("a")["input_ids"]
    except Exception as error:  # the library raises bare Exception for damaged files
        if known := known_reason(error, folder):
            raise known from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"The tokenizer in {folder} cannot be loaded ({reason}); copy it from the checkpoint "
            "again."
        ) from None
    if not kind.is_valid(tokenizer, ids):
        raise CheckpointError(
            f"The tokenizer in {folder} does not add {kind.adds} as {kind.name}'s does; copy it "
            "from the checkpoint again."
        )
    return tokenizer
