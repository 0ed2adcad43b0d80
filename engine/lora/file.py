"""Check a LoRA file against a checkpoint without loading weights.

The layers and shapes are read from the headers of the LoRA file and of the checkpoint's files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.checkpoint import Checkpoint, read_header
from engine.digest import file_digest
from engine.errors import CheckpointError
from engine.lora.adapter_config import AdapterConfig, read_configs
from engine.lora.names import parse, part_prefixes, plain
from engine.lora.other_models import other_model
from engine.manifest import FusedFile
from engine.models.original_names import Piece

if TYPE_CHECKING:
    from engine.lora.shapes import ModelLayer

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
OTHER_METHODS = {
    "query_norm.scale": "a Control LoRA of FLUX.1, which needs a control picture",
    ".oft_": "OFT",
    ".boft_": "BOFT",
    ".on_input": "IA3",
    ".a1.weight": "GLoRA",
    ".vera_lambda": "VeRA",
    ".lora_embedding_": "LoRA of token embeddings",
    ".lora_A.bias": "LoRA with biases",
    ".lora_B.bias": "LoRA with biases",
    ".bias_values": "LyCORIS with sparse biases",
    ".scalar": "LyCORIS with an unsaved scalar",
    ".set_weight": "replaced weights",
    ".reshape_weight": "reshaped weights",
    ".bypass": "bypass",
    "bundle_emb.": "LoRA with embeddings",
    "emb_params": "a textual inversion",
}
"""Part of a tensor's name -> the method that it belongs to. None of them is supported."""


def parse_lora(text: str) -> tuple[Path, float]:
    """(file, scale) from "PATH" or "PATH:SCALE"; the scale is 1 by default. Raises ValueError.

    Examples:
        >>> path, scale = parse_lora("style.safetensors:0.8")
        >>> str(path), scale
        ('style.safetensors', 0.8)
    """
    path, colon, scale = text.rpartition(":")
    try:
        return (Path(path).expanduser(), float(scale)) if colon else (Path(text).expanduser(), 1.0)
    except ValueError:
        raise ValueError(
            f"--lora needs PATH:SCALE such as style.safetensors:0.8, not {text!r}"
        ) from None


@dataclass(frozen=True)
class Target:
    """The tensors of a file for one layer.

    Attributes:
        layer: the layer's path in the checkpoint or in the original code, without ".weight".
        pieces: the layers of the module that its rows belong to.
        tensors: kind -> tensor name in the file.
        factor: alpha / rank if PEFT's settings state it; otherwise None.
    """

    layer: str
    pieces: tuple[Piece, ...]
    tensors: Mapping[str, str]
    factor: float | None = None


