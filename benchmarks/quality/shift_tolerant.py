"""The perceptual distance of two pictures: ShiftTolerant-LPIPS, with the published weights.

Ghildyal and Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022, arXiv 2207.13686. The
package `stlpips_pytorch` has the weights of its AlexNet (10 MB). Only that file is read; no code of
the package runs. It is optional: without it the figure is left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

PACKAGE = "stlpips_pytorch"
FILE = Path("weights", "vST0.0", "alex_shift_tolerant.pth")


@dataclass(frozen=True)
class PerceptualDistance:
    """The network.

    Attributes:
        weights: name -> tensor, as the package stores them.
    """

    weights: Mapping[str, Tensor]

    @classmethod
    def open(cls) -> PerceptualDistance | None:
        """The measure, or None if the package is not installed."""
        spec = importlib.util.find_spec(PACKAGE)  # does not import it
        if spec is None or spec.origin is None:
            return None
        file = Path(spec.origin).parent / FILE
        if not file.is_file():
            return None
        return cls(torch.load(file, map_location="cpu", weights_only=True))

    @torch.inference_mode()
    def __call__(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
        """The distance of two pictures, uint8 [H, W, 3] of one size; 0 for equal ones."""
        pair = np.stack([one, other]).astype(np.float32) / 127.5 - 1
        layers = self._features(torch.from_numpy(pair).permute(0, 3, 1, 2))
        return sum(self._layer(n, features) for n, features in enumerate(layers))

    def _layer(self, number: int, features: Tensor) -> float:
        """The weighted squared difference of unit feature vectors, averaged over the pixels."""
        first, second = features / (features.norm(dim=1, keepdim=True) + 1e-10)
        weights = self.weights[f"lin{number}.model.1.weight"][0]
        return float((weights * (first - second).square()).sum(0).mean())

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """AlexNet's five layers; every stride is a blur after a dense convolution or maximum."""
        w = self.weights
        x = (x - w["scaling_layer.shift"]) / w["scaling_layer.scale"]
        x = F.relu(self._blurred(self._convolved(x, "slice1.0", padding=2), "slice1.1"))
        yield x
        for number, blur, padding in ((2, 4, 2), (3, 8, 1)):
            x = self._blurred(F.max_pool2d(x, 3, stride=1), f"slice{number}.{blur}")
            x = F.relu(self._convolved(x, f"slice{number}.{blur + 1}", padding))
            yield x
        for name in ("slice4.11", "slice5.13"):
            x = F.relu(self._convolved(x, name, padding=1))
            yield x

    def _convolved(self, x: Tensor, name: str, padding: int) -> Tensor:
        w = self.weights
        return F.conv2d(x, w[f"net.{name}.weight"], w[f"net.{name}.bias"], padding=padding)

    def _blurred(self, x: Tensor, name: str) -> Tensor:
        """Every second pixel of the picture blurred with the stored kernel."""
        kernel, padded = self.weights[f"net.{name}.filt"], F.pad(x, (2, 2, 2, 2), "reflect")
        return F.conv2d(padded, kernel, stride=2, groups=x.shape[1])
