"""The convolution kernel against PyTorch's in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from engine.backends.torch.kernels import convolution as module
from engine.backends.torch.kernels.convolution import Winograd, convolution, fits, install, packed
from engine.checkpoint import Checkpoint
from engine.loader import load_module

needs_kernel = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="this processor has no AVX-512 BF16"
)


def autoencoder() -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    found = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(64, 128),
    )
    return found.to(torch.bfloat16).eval()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@needs_kernel
@pytest.mark.parametrize(
    ("images", "channels", "out", "height", "width"),
    [
        (1, 32, 64, 1, 1),  # less than a tile
        (2, 64, 128, 16, 16),
        (1, 96, 64, 5, 7),  # half tiles at two edges
        (3, 32, 192, 9, 4),  # tiles of three images in one block
        (1, 320, 320, 24, 32),
        (1, 1280, 64, 20, 20),  # more tiles than are transformed at once
        (2, 32, 64, 130, 66),
    ],
)
def test_it_is_convolution(images: int, channels: int, out: int, height: int, width: int) -> None:
    x = drawn(images, channels, height, width).to(memory_format=torch.channels_last)
    weight = drawn(out, channels, 3, 3, seed=1) / (3 * channels**0.5)
    bias = torch.linspace(-2, 2, out)
    found = convolution(x, packed(weight), bias)
    exact = conv2d(x.float(), weight.float(), bias, padding=1)
    assert found.shape == exact.shape and found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    # Inputs, weights and outputs are rounded once each: bfloat16's step is 2^-8.
    assert (found - exact).norm() / exact.norm() < 2**-7
    assert (found - exact).abs().max() < 2**-5 * exact.abs().max()


@needs_kernel
def test_every_weight_meets_its_neighbour() -> None:
    """One weight at a time, ones for inputs that are exact in bfloat16: nothing is rounded."""
    x = torch.arange(64).remainder(7).float().add(1).expand(1, 6, 6, 64).permute(0, 3, 1, 2)
    x = (x * torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]]).repeat(2, 2)).bfloat16()
    for channel, at in ((0, (0, 0)), (1, (1, 1)), (31, (2, 0)), (32, (0, 2)), (47, (1, 2))):
        weight = torch.zeros(64, 64, 3, 3, dtype=torch.bfloat16)
        weight[5, channel, at[0], at[1]] = 1
        found = convolution(x, packed(weight), torch.zeros(64))
        assert torch.equal(found.float(), conv2d(x.float(), weight.float(), padding=1))


@needs_kernel
def test_layouts_are_obeyed_and_nothing_is_hidden() -> None:
    x, weights, bias = drawn(2, 64, 10, 10), packed(drawn(64, 64, 3, 3)), torch.zeros(64)
    dense = convolution(x.to(memory_format=torch.channels_last), weights, bias)
    assert torch.equal(convolution(x, weights, bias), dense)
    assert torch.equal(convolution(x.repeat(1, 2, 1, 1)[:, :64], weights, bias), dense)
    x[0, 3, 4, 4] = float("nan")
    found = convolution(x, weights, bias)
    assert found[0, :, 3:6, 3:6].isnan().all() and found[1].isfinite().all()


@needs_kernel
def test_no_result_depends_on_company() -> None:
    x, weights, bias = drawn(5, 64, 9, 11), packed(drawn(128, 64, 3, 3)), torch.zeros(128)
    together = convolution(x, weights, bias)
    for i in range(5):
        assert torch.equal(convolution(x[i : i + 1], weights, bias)[0], together[i])


@needs_kernel
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_network_with_it_answers_the_same(
    part: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable", lambda: True)
    network: Any = load_module(Checkpoint.open(tiny), "unet", torch.bfloat16)
    if part == "vae":  # the tiny one is too narrow
        network = autoencoder()

    def answer() -> Tensor:
        latent = drawn(2, 4, 8, 8)
        if part == "vae":
            decoded: Tensor = network.decode(latent).sample
            return decoded.float()
        text = drawn(2, 77, network.config.cross_attention_dim)
        answered: Tensor = network(latent, torch.tensor([500, 20]), text)[0]
        return answered.float()

    with torch.inference_mode():
        before = answer()
        changed = install(network)
        after = answer()
    assert changed == sum(isinstance(m, Winograd) for m in network.modules()) > 2
    assert not any(fits(m) for m in network.modules())
    assert (after - before).norm() / before.norm() < 0.03
    assert not torch.equal(after, before)


@pytest.mark.parametrize(
    "other",
    [
        {"stride": 2},
        {"padding": 0},
        {"dilation": 2},
        {"groups": 2},
        {"kernel_size": 1},
        {"in_channels": 4},
        {"out_channels": 4},
        {"padding_mode": "reflect"},
        {"dtype": torch.float32},
    ],
)
def test_other_convolutions_keep_theirs(other: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1}
    usual["dtype"] = torch.bfloat16
    assert fits(torch.nn.Conv2d(**usual))
    assert not fits(torch.nn.Conv2d(**usual | other))


def test_other_precisions_keep_theirs(tiny: Path) -> None:
    assert install(load_module(Checkpoint.open(tiny), "unet", torch.float32)) == 0
