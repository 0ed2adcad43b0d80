"""The paper's learned measures of one edit: LPIPS by torchmetrics, CLIP score by transformers.

LPIPS is the distance between a result and its input, 0 for equal pictures. The CLIP score is the
similarity of a result and its prompt, 0 to 100. Both need packages and weights; only a CLIP model
that is named by its hub id is downloaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from diffedit.request import InvalidRequest
from engine.errors import DiffEditError
from engine.hub import HUB_ID

BACKBONES = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}
"""LPIPS' networks, and torchvision's names of their weights."""
SMALLEST = 32
"""The shortest side in pixels that the last layers of LPIPS can take."""

Measure = Callable[[Image, Image, str], float]
"""(input, result, prompt) -> the figure. The pictures are RGB and have one size."""


class Missing(DiffEditError):
    """A package or a file that a measure needs is missing."""


def open_measures(
    lpips: str | None, clip: str | None, device: torch.device
) -> tuple[dict[str, Measure], dict[str, str]]:
    """Open what is requested and available.

    Args:
        lpips: the network, a key of `BACKBONES`; None for no LPIPS.
        clip: a folder with a CLIPModel and its CLIPProcessor, or the id of one on the hub; None
            for no CLIP score.
        device: where to measure.

    Returns: the measures "lpips" and "clip", and the reason for each that is missing.

    Raises InvalidRequest for an unknown LPIPS network.
    """
    if lpips is not None and lpips not in BACKBONES:
        raise InvalidRequest(f"LPIPS has no network {lpips!r}; use one of {', '.join(BACKBONES)}.")
    measures: dict[str, Measure] = {}
    missing = {}
    for name, chosen, make in (("lpips", lpips, _lpips), ("clip", clip, _clip)):
        try:
            if chosen is None:
                raise Missing(f"it was not requested; add --{name}.")
            measures[name] = make(chosen, device)
        except Missing as error:
            missing[name] = str(error)
    return measures, missing


def _lpips(network: str, device: torch.device) -> Measure:
    """LPIPS; NaN for pictures with a side under `SMALLEST` pixels. Raises Missing."""
    try:
        metrics: Any = importlib.import_module("torchmetrics.image.lpip")
        models: Any = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError, OSError) as error:  # the latter two from a wrong build
        raise Missing(
            f"a package does not load ({_first_line(error)}); install torchmetrics, and the "
            "torchvision that fits PyTorch's build."
        ) from None
    url = getattr(models, BACKBONES[network]).DEFAULT.url
    weights = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    if not weights.is_file():  # torchvision would download them
        raise Missing(f"its weights are missing; download {url} to {weights}.")
    metric = metrics.LearnedPerceptualImagePatchSimilarity(network, normalize=True).to(device)

    def measure(before: Image, after: Image, prompt: str) -> float:
        if min(before.size) < SMALLEST:
            return float("nan")
        arrays = (np.asarray(picture, np.float32) / 255 for picture in (before, after))
        return float(
            metric(*(torch.from_numpy(a).permute(2, 0, 1)[None].to(device) for a in arrays))
        )

    return measure


def _clip(name: str, device: torch.device) -> Measure:
    """100 times the cosine of the embeddings of result and prompt, at least 0. Raises Missing."""
    from transformers import CLIPModel, CLIPProcessor

    local = Path(name).is_dir()
    if not local and not HUB_ID.fullmatch(name):
        raise Missing(f"there is no folder {name}; pass one with a CLIPModel and CLIPProcessor.")
    try:
        model, info = CLIPModel.from_pretrained(
            name, local_files_only=local, dtype=torch.float32, output_loading_info=True
        )
        processor: Any = CLIPProcessor.from_pretrained(name, local_files_only=local)
    except MemoryError:
        raise
    except Exception as error:  # the files can contain anything
        raise Missing(f"no CLIP model loads from {name} ({_first_line(error)}).") from None
    if info["missing_keys"]:  # transformers would go on with random ones
        raise Missing(f"{name} lacks {len(info['missing_keys'])} of a CLIPModel's weights.")
    model = model.eval().to(device)

    @torch.inference_mode()
    def measure(before: Image, after: Image, prompt: str) -> float:
        inputs = processor(
            text=[prompt],
            images=[after],
            return_tensors="pt",
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
        )
        output = model(**inputs.to(device))
        cosine = torch.cosine_similarity(output.image_embeds, output.text_embeds)
        return max(0.0, 100 * float(cosine))

    return measure


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
