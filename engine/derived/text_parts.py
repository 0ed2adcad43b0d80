"""Write a CLIP tokenizer and its text encoder with more tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.load_errors import load_error
from engine.loader import quiet
from engine.models.vocabulary import CLIP_END, OLD_END

TABLE = "embeddings.token_embedding.weight"


def known_tokens(folder: Path) -> set[str]:
    """Every token of a tokenizer."""
    return set(_tokenizer(folder).get_vocab())


def write_tokenizer(source: Path, folder: Path, tokens: Sequence[str]) -> list[int]:
    """Write a tokenizer with more tokens; returns their ids."""
    tokenizer = _tokenizer(source)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(folder)
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(tokens))
    return ids


def write_text_encoder(
    checkpoint: Checkpoint,
    part: str,
    ids: Sequence[int],
    vectors: Sequence[tuple[Path, str]],
    folder: Path,
) -> None:
    """Write a text encoder whose table has rows for more tokens.

    Args:
        checkpoint: has the text encoder `part`.
        ids: one id a vector.
        vectors: (file, tensor) of each embedding, in the order of `ids`.
        folder: for the new one.

    Raises CheckpointError if a vector is not finite, or the weights are damaged.
    """
    from safetensors.torch import load_file, save_file

    files = checkpoint.weight_files(part)
    state = {name: tensor for file in files.files for name, tensor in load_file(file).items()}
    (name,) = [name for name in state if name.endswith(TABLE)]
    rows = torch.cat([_vectors(*source) for source in vectors])
    state[name] = _extended(state[name], ids, rows)
    config = dict(checkpoint.family.configs[part]) | {"vocab_size": len(state[name])}
    if config.get("eos_token_id") == OLD_END and config["vocab_size"] > CLIP_END:
        config["eos_token_id"] = CLIP_END  # old configs take the highest id for the end
    folder.mkdir()
    variant = f".{files.variant}" if files.variant else ""
    save_file(state, folder / f"model{variant}.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _extended(table: Tensor, ids: Sequence[int], rows: Tensor) -> Tensor:
    """The table with `rows` at `ids`."""
    missing = max(0, max(ids) + 1 - len(table))
    table = torch.cat([table, table.new_zeros(missing, table.shape[1])])
    table[list(ids)] = rows.to(table.dtype)
    return table


def _vectors(path: Path, name: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name).float()
    if not tensor.isfinite().all():
        raise CheckpointError(
            f"The embedding {path} has NaN or infinity in {name}, so it is damaged; use another "
            "file."
        )
    return tensor if tensor.dim() == 2 else tensor[None]


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizerFast

    try:
        with quiet():
            return CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises bare Exception for damaged files
        raise load_error(error, folder) from error
