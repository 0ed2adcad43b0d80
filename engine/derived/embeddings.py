"""Textual inversions: add tokens to the tokenizers and text encoders of a checkpoint.

A token with several vectors becomes several tokens, "<toy>", "<toy>_1", ..., as in diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.checkpoint import Checkpoint
from engine.derived.additions import Report
from engine.derived.cached_folder import known_digest
from engine.derived.linked import linked_folder
from engine.errors import CheckpointError
from engine.models import TextInput
from engine.origin import SourceFile
from engine.safetensors_header import Header, read_header

TWO_ENCODERS = ("clip_l", "clip_g")
"""Names of the tensors for SDXL's two text encoders, in the order of its text networks."""
FLOATS = ("F32", "F16", "BF16")
MAX_VECTORS = 75
"""Maximum number of vectors: a prompt has no room for more."""


@dataclass(frozen=True)
class Embedding:
    """One file, checked against a checkpoint.

    Attributes:
        path: a .safetensors file.
        token: the word that refers to it in a prompt.
        tensors: the tensor for each text network, in their order.
        vectors: how many vectors it has.
    """

    path: Path
    token: str
    tensors: tuple[str, ...]
    vectors: int

    @property
    def tokens(self) -> list[str]:
        """One token a vector."""
        return [self.token, *(f"{self.token}_{n}" for n in range(1, self.vectors))]


def parse_embedding(text: str) -> tuple[Path, str | None]:
    """(file, token) from "FILE" or "FILE:TOKEN". A colon may be part of an existing file's name."""
    if Path(text).expanduser().is_file() or ":" not in text:
        return Path(text).expanduser(), None
    path, _, token = text.rpartition(":")
    return Path(path).expanduser(), token


def with_embeddings(
    checkpoint: Checkpoint, files: Sequence[tuple[Path, str | None]], report: Report
) -> Checkpoint:
    """Return the checkpoint with textual inversions.

    Args:
        checkpoint: a model whose text encoders are all CLIP.
        files: (.safetensors file, token). If the token is None, it is the one that the file states,
            or the file's name.

    Raises CheckpointError if a file does not fit the model, or the model has the token already.
    """
    inputs = checkpoint.family.text_inputs
    if any(text.kind != "clip" for text in inputs) or len(inputs) > len(TWO_ENCODERS):
        raise CheckpointError(
            f"Textual inversions are for Stable Diffusion 1, 2 and XL, not for {checkpoint.source} "
            f"({checkpoint.family.name}); leave out {files[0][0]}."
        )
    widths = [_width(checkpoint, text) for text in inputs]
    embeddings = [_open(path, token, widths) for path, token in files]
    _check_tokens(checkpoint, embeddings)
    parts = {text.network: checkpoint.network(text.network).part for text in inputs}
    replaced: dict[str, Callable[[Path], None]] = {}
    for index, text in enumerate(inputs):
        write = partial(_write, checkpoint, text, index, embeddings, report)
        replaced |= {text.tokenizer: write, parts[text.network]: _nothing}
    size = sum(file.stat().st_size for part in parts.values() for file in checkpoint.weights(part))
    sources = tuple(
        SourceFile("embedding", str(e.path.resolve()), known_digest(e.path)) for e in embeddings
    )
    tokens = "+".join(embedding.token for embedding in embeddings)
    name = f"{checkpoint.folder.name}+{tokens}"
    details = [[e.token for e in embeddings], *_read(checkpoint)]
    return linked_folder(checkpoint, replaced, name, sources, size, details)


def _read(checkpoint: Checkpoint) -> list[Any]:
    """The cache key of a checkpoint's tokenizers and text encoders: their configs, the variant of
    the weights, and digests of files."""
    found: list[Any] = []
    for text in checkpoint.family.text_inputs:
        part = checkpoint.network(text.network).part
        files = checkpoint.weight_files(part)
        tokenizer = sorted(p for p in (checkpoint.folder / text.tokenizer).glob("*") if p.is_file())
        digests = [(path.name, known_digest(path)) for path in (*files.files, *tokenizer)]
        found.append([part, checkpoint.family.configs[part], files.variant, digests])
    return found


def _nothing(folder: Path) -> None:
    """The text encoder is written together with its tokenizer."""


