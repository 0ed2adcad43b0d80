"""A checkpoint in diffusers' folder format, read without loading a weight.

It validates the configs and finds the weight files. The checkpoint's family (`engine.models`)
describes the networks and how they are called. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.digest import file_digest
from engine.errors import CheckpointError
from engine.models import ModelFamily, Network, NetworkNames, Part, read_family
from engine.models.clip_skip import skips, with_clip_skip
from engine.models.distilling_lora import with_scheduler
from engine.netspec import DENOISER_BATCH_SIZES, NetSpec, Precision, Size, batch_sizes_for
from engine.origin import Origin
from engine.other_models import not_a_checkpoint, not_a_folder
from engine.safetensors_header import Header, read_header
from engine.weight_files import WeightFiles, missing_weights

__all__ = ["Checkpoint", "read_header"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint folder.

    Attributes:
        folder: the folder.
        variant: which weight files are used: None, or a name such as "fp16".
        family: its model family, bound to its configs.
        clip_skip: number of last CLIP layers that its text networks skip, in addition to those that
            the model skips anyway.
        scheduler: the scheduler of a LoRA that distils the model; None for the checkpoint's own.
    """

    folder: Path
    variant: str | None
    family: ModelFamily
    clip_skip: int = 0
    scheduler: str | None = None

    @classmethod
    def open(cls, folder: str | Path, variant: str | None = None) -> Checkpoint:
        """Read and check every config. Raises CheckpointError."""
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(not_a_folder(folder))
        if not (folder / "model_index.json").is_file():
            raise CheckpointError(not_a_checkpoint(folder))
        return cls(folder, variant, read_family(folder))

    def with_clip_skip(self, skip: int) -> Checkpoint:
        """Return the checkpoint with CLIP layers skipped. Raises CheckpointError if it has none."""
        return replace(self, family=with_clip_skip(self.family, skip), clip_skip=skip)

    def with_scheduler(self, name: str) -> Checkpoint:
        """Return the checkpoint with the scheduler of a distilling LoRA: "lcm", "tcd" or
        "trailing". Raises CheckpointError if the model cannot use it."""
        return replace(self, family=with_scheduler(self.family, name), scheduler=name)

    @cached_property
    def origin(self) -> Origin | None:
        """The files that a folder in the cache was made from, or None; see `engine.origin`."""
        return Origin.read(self.folder)

    @property
    def source(self) -> str:
        """The model as the user specified it: the path of a single file, or the folder."""
        return self.origin.model if self.origin else str(self.folder)

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

    def weight_files(self, part: str) -> WeightFiles:
        """The files of one part: those of the variant, or the plain ones if it has none.

        Raises CheckpointError if there are neither, or an index does not fit its shards.
        """
        folder, described = self.folder / part, self.part(part)
        found = WeightFiles.find(folder, described, self.variant)
        if found is None and self.variant:
            found = WeightFiles.find(folder, described, None)
        if found is None:
            names = [path.name for path in folder.glob("*")]
            raise missing_weights(folder, described, self.variant, names)
        return found

    def weights(self, part: str) -> tuple[Path, ...]:
        """The safetensors files of one part. Raises CheckpointError if there are none."""
        return self.weight_files(part).files

    def header(self, part: str) -> Header:
        """Name, dtype and shape of every tensor of one part, from the headers of its files.

        Raises CheckpointError if a file is missing or damaged.
        """
        return self.weight_files(part).headers()

    def check_files(self) -> None:
        """Read the header of every weight file. Raises CheckpointError if one is missing or
        damaged, or no part has the variant; logs which parts lack it."""
        used = {part.name: self.weight_files(part.name).variant for part in self.family.parts}
        for part in used:
            self.header(part)
        plain = [part for part, variant in used.items() if variant != self.variant]
        if len(plain) == len(used):
            raise CheckpointError(
                f"{self.source} has no {self.variant} weights in any part, only plain ones; leave "
                "the variant out."
            )
        if plain:
            log.warning(
                "%s has no %s weights of its %s; the plain ones are used.",
                self.folder,
                self.variant,
                " and ".join(plain),
            )

    def parameters(self, part: str) -> int:
        """The number of weights of one part. Raises CheckpointError if a file is damaged."""
        return sum(math.prod(tensor["shape"]) for tensor in self.header(part).values())

    def digest(self, part: str) -> str:
        """sha256 of the config and the weights of one part, and of `clip_skip`."""
        config = json.dumps(self.family.configs[part], sort_keys=True)
        if skips(self.family, part):
            config += f" clip_skip {self.clip_skip}"
        digest = hashlib.sha256(config.encode())
        for file in self.weights(part):
            digest.update(file_digest(file).encode())
        return digest.hexdigest()

    def digests(self) -> dict[str, str]:
        """Part name -> `digest`, for every part with weights."""
        return {part.name: self.digest(part.name) for part in self.family.parts}

    def check_size(self, size: Size) -> None:
        """Raise ValueError unless the denoiser works at this size, in whole latent cells."""
        factor, longest = self.family.size_multiple, self.family.max_side
        if any(s < factor or s % factor for s in size):
            raise ValueError(
                f"{size[0]} x {size[1]} is not a size for this model: both sides must be "
                f"multiples of {factor} pixels."
            )
        if longest is not None and max(size) > longest:
            raise ValueError(
                f"{size[0]} x {size[1]} is not a size for this model: its positions end at "
                f"{longest} pixels."
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
