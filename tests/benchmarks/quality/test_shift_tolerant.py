"""The perceptual distance equals the same network written with PyTorch's modules."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.quality.cases import DEV, case
from benchmarks.quality.editors import Outcome
from benchmarks.quality.figures import figures
from benchmarks.quality.settings import Setting
from benchmarks.quality.shift_tolerant import FILE, PACKAGE, PerceptualDistance
from demo.judge import Judge

CHANNELS = (4, 6, 8, 5, 5)
NAMES = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
SIZES = (11, 5, 3, 3, 3)
BLURS = {"slice1.1": 4, "slice2.4": 4, "slice3.8": 6}


def random_weights() -> dict[str, Tensor]:
    """The stored names, with few channels."""
    draw = torch.Generator().manual_seed(0)
    weights = {"scaling_layer.shift": torch.tensor([-0.03, -0.088, -0.188]).view(1, 3, 1, 1)}
    weights["scaling_layer.scale"] = torch.tensor([0.458, 0.448, 0.45]).view(1, 3, 1, 1)
    before = 3
    for name, channels, size in zip(NAMES, CHANNELS, SIZES, strict=True):
        shape = (channels, before, size, size)
        weights[f"net.{name}.weight"] = torch.randn(shape, generator=draw) / (before * size)
        weights[f"net.{name}.bias"] = torch.randn(channels, generator=draw) / 10
        before = channels
    kernel = torch.tensor([1.0, 2, 1])
    for name, channels in BLURS.items():
        weights[f"net.{name}.filt"] = (kernel[:, None] * kernel / 16).repeat(channels, 1, 1, 1)
    for n, channels in enumerate(CHANNELS):
        weights[f"lin{n}.model.1.weight"] = torch.rand((1, channels, 1, 1), generator=draw)
    return weights


class Blur(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        padded = nn.ReflectionPad2d(2)(x)
        rows = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
        both = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
        halved: Tensor = both[:, :, ::2, ::2]
        return halved


def oracle(weights: dict[str, Tensor], one: Tensor, other: Tensor) -> float:
    layers: list[nn.Module] = []
    before = 3
    for n, (name, channels, size) in enumerate(zip(NAMES, CHANNELS, SIZES, strict=True)):
        convolution = nn.Conv2d(before, channels, size, padding=2 if size > 3 else 1)
        convolution.load_state_dict(
            {part: weights[f"net.{name}.{part}"] for part in ("weight", "bias")}
        )
        pooled = [nn.MaxPool2d(3, stride=1), Blur()] if n in (1, 2) else []
        layers.append(nn.Sequential(*pooled, convolution, *([Blur()] * (n == 0)), nn.ReLU()))
        before = channels
    total = 0.0
    pair = [
        (x - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"] for x in (one, other)
    ]
    for n, layer in enumerate(layers):
        pair = [layer(x) for x in pair]
        units = [nn.functional.normalize(x, dim=1, eps=1e-10) for x in pair]
        importance = weights[f"lin{n}.model.1.weight"].view(-1, 1, 1)
        total += float((importance * (units[0] - units[1]) ** 2).sum(1).mean())
    return total


@torch.inference_mode()
@pytest.mark.parametrize("size", [40, 33])
def test_it_equals_the_network_of_modules(size: int) -> None:
    weights, draw = random_weights(), np.random.default_rng(1)
    one, other = (draw.integers(0, 256, (size, size, 3), np.uint8) for _ in range(2))
    tensors = [
        torch.from_numpy(x.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        for x in (one, other)
    ]
    distance = PerceptualDistance(weights)
    assert distance(one, other) == pytest.approx(oracle(weights, tensors[0], tensors[1]), rel=1e-4)
    assert distance(one, other) == pytest.approx(distance(other, one), rel=1e-5)
    assert distance(one, one) == 0


def test_a_package_is_read_but_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    package = tmp_path / PACKAGE
    (package / FILE).parent.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it ran')")
    assert PerceptualDistance.open() is None
    torch.save(random_weights(), package / FILE)
    opened = PerceptualDistance.open()
    assert opened is not None and opened.weights.keys() == random_weights().keys()


def test_the_figure_compares_with_the_perfect_edit() -> None:
    one, judge = case(DEV, 64), Judge.open()
    setting, distance = Setting("a"), PerceptualDistance(random_weights())
    found = figures(setting, one, Outcome(one.image), judge, 4, distance)
    assert found["perceptual"] > 0
    ideal = figures(setting, one, Outcome(one.ideal.image), judge, 4, distance)
    assert ideal["perceptual"] == 0
    assert "perceptual" not in figures(setting, one, Outcome(one.image), judge, 4)
