"""Tokenizers with a token for every word of `WORDS` and one for each letter."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from demo.random_checkpoint.files import write_json

WORDS = (
    "a an the of on in with and at to is photo photograph picture painting portrait red green blue "
    "yellow orange purple white black brown grey pink cat dog horse bird ball cube cone star mug "
    "cup pear apple bowl table grass wood wooden wall sky sea road rocket astronaut coffee tea "
    "small large big tiny old young man woman person background plain striped"
).split()
"""The words that are one token; all others are split into letters."""


def make_tokenizer(folder: Path, words: Iterable[str] = WORDS, *, size: int = 0) -> int:
    """Write a CLIP tokenizer with a token for every byte and one for each of `words` (lower case).

    If there are fewer than `size` tokens, others that no text has fill the vocabulary up.

    Returns the size of the vocabulary.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    vocab = [*letters, *(letter + "</w>" for letter in letters)]
    merges: dict[tuple[str, str], int] = {}
    for word in words:
        # Byte-pair encoding applies earlier merges first, also those of other words ("an" in
        # "orange"), so add merges only for the pieces that are still separate.
        while len(pieces := _merged([*word[:-1], word[-1] + "</w>"], merges)) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
            if pieces[0] + pieces[1] not in vocab:
                vocab.append(pieces[0] + pieces[1])
    vocab += [f"<|unused {n}|>" for n in range(size - len(vocab) - 2)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(vocab)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", {**config, **special})
    return len(vocab)


def _merged(pieces: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    """Apply byte-pair encoding: repeatedly join the pair with the earliest merge."""
    while pairs := [pair for pair in pairwise(pieces) if pair in merges]:
        first, at = min(pairs, key=merges.__getitem__), 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == first:
                pieces = [*pieces[:at], first[0] + first[1], *pieces[at + 2 :]]
            at += 1
    return pieces


def make_t5_tokenizer(folder: Path, words: Iterable[str] = WORDS, *, size: int = 0) -> int:
    """Write a T5 tokenizer with a token for each of `words` and for every printable ASCII letter.

    If there are fewer than `size` tokens, others that no text has fill the vocabulary up.

    Returns the size of the vocabulary.
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import T5TokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -4.0)]
    vocab += [(f"\u2581{word}", -2.0) for word in dict.fromkeys(words)]
    known = {token for token, _ in vocab}
    vocab += [(letter, -6.0) for letter in letters if letter not in known]
    vocab += [(f"<unused {n}>", -99.0) for n in range(size - len(vocab))]
    tokenizer = Tokenizer(Unigram(vocab, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    fast = T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0)
    fast.save_pretrained(folder)
    return len(vocab)
