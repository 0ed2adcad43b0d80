"""The conditioning of a text by our networks and by diffusers', and small files of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffedit.conditioning.conditioner import Conditioner
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.loader import quiet
from engine.weights_check import check_weights
from tests.families.conftest import FamilyUnderTest


def theirs(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    with quiet():
        absent = {"text_encoder_3": None, "tokenizer_3": None} if "no-t5" in folder.name else {}
        return DiffusionPipeline.from_pretrained(folder, local_files_only=True, **absent)


def condition(checkpoint: Checkpoint, text: str) -> tuple[Tensor, ...]:
    """The conditioning of a text for our denoiser."""
    check_weights(checkpoint)
    networks = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu")
    family = FamilyUnderTest("", checkpoint, networks, Conditioner(checkpoint), None)
    return family.condition(text)


def their_condition(pipe: Any, text: str, **options: Any) -> tuple[Tensor, ...]:
    """The prompt's conditioning by `encode_prompt`."""
    values: dict[str, Any] = {"device": torch.device("cpu"), "num_images_per_prompt": 1}
    values |= {"do_classifier_free_guidance": False, **options}
    name = type(pipe).__name__
    texts = [text] + [None] * {"StableDiffusionXLPipeline": 1, "StableDiffusion3Pipeline": 2}.get(
        name, 0
    )
    found = pipe.encode_prompt(*texts, **values)
    return (found[0][0],) if name == "StableDiffusionPipeline" else (found[0][0], found[2][0])


def check_equal(ours: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert len(ours) == len(wanted)
    for mine, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


def saved(path: Path, **tensors: Tensor) -> Path:
    save_file(tensors, path)
    return path


def vectors(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
