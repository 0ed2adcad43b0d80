"""The configs and the CLIP tokenizer of the published models, which single files do not contain.

One JSON file per kind of `engine.models.single_files`, written from the published dimensions. The
merges of CLIP's tokenizer are OpenAI's (MIT, `clip_merges.LICENSE`). Standard library only.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"


def published_configs(kind: str) -> dict[str, dict[str, Any]]:
    """Part -> config of a kind: "index" is `model_index.json`, tokenizers have their padding."""
    data: dict[str, dict[str, Any]]
    data = json.loads((files(__package__) / f"{kind}.json").read_text())
    return data


def write_clip_tokenizer(folder: Path, config: Mapping[str, Any]) -> None:
    """Write CLIP's tokenizer: `vocab.json`, `merges.txt` and its settings.

    `config` has its "pad_token": the end token, or "!" for OpenCLIP's text encoders.
    """
    packed = (files(__package__) / "clip_merges.txt.xz").read_bytes()
    merges = lzma.decompress(packed).decode().splitlines()
    letters = list(_byte_letters())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += [*(merge.replace(" ", "") for merge in merges), START, END]
    folder.mkdir(parents=True)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, **config}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **special}))


def _byte_letters() -> Iterator[str]:
    """The letters that stand for bytes, in the order of CLIP's ids: printable ones first.

    Source: `bytes_to_unicode` of GPT-2's byte-level encoding.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    yield from (chr(byte) for byte in printable)
    others = (byte for byte in range(256) if byte not in printable)
    yield from (chr(256 + number) for number, _ in enumerate(others))
