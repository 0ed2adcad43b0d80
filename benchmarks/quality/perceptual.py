"""The paper's three learned measures, LPIPS, CLIP score and FID, computed by torchmetrics.

LPIPS is the distance between a result and its input, the CLIP score the similarity of a result and
its prompt, FID the distance between all results and all inputs, or a folder of other pictures. A
measure needs its packages and weights; where they are missing, `missing` names them. Only a CLIP
model that is named by its hub id is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from diffedit.imaging import decode
from diffedit.request import InvalidRequest
from engine.errors import DiffEditError
from engine.hub import HUB_ID

BACKBONES = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}
"""LPIPS' networks, and torchvision's names of their weights."""
INCEPTION = "torch_fidelity.feature_extractor_inceptionv3"
SMALLEST = 32
"""The shortest side in pixels that the last layers of LPIPS can take."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".ppm", ".avif"}


class Missing(DiffEditError):
    """A package or a file that a measure needs is missing."""


class Perceptual:
    """The available measures, updated one edit at a time.

    Attributes:
        missing: measure ("lpips", "clip", "fid") -> the reason why it is not measured.
        warnings: limits of the figures, one sentence each.
    """

    def __init__(
        self,
        metrics: dict[str, Any],
        missing: dict[str, str],
        device: torch.device | str,
        own_reference: bool = False,
    ) -> None:
        self.missing = missing
        self.warnings: list[str] = []
        self._metrics = metrics
        self._device = device
        self._own_reference = own_reference

    @classmethod
    def open(
        cls,
        lpips: str | None,
        clip: str | None,
        fid: bool,
        reference: Path | None,
        device: torch.device | str,
        feature: torch.nn.Module | None = None,
    ) -> Perceptual:
        """Open what is requested and available, and read the whole reference.

        Args:
            lpips: the network, a key of `BACKBONES`; None for no LPIPS.
            clip: a folder with a CLIPModel and its CLIPProcessor, or the id of one on the hub; None
                for no CLIP score.
            fid: whether to measure FID.
            reference: a folder of pictures for FID to compare the results with; None for the
                inputs.
            device: where to measure.
            feature: uint8 [1, 3, H, W] -> [1, D], instead of FID's Inception network.

        Raises InvalidRequest for an unknown LPIPS network, and for a reference without pictures or
        with a damaged one.
        """
        if lpips is not None and lpips not in BACKBONES:
            raise InvalidRequest(
                f"LPIPS has no network {lpips!r}; take one of {', '.join(BACKBONES)}."
            )
        if reference is not None and not fid:
            raise InvalidRequest("A reference for FID is given, but FID is not; add --fid.")
        pictures = _pictures(reference) if reference is not None else []
        measures: dict[str, tuple[bool, Callable[[], Any], str]] = {
            "lpips": (lpips is not None, lambda: _lpips(str(lpips)), "--lpips alex"),
            "clip": (clip is not None, lambda: _clip(str(clip)), "--clip PATH_OR_ID"),
            "fid": (fid, lambda: _fid(feature), "--fid"),
        }
        metrics, missing = {}, {}
        for name, (asked, make, option) in measures.items():
            try:
                if not asked:
                    raise Missing(f"it was not asked for; add {option}.")
                metrics[name] = make().to(device)
            except Missing as error:
                missing[name] = str(error)
        found = cls(metrics, missing, device, bool(pictures))
        if "fid" in metrics:
            for picture in pictures:
                metrics["fid"].update(found._tensor(decode.load(picture)), real=True)
        return found

    def add(self, before: Image, after: Image, prompt: str) -> dict[str, float]:
        """Measure one edit: "lpips", 0 for equal pictures, and "clip", 0 to 100, where available.

        Both pictures are RGB of one size. Pictures that are too small have no "lpips".
        """
        assert before.size == after.size
        here, there = self._tensor(before), self._tensor(after)
        found = {}
        if "lpips" in self._metrics:
            if min(before.size) >= SMALLEST:
                found["lpips"] = _once(self._metrics["lpips"], here / 255, there / 255)
            else:
                self._warn(f"Pictures with a side under {SMALLEST} pixels are left out of LPIPS.")
        if "clip" in self._metrics:
            found["clip"] = _once(self._metrics["clip"], there, [prompt])
        if "fid" in self._metrics:
            self._metrics["fid"].update(there, real=False)
            if not self._own_reference:
                self._metrics["fid"].update(here, real=True)
        return found

    def result(self) -> dict[str, float]:
        """The figure of the whole set: "fid", unless it is missing or needs more pictures."""
        metric = self._metrics.get("fid")
        if metric is None:
            return {}
        results, others = metric.fake_features_num_samples, metric.real_features_num_samples
        count = min(int(results), int(others))
        if count < 2:
            self.missing["fid"] = "it compares sets of at least two pictures; add edits to the set."
            return {}
        self.missing.pop("fid", None)  # of an earlier, smaller result
        features = metric.real_features_sum.numel()
        if count < features:
            self._warn(
                f"FID is too high where there are fewer pictures than the {features:,} features it "
                f"compares, and here are {count:,}; compare it with sets of the same size only."
            )
        return {"fid": float(metric.compute())}

    def clear(self) -> None:
        """Forget the edits for the next set; the networks and the reference stay."""
        self.warnings = []
        if metric := self._metrics.get("fid"):
            metric.reset_real_features = not self._own_reference
            metric.reset()
            self.missing.pop("fid", None)

    def _tensor(self, picture: Image) -> torch.Tensor:
        """uint8 [1, 3, H, W]."""
        pixels = torch.from_numpy(np.array(picture.convert("RGB")))
        return pixels.permute(2, 0, 1)[None].contiguous().to(self._device)

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def _once(metric: Any, *values: Any) -> float:
    """The metric of these values alone. torchmetrics' `forward` would run the network twice."""
    metric.reset()
    metric.update(*values)
    return float(metric.compute())


