"""The nodes "DiffEdit edit" and "DiffEdit mask".

As in ComfyUI, images are float32 tensors [B, H, W, C] and masks float32 [B, H, W], both in [0, 1].
"""

from __future__ import annotations

import io
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from .client import Client

SERVER = "http://127.0.0.1:8000"
PRESETS = ("default", "paper", "balanced", "draft", "instant")
CATEGORY = "image/DiffEdit"
MAX_SEED = 2**31 - 1

TEXT = {"multiline": True, "dynamicPrompts": False}
PROMPTS: dict[str, Any] = {
    "image": ("IMAGE", {"tooltip": "The photograph; images of a batch are edited separately."}),
    "source_prompt": (
        "STRING",
        {**TEXT, "default": "", "tooltip": "What it shows now: a plain description."},
    ),
    "prompt": ("STRING", {**TEXT, "default": "", "tooltip": "What it should show instead."}),
}
SEED: dict[str, Any] = {
    "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True})
}


def _number(default: float, most: float, step: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    """An input for a number from 0 to `most`."""
    limits = {"default": default, "min": 0.0, "max": most, "step": step}
    return "FLOAT", {**limits, "tooltip": tooltip}


THRESHOLD: dict[str, Any] = {
    "threshold": _number(
        0.5, 0.99, 0.01, "Edit where the heatmap is above this; a higher value is a smaller mask."
    )
}
OPTIONAL: dict[str, Any] = {
    "preset": (list(PRESETS), {"tooltip": "Quality against time; default: the server's."}),
    "server": ("STRING", {"default": SERVER, "tooltip": "Address of `diffedit-trt serve`."}),
}


class DiffEditEdit:
    """Edits the region where two texts differ, and keeps every other pixel."""

    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "mask")
    OUTPUT_TOOLTIPS = ("The edited photograph.", "What was edited: 1 inside.")
    FUNCTION = "edit"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Finds where to edit by itself and repaints only that; all other pixels are those of the "
        "photograph. Needs a running DiffEdit server."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["inpaint", "edit", "automatic mask"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the inputs in ComfyUI's format."""
        negative = ("STRING", {**TEXT, "default": "", "tooltip": "What to avoid."})
        strength = _number(0.0, 1.0, 0.05, "How far from the original; 0: the preset's.")
        guidance = _number(0.0, 30.0, 0.5, "How closely to follow the text; 0: the model's.")
        return {
            "required": {**PROMPTS, **SEED},
            "optional": {
                "mask": ("MASK", {"tooltip": "Where to edit, instead of finding it: 1 is edited."}),
                "negative_prompt": negative,
                "strength": strength,
                "guidance_scale": guidance,
                **OPTIONAL,
            },
        }

    def edit(
        self,
        image: torch.Tensor,
        source_prompt: str,
        prompt: str,
        seed: int,
        mask: torch.Tensor | None = None,
        negative_prompt: str = "",
        strength: float = 0.0,
        guidance_scale: float = 0.0,
        preset: str = "default",
        server: str = SERVER,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Edit every image of a batch.

        Returns:
            The images [B, H, W, 3 or 4], and their masks [B, H, W], 1 inside.

        Raises:
            ServerError: the server is not reachable, or refuses an input.
        """
        fields = _fields(source_prompt, prompt, seed, preset)
        if negative_prompt.strip():
            fields["negative_prompt"] = negative_prompt
        if strength > 0:
            fields["strength"] = str(strength)
        if guidance_scale > 0:
            fields["guidance_scale"] = str(guidance_scale)
        masks = _batch_of(mask, len(image))
        client = _client(server, len(image))
        found = []
        for number, one in enumerate(image):
            files = {"image": _png(one)}
            if masks is not None:
                files["mask"] = _png(masks[number])
                fields["mask_format"] = "white"
            found.append(client.edit(fields, files))
        images, edited = zip(*found, strict=True)
        return _images(images), _masks(edited)


class DiffEditMask:
    """Computes the mask of the region where two texts differ, without an edit."""

    RETURN_TYPES = ("MASK", "MASK")
    RETURN_NAMES = ("mask", "soft_mask")
    OUTPUT_TOOLTIPS = ("What to edit: 1 inside.", "The same with a soft edge.")
    FUNCTION = "find"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Computes the mask of the region where two texts differ. It can be connected to any "
        "inpainting node. Needs a running DiffEdit server."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["segment", "automatic mask"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the inputs in ComfyUI's format."""
        grow = (
            "INT",
            {"default": 0, "min": 0, "max": 64, "tooltip": "Enlarge by this many latent cells."},
        )
        return {
            "required": {**PROMPTS, **SEED, **THRESHOLD},
            "optional": {"grow": grow, **OPTIONAL},
        }

    def find(
        self,
        image: torch.Tensor,
        source_prompt: str,
        prompt: str,
        seed: int,
        threshold: float,
        grow: int = 0,
        preset: str = "default",
        server: str = SERVER,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the mask of every image of a batch.

        Returns:
            The masks [B, H, W], 1 inside, and the same with soft edges.

        Raises:
            ServerError: the server is not reachable, or refuses an input.
        """
        fields = _fields(source_prompt, prompt, seed, preset)
        fields |= {"mask_threshold": str(threshold), "mask_dilation": str(grow)}
        client = _client(server, len(image))
        found = [client.find_mask(fields, {"image": _png(one)}) for one in image]
        masks, soft = zip(*found, strict=True)
        return _masks(masks), _masks(soft)


def _fields(source_prompt: str, prompt: str, seed: int, preset: str) -> dict[str, str]:
    """The fields that both nodes send."""
    fields = {"prompt": prompt, "source_prompt": source_prompt, "seed": str(seed)}
    return fields if preset == "default" else {**fields, "preset": preset}


def _batch_of(mask: torch.Tensor | None, count: int) -> torch.Tensor | None:
    """One mask for each image; a single mask is used for all of them."""
    if mask is None:
        return None
    mask = mask if mask.ndim == 3 else mask[None]
    if len(mask) not in (1, count):
        raise ValueError(
            f"There are {len(mask)} masks for {count} images; connect one mask, or one for each."
        )
    return mask.expand(count, -1, -1)


def _client(server: str, count: int) -> Client:
    """A client that shows progress in ComfyUI and stops at its Cancel button."""
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar
    except ImportError:  # outside of ComfyUI
        return Client(server)
    bar, done, last = ProgressBar(100 * count), 0, 0.0

    def on_progress(progress: float) -> None:
        nonlocal done, last
        throw_exception_if_processing_interrupted()
        done += progress < last  # the next image has begun
        last = progress
        bar.update_absolute(int(100 * (done + progress)))

    return Client(server, on_progress)


def _png(values: torch.Tensor) -> bytes:
    """Encode [H, W, C] or [H, W] in [0, 1] as a PNG with 8 bits."""
    levels = values.detach().cpu().float().clamp(0, 1).mul(255).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels).save(buffer, "PNG")
    return buffer.getvalue()


def _decoded(data: bytes, mode: str) -> torch.Tensor:
    """Decode a picture to float32 in [0, 1]."""
    levels = np.asarray(Image.open(io.BytesIO(data)).convert(mode), np.float32)
    return torch.from_numpy(levels / 255)


def _images(files: tuple[bytes, ...]) -> torch.Tensor:
    """Decode pictures to [B, H, W, C], with transparency if they have it."""
    modes = {Image.open(io.BytesIO(data)).mode for data in files}
    mode = "RGBA" if modes & {"RGBA", "LA"} else "RGB"
    return torch.stack([_decoded(data, mode) for data in files])


def _masks(files: tuple[bytes, ...]) -> torch.Tensor:
    """Decode masks to [B, H, W]."""
    return torch.stack([_decoded(data, "L") for data in files])
