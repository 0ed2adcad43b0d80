"""Checkpoint to modules: each part loaded, LoRAs fused, cast, and wrapped behind one signature.

Nothing here reaches the network: `export.hub` has made sure that the folder is local.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.checkpoint import NETWORKS, Checkpoint
from engine.errors import CheckpointError
from engine.netspec import NetSpec, Precision
from export.lora import Lora, fuse

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
STEPS = 1000
"""Timesteps of the sample inputs lie in [0, STEPS)."""


class Wrapped(nn.Module):
    """One network as the ONNX file has it: tensors in by position, one float32 tensor out."""

    def __init__(self, name: str, module: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.name = name
        self.module = module
        self.dtype = DTYPES[precision]

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = NETWORKS[self.name].call(self.module, self.dtype, *inputs)
        return output


def load(checkpoint: Checkpoint, part: str, loras: Sequence[Lora] = ()) -> nn.Module:
    """One part in fp32 on the CPU, in evaluation mode, LoRAs fused, without gradients.

    Raises:
        CheckpointError: the weights are damaged, incomplete or do not fit the config.
    """
    folder = checkpoint.folder / part
    with quiet():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
        kind: Any = classes.get(part, CLIPTextModel)
        try:
            module, info = kind.from_pretrained(
                folder,
                variant=checkpoint.variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                torch_dtype=torch.float32,
            )
        except Exception as error:  # those of three libraries share no base
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise CheckpointError(
                f"The weights of {folder} cannot be loaded ({reason}); download them again."
            ) from error
        missing = sorted(info["missing_keys"])
        if missing:
            raise CheckpointError(
                f"The weights of {folder} lack {len(missing)} tensors ({missing[0]}, ...): "
                "they belong to another model or are incomplete; download them again."
            )
        fuse(module, part, loras)
    frozen: nn.Module = module.float().eval().requires_grad_(False)
    return frozen


def wrap(name: str, module: nn.Module, precision: Precision) -> Wrapped:
    """Cast `module` in place and wrap it for `name`.

    A checkpoint that asks for attention in fp32 (Stable Diffusion 2.1: its scores overflow fp16)
    gets it in the graph: the fused attention call would ignore the wish.
    """
    with quiet():
        module = module.to(DTYPES[precision])
        if precision == "fp16" and getattr(module.config, "upcast_attention", False):
            from diffusers.models.attention_processor import AttnProcessor

            unet: Any = module
            unet.set_attn_processor(AttnProcessor())
    return Wrapped(name, module, precision).eval()


def sample(spec: NetSpec, rows: int, *, vocabulary: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs as the network meets them, the same for a seed; row i does not depend on `rows`.

    Token ids are uniform below `vocabulary`, pictures uniform in [-1, 1], timesteps uniform in
    [0, STEPS), latents and embeddings standard normal.
    """
    generators = [torch.Generator().manual_seed(seed * 1000 + row) for row in range(rows)]

    def draw(name: str, shape: tuple[int, ...], integer: bool, g: torch.Generator) -> Tensor:
        if integer:
            return torch.randint(0, vocabulary, shape, generator=g)
        if name == "image":
            return torch.rand(shape, generator=g) * 2 - 1
        if name == "timestep":
            return torch.rand(shape, generator=g) * STEPS
        return torch.randn(shape, generator=g)

    by_row = [
        [draw(t.name, t.shape, t.dtype == "int64", g) for t in spec.inputs] for g in generators
    ]
    return tuple(torch.stack(tensors) for tensors in zip(*by_row, strict=True))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and progress bars of the libraries; their errors still speak."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    before = logging.root.manager.disable
    bars = [log.is_progress_bar_enabled() for log in (diffusers_log, transformers_log)]
    logging.disable(max(before, logging.WARNING))
    diffusers_log.disable_progress_bar()
    transformers_log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        for log, shown in zip((diffusers_log, transformers_log), bars, strict=True):
            if shown:
                log.enable_progress_bar()