def _width(checkpoint: Checkpoint, text: TextInput) -> int:
    part = checkpoint.network(text.network).part
    return int(checkpoint.family.configs[part]["hidden_size"])


def _open(path: Path, token: str | None, widths: Sequence[int]) -> Embedding:
    if not path.is_file():
        raise CheckpointError(f"There is no embedding at {path}; pass a .safetensors file.")
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(
            f"The embedding {path} is not a .safetensors file; other formats can run code when "
            "they are opened, so save it as .safetensors."
        )
    header = read_header(path)
    names = _names(path, header, widths)
    if token is None:
        token = names[0] if names[0] not in (*TWO_ENCODERS, "emb_params") else path.stem
    if not token or token != token.strip() or any(c.isspace() for c in token):
        raise CheckpointError(
            f"The token {token!r} of the embedding {path} must be one word; pass FILE:TOKEN."
        )
    return Embedding(path, token, names, _vectors(path, header, names, widths))


def _names(path: Path, header: Header, widths: Sequence[int]) -> tuple[str, ...]:
    """The tensor for each text encoder."""
    if len(widths) == 1 and len(header) == 1:
        return tuple(header)
    if len(widths) == 1 and "emb_params" in header:
        return ("emb_params",)
    if len(widths) == 2 and header.keys() >= set(TWO_ENCODERS):
        return TWO_ENCODERS
    wanted = "clip_l and clip_g" if len(widths) == 2 else "one tensor, such as emb_params"
    raise CheckpointError(
        f"The embedding {path} has {', '.join(sorted(header)[:3])}, but this model needs "
        f"{wanted}; use an embedding that was trained for this kind of model."
    )


def _vectors(path: Path, header: Header, names: Sequence[str], widths: Sequence[int]) -> int:
    counts = set()
    for name, width in zip(names, widths, strict=True):
        shape = header[name]["shape"]
        if header[name]["dtype"] not in FLOATS or len(shape) not in (1, 2) or 0 in shape:
            raise CheckpointError(
                f"The embedding {path} is not a list of vectors, because {name} is "
                f"{header[name]['dtype']} {shape}; use another file."
            )
        if shape[-1] != width:
            raise CheckpointError(
                f"The embedding {path} has {shape[-1]} numbers a vector in {name}, but the text "
                f"encoder of this model has {width}; use one that was trained for this kind of "
                "model."
            )
        counts.add(shape[0] if len(shape) == 2 else 1)
    if len(counts) > 1 or max(counts) > MAX_VECTORS:
        raise CheckpointError(
            f"The embedding {path} has {' and '.join(map(str, sorted(counts)))} vectors; at most "
            f"{MAX_VECTORS} fit into a prompt, and each text encoder needs the same number."
        )
    return counts.pop()


def _check_tokens(checkpoint: Checkpoint, embeddings: Sequence[Embedding]) -> None:
    """Raise CheckpointError if two files have one token, or the tokenizer has it already."""
    from engine.derived.text_parts import known_tokens

    taken = {
        token: str(checkpoint.source)
        for text in checkpoint.family.text_inputs
        for token in known_tokens(checkpoint.folder / text.tokenizer)
    }
    for embedding in embeddings:
        for token in embedding.tokens:
            if token in taken:
                raise CheckpointError(
                    f"The token {token!r} of the embedding {embedding.path} is already one of "
                    f"{taken[token]}; pass another name with {embedding.path}:TOKEN."
                )
            taken[token] = str(embedding.path)


def _write(
    checkpoint: Checkpoint,
    text: TextInput,
    index: int,
    embeddings: Sequence[Embedding],
    report: Report,
    folder: Path,
) -> None:
    """Write one tokenizer, and its text encoder."""
    from engine.derived.text_parts import write_text_encoder, write_tokenizer

    part = checkpoint.network(text.network).part
    report(f"adding tokens to the {part}", index, len(embeddings[0].tensors))
    tokens = [token for embedding in embeddings for token in embedding.tokens]
    ids = write_tokenizer(checkpoint.folder / text.tokenizer, folder / text.tokenizer, tokens)
    vectors = [(embedding.path, embedding.tensors[index]) for embedding in embeddings]
    write_text_encoder(checkpoint, part, ids, vectors, folder / part)
