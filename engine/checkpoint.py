"""A checkpoint in diffusers' folder format, read without loading a weight.

It validates the configs and finds the weight files. What the networks are, and how they are called,
is stated by the checkpoint's family (`engine.models`). Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.digest import file_digest
from engine.errors import CheckpointError
from engine.models import ModelFamily, Network, NetworkNames, Part, read_family
from engine.netspec import DENOISER_BATCH_SIZES, NetSpec, Precision, Size, batch_sizes_for


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint folder.

    Attributes:
        folder: the folder.
        variant: which weight files are used: None, or a name such as "fp16".
        family: its model family, bound to its configs.
    """

    folder: Path
    variant: str | None
    family: ModelFamily

    @classmethod
    def open(cls, folder: str | Path, variant: str | None = None) -> Checkpoint:
        """Read and check every config. Raises CheckpointError."""
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"There is no model folder at {folder}; check the path.")
        return cls(folder, variant, read_family(folder))

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The contents of `scheduler_config.json`."""
        return self.family.configs["scheduler"]

    @cached_property
    def names(self) -> NetworkNames:
        """The names of the networks, by role."""
        return NetworkNames.of(self.family)

    def network(self, name: str) -> Network:
        """A network of the family. Raises KeyError if there is none of that name."""
        found = {network.name: network for network in self.family.networks}
        return found[name]

    def part(self, name: str) -> Part:
        """A part of the family. Raises KeyError if there is none of that name."""
        found = {part.name: part for part in self.family.parts}
        return found[name]

    def weights(self, part: str) -> tuple[Path, ...]:
        """The safetensors files of one part. Raises CheckpointError if there are none."""
        suffix = f".{self.variant}.safetensors" if self.variant else ".safetensors"
        files = sorted((self.folder / part).glob("*" + suffix))
        if not self.variant:  # a name with a second dot belongs to a variant, shards excepted
            files = [f for f in files if "." not in f.name.removesuffix(suffix)]
        if files:
            return tuple(files)
        if any((self.folder / part).glob(f"*{suffix.removesuffix('.safetensors')}.bin")):
            raise CheckpointError(
                f"{self.folder / part} has only pickle weights (.bin), which can run code when "
                "loaded; convert them to safetensors first."
            )
        others = sorted(p.name for p in (self.folder / part).glob("*.safetensors"))
        hint = f" (it has {', '.join(others)}: pass that variant)" if others else ""
        raise CheckpointError(f"{self.folder / part} has no *{suffix} weights{hint}.")

    def parameters(self, part: str) -> int:
        """The number of weights of one part, from the headers of its files. Raises CheckpointError
        if a file is damaged."""
        headers = [read_header(file) for file in self.weights(part)]
        return sum(math.prod(t["shape"]) for header in headers for t in header.values())

    def digest(self, part: str) -> str:
        """sha256 of the config and the weights of one part."""
        config = json.dumps(self.family.configs[part], sort_keys=True)
        digest = hashlib.sha256(config.encode())
        for file in self.weights(part):
            digest.update(file_digest(file).encode())
        return digest.hexdigest()

    def digests(self) -> dict[str, str]:
        """Part name -> `digest`, for every part with weights."""
        return {part.name: self.digest(part.name) for part in self.family.parts}

    def check_size(self, size: Size) -> None:
        """Raise ValueError unless both sides are whole numbers of latent cells."""
        factor = self.family.factor
        if any(s < factor or s % factor for s in size):
            raise ValueError(
                f"{size[0]} x {size[1]} is not a size for this model: both sides must be "
                f"multiples of {factor} pixels."
            )

    def spec(
        self,
        name: str,
        size: Size,
        *,
        precision: Precision = "fp32",
        denoiser_batch_sizes: Iterable[int] = DENOISER_BATCH_SIZES,
    ) -> NetSpec:
        """The NetSpec of one network at one picture size. Text networks ignore the size."""
        self.check_size(size)
        role = self.network(name).role
        inputs, outputs = self.family.tensors(name, size)
        return NetSpec(
            name=name,
            role=role,
            size=None if role == "text_encoder" else size,
            inputs=inputs,
            outputs=outputs,
            batch_sizes=batch_sizes_for(role, denoiser_batch_sizes),
            precision=precision,
            attention_scores=self.family.attention_scores(name, size),
        )

    def kinds(self, sizes: Sequence[Size]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The kind of row (see `NetSpec.kind`) of every network at every size, the largest last."""
        found = [
            (network.name, self.family.tensors(network.name, size)[0][0].shape)
            for size in sorted(sizes, key=lambda s: s[0] * s[1])
            for network in self.family.networks
        ]
        return tuple(dict.fromkeys(found))


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> {"dtype", "shape", "data_offsets"} of a safetensors file.

    Raises CheckpointError if it is not a safetensors file, or its length differs from what its
    header says.
    """
    damaged = CheckpointError(
        f"{file} is damaged: it is truncated or not a safetensors file; copy or download it again."
    )
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= size - 8:
                raise damaged
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((t["data_offsets"][1] for t in header.values()), default=0)
        if not header or 8 + length + end != size:
            raise damaged
        return dict(header)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
        raise damaged from None
