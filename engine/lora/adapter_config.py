"""Read PEFT's scaling of a LoRA from the file's metadata or `adapter_config.json`.

PEFT multiplies a change by lora_alpha / r, or by lora_alpha / sqrt(r) with `use_rslora`; patterns
override both for some layers. Without it, a file would be fused with the wrong strength. Standard
library only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.safetensors_header import read_metadata

METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers stores the configs of all parts, as "unet.r", "text_encoder.lora_alpha", ..."""
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
UNSUPPORTED = (
    *("fan_in_fan_out", "modules_to_save", "trainable_token_indices", "lora_bias"),
    *("layer_replication", "target_parameters", "alora_invocation_tokens"),
)
"""Settings with an effect that the tensors' names do not show."""
CHANGE_THE_MODEL = ("pissa", "olora", "corda", "loftq")
"""Initializations that also change the model's own weights, which a file does not contain."""
_WRONG_TYPES = (TypeError, AttributeError, KeyError)


@dataclass(frozen=True)
class AdapterConfig:
    """PEFT's settings of one file, for one part.

    Attributes:
        part: the part they are for; None means every part.
        values: as PEFT writes them.
    """

    part: str | None
    values: Mapping[str, Any]

    def factor(self, layer: str) -> float:
        """alpha / rank of a layer, given by its dotted path in the module."""
        rank = self._value("r", "rank_pattern", layer)
        alpha = self._value("lora_alpha", "alpha_pattern", layer)
        return alpha / (math.sqrt(rank) if self.values.get("use_rslora") else rank)

    def _value(self, name: str, pattern: str, layer: str) -> float:
        patterns: Mapping[str, float] = self.values.get(pattern) or {}
        for key, value in patterns.items():
            if re.match(rf"(.*\.)?({key})$", layer):  # PEFT's rule
                return float(value)
        return float(self.values[name])


def read_configs(path: Path, parts: tuple[str, ...]) -> tuple[AdapterConfig, ...]:
    """The PEFT settings that belong to a LoRA file; empty if there are none.

    Raises CheckpointError if they are damaged, or name a method other than LoRA.
    """
    source, data = path, read_metadata(path).get(METADATA_KEY)
    beside = path.with_name(CONFIG_NAME)
    try:
        if data is not None:
            configs = _by_part(json.loads(data), parts)
        elif path.name == WEIGHTS_NAME and beside.is_file():
            source = beside
            configs = (AdapterConfig(None, json.loads(beside.read_text())),)
        else:
            return ()
        for config in configs:
            _check(config, source)
    except (OSError, ArithmeticError, ValueError, RecursionError, *_WRONG_TYPES, re.error):
        raise CheckpointError(
            f"The PEFT settings in {source} cannot be read, so the strength of the LoRA {path} is "
            "unknown; save the LoRA again."
        ) from None
    return configs


def _by_part(data: Mapping[str, Any], parts: tuple[str, ...]) -> tuple[AdapterConfig, ...]:
    """Split diffusers' flat "part.name" settings."""
    split = {
        part: {k.removeprefix(f"{part}."): v for k, v in data.items() if k.startswith(f"{part}.")}
        for part in parts
    }
    return tuple(AdapterConfig(part, values) for part, values in split.items() if values)


def _check(config: AdapterConfig, source: Path) -> None:
    """Raise for settings that this project does not apply, or that are not numbers."""
    values = config.values
    method = str(values.get("peft_type") or "LORA").rpartition(".")[2]
    initial = str(values.get("init_lora_weights"))
    wanted = [
        *([f"peft_type {method}"] if method != "LORA" else []),
        *([f"init_lora_weights {initial}"] if initial.startswith(CHANGE_THE_MODEL) else []),
        *(name for name in UNSUPPORTED if values.get(name)),
    ]
    if wanted:
        raise CheckpointError(
            f"{source} sets {wanted[0]}, which is not supported; merge this LoRA with PEFT and "
            "save the model."
        )
    layers = ["", *(values.get("rank_pattern") or {}), *(values.get("alpha_pattern") or {})]
    if not all(math.isfinite(config.factor(layer)) for layer in layers):
        raise ValueError("not finite")