@dataclass(frozen=True)
class Lora:
    """One file at one scale.

    Attributes:
        path: a safetensors file.
        scale: factor of its change; 1 is the trained strength, and negative values reverse it.
        sha256: of the file.
        shapes: tensor name -> shape.
    """

    path: Path
    scale: float
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def open(cls, path: Path, scale: float) -> Lora:
        """Read a file's header.

        Raises:
            ValueError: the scale is not a finite number.
            CheckpointError: it is not a LoRA, or uses a method that is not supported.
        """
        if not math.isfinite(scale):
            raise ValueError(f"the scale of a LoRA must be a finite number, not {scale}")
        path = Path(path)
        if path.suffix != ".safetensors" or not path.is_file():
            raise CheckpointError(
                f"{path} is not a LoRA file; pass a .safetensors file on this machine."
            )
        header = read_header(path)
        for mark, method in OTHER_METHODS.items():
            name = next((name for name in header if mark in name), None)
            if name is not None:
                raise CheckpointError(
                    f"{path} has {method} ({name}), which is not supported, unlike LoRA, DoRA, "
                    "LoHa, LoKr and full differences; merge it with the program that made it."
                )
        parsed = {name: parse(name, {}) for name in header}
        if not any(parsed.values()):
            raise CheckpointError(f"{path} has no LoRA weights; pass a LoRA file.")
        for name, found in parsed.items():
            if found and found.kind != "alpha" and header[name]["dtype"] not in FLOATS:
                raise CheckpointError(
                    f"{path} has {header[name]['dtype']} numbers in {name}, but a LoRA has "
                    "floating-point numbers; save it in fp16 or fp32."
                )
        shapes = {name: tuple(tensor["shape"]) for name, tensor in header.items()}
        return cls(path, scale, file_digest(path), shapes)

    @property
    def identity(self) -> FusedFile:
        """Its entry in the manifest."""
        return FusedFile(str(self.path), self.sha256, self.scale)

    def changes(self, checkpoint: Checkpoint, part: str) -> bool:
        """Whether it changes a part of the checkpoint. Raises CheckpointError if it does not fit
        the checkpoint."""
        return bool(self.targets(checkpoint)[part])

    def targets(self, checkpoint: Checkpoint) -> dict[str, dict[str, Target]]:
        """Part -> layer -> the tensors for it; a layer is named as `names.plain` does.

        Raises CheckpointError if a tensor belongs to no layer of the model, its shape does not fit,
        or a layer's tensors are incomplete.
        """
        from engine.lora.shapes import check_layer, model_layers

        layers = model_layers(checkpoint)
        configs = read_configs(self.path, tuple(layers))
        matched = self._matched(layers, part_prefixes(checkpoint.family.parts))
        matched = _without_repeated(matched, layers)
        targets: dict[str, dict[str, Target]] = {part.name: {} for part in checkpoint.family.parts}
        for (part, layer), tensors in matched.items():
            model_layer = layers[part][layer]
            factor = _factor(configs, part, model_layer.path)
            reason = check_layer(tensors, self.shapes, model_layer)
            if factor is not None and "alpha" in tensors:
                reason = "alpha is given twice, as a tensor and in PEFT's settings"
            if reason:
                self._refuse(f"in its layer {model_layer.path}, {reason}", f"'s {part}")
            targets[part][layer] = Target(model_layer.path, model_layer.pieces, tensors, factor)
        return targets

    def _matched(
        self, layers: Mapping[str, Mapping[str, ModelLayer]], prefixes: Mapping[str, str]
    ) -> Matched:
        """(part, layer) -> kind -> tensor name. Refuses tensors that belong to no layer."""
        matched: Matched = {}
        unmatched = []
        for name in self.shapes:
            found = parse(name, prefixes)
            layer = plain(found.layer) if found else ""
            named = found.part if found else None
            parts = [p for p in layers if layer in layers[p] and named in (None, p)]
            if found is None or not parts:
                unmatched.append(name)
                continue
            if len(parts) > 1:
                self._refuse(f"{name} may belong to the {' or the '.join(parts)}")
            tensors = matched.setdefault((parts[0], layer), {})
            if found.kind in tensors:
                self._refuse(f"it has two tensors for one ({tensors[found.kind]} and {name})")
            tensors[found.kind] = name
        if unmatched:
            self._refuse(
                f"{len(unmatched)} of its {len(self.shapes)} tensors belong to no layer of the "
                f"model ({', '.join(sorted(unmatched)[:3])})"
            )
        return matched

    def _refuse(self, reason: str, part: str = "") -> None:
        model = other_model(self.shapes)
        named = f"it is for {model}: " if model else ""
        raise CheckpointError(
            f"The LoRA {self.path} does not fit this model{part}: {named}{reason}; use one that "
            "was trained for this kind of model."
        )


Matched = dict[tuple[str, str], dict[str, str]]
"""(part, layer) -> kind -> tensor name."""


def _without_repeated(matched: Matched, layers: Mapping[str, Mapping[str, ModelLayer]]) -> Matched:
    """Remove layers that a file has under two names; the names of the original code are dropped, as
    in diffusers."""
    own = {
        (part, layers[part][name].path)
        for part, name in matched
        if [piece.layer for piece in layers[part][name].pieces] == [layers[part][name].path]
    }
    return {
        (part, name): tensors
        for (part, name), tensors in matched.items()
        if (part, layers[part][name].path) in own
        or not all((part, piece.layer) in own for piece in layers[part][name].pieces)
    }


def _factor(configs: tuple[AdapterConfig, ...], part: str, layer: str) -> float | None:
    """alpha / rank of a layer from PEFT's settings, or None."""
    found = next((config for config in configs if config.part in (None, part)), None)
    return found.factor(layer) if found else None