def _lpips(network: str) -> Any:
    """Pictures in [0, 1] -> their distance. Raises Missing."""
    models = _module("torchvision.models", "torchvision")
    _weights(getattr(models, BACKBONES[network]).DEFAULT.url)  # torchvision reads the file itself
    metrics = _module("torchmetrics.image.lpip", "torchmetrics")
    return metrics.LearnedPerceptualImagePatchSimilarity(net_type=network, normalize=True)


def _fid(feature: torch.nn.Module | None) -> Any:
    """FID on the network given, or on Inception's 2,048 features. Raises Missing."""
    if feature is not None:
        metrics = _module("torchmetrics.image.fid", "torchmetrics")
        return metrics.FrechetInceptionDistance(feature=feature.eval())
    weights = _weights(_module(INCEPTION, "torch-fidelity and torchvision").URL_INCEPTION_V3)
    metrics = _module("torchmetrics.image.fid", "torchmetrics")
    return metrics.FrechetInceptionDistance(feature_extractor_weights_path=str(weights))


def _clip(name: str) -> Any:
    """A uint8 picture and a text -> 100 cos of their embeddings, at least 0. Raises Missing."""
    metrics = _module("torchmetrics.multimodal.clip_score", "torchmetrics")
    from transformers import CLIPModel, CLIPProcessor

    local = Path(name).is_dir()
    if not local and not HUB_ID.fullmatch(name):
        raise Missing(f"there is no folder {name}; name one with a CLIPModel and CLIPProcessor.")
    try:
        model, info = CLIPModel.from_pretrained(
            name, local_files_only=local, dtype=torch.float32, output_loading_info=True
        )
        processor = CLIPProcessor.from_pretrained(name, local_files_only=local)
    except MemoryError:
        raise
    except Exception as error:  # files of others can hold anything
        raise Missing(
            f"no CLIP model loads from {name} ({_first_line(error)}); name a folder or an id with "
            "a CLIPModel and its CLIPProcessor."
        ) from None
    if info["missing_keys"]:  # transformers would go on with random ones
        raise Missing(
            f"{name} lacks {len(info['missing_keys'])} of a CLIPModel's weights; name a whole one, "
            "of texts and pictures."
        )
    return metrics.CLIPScore(lambda: (_Tensors(model.eval()), _cutting(processor, model.config)))


class _Tensors(torch.nn.Module):
    """A CLIPModel whose features are tensors, as torchmetrics needs them.

    Since transformers 5 they are fields of an output.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def get_image_features(self, *inputs: torch.Tensor) -> Any:
        output = self.model.get_image_features(*inputs)
        return getattr(output, "pooler_output", output)

    def get_text_features(self, *inputs: torch.Tensor) -> Any:
        output = self.model.get_text_features(*inputs)
        return getattr(output, "pooler_output", output)


def _cutting(processor: Any, config: Any) -> Callable[..., Any]:
    """The processor, with long texts cut before their end token: torchmetrics would cut the end
    token off, where CLIP takes the embedding of a text from."""
    limit = {"truncation": True, "max_length": config.text_config.max_position_embeddings}
    return lambda **inputs: processor(**inputs, **(limit if "text" in inputs else {}))


def _module(name: str, package: str) -> Any:
    """Import an optional package. Raises Missing."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:  # the latter two from a wrong build
        also = "" if package == "torchmetrics" else ", in builds that go together with PyTorch's"
        raise Missing(
            f"{package} does not load ({_first_line(error)}); install {package}{also}."
        ) from None


def _weights(url: str) -> Path:
    """The file that PyTorch downloads from `url`. Raises Missing unless it is here and intact."""
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    if not path.is_file():
        raise Missing(f"its weights are not here; download {url} to {path}.")
    begins = re.search(r"-([0-9a-f]{8,})\.", path.name)  # PyTorch names files by their SHA-256
    with path.open("rb") as file:
        if begins and not hashlib.file_digest(file, "sha256").hexdigest().startswith(begins[1]):
            raise Missing(f"{path} is damaged; download {url} again.")
    return path


def _pictures(folder: Path) -> list[Path]:
    """Every picture in a folder and its subfolders. Raises InvalidRequest for fewer than two."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise InvalidRequest(
            f"FID's reference {folder} holds {len(found)} pictures; name a folder with thousands."
        )
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
