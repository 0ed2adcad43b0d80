"""The convolution kernel compared with PyTorch's convolution in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from engine.backends.torch.kernels import convolution as module
from engine.backends.torch.kernels.convolution import (
    WinogradConv2d,
    convolution,
    install,
    is_supported,
    pack_weights,
)
from engine.checkpoint import Checkpoint
from engine.loader import load_module
from tests.engine.processor import needs_kernel


def autoencoder() -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(64, 128),
    )
    return vae.to(torch.bfloat16).eval()


def random_bf16(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@needs_kernel
@pytest.mark.parametrize(
    ("images", "channels", "out", "height", "width"),
    [
        (1, 32, 64, 1, 1),  # smaller than a tile
        (2, 64, 128, 16, 16),
        (1, 96, 64, 5, 7),  # partial tiles at two edges
        (3, 32, 192, 9, 4),  # a block contains tiles of three images
        (1, 320, 320, 24, 32),
        (1, 1280, 64, 20, 20),  # more tiles than fit into the buffer
        (2, 32, 64, 130, 66),
    ],
)
def test_the_kernel_computes_convolution(
    images: int, channels: int, out: int, height: int, width: int
) -> None:
    x = random_bf16(images, channels, height, width).to(memory_format=torch.channels_last)
    weight = random_bf16(out, channels, 3, 3, seed=1) / (3 * channels**0.5)
    bias = torch.linspace(-2, 2, out)
    output = convolution(x, pack_weights(weight), bias)
    exact = conv2d(x.float(), weight.float(), bias, padding=1)
    assert output.shape == exact.shape and output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last)
    # Inputs, weights and outputs are rounded once each; the step of bfloat16 is 2^-8.
    assert (output - exact).norm() / exact.norm() < 2**-7
    assert (output - exact).abs().max() < 2**-5 * exact.abs().max()


@needs_kernel
def test_every_weight_is_multiplied_with_its_input() -> None:
    """One weight at a time, and inputs that are exact in bfloat16, so nothing is rounded."""
    x = torch.arange(64).remainder(7).float().add(1).expand(1, 6, 6, 64).permute(0, 3, 1, 2)
    x = (x * torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]]).repeat(2, 2)).bfloat16()
    for channel, position in ((0, (0, 0)), (1, (1, 1)), (31, (2, 0)), (32, (0, 2)), (47, (1, 2))):
        weight = torch.zeros(64, 64, 3, 3, dtype=torch.bfloat16)
        weight[5, channel, position[0], position[1]] = 1
        output = convolution(x, pack_weights(weight), torch.zeros(64))
        assert torch.equal(output.float(), conv2d(x.float(), weight.float(), padding=1))


@needs_kernel
def test_other_layouts_are_read_and_nan_is_kept() -> None:
    x, weights, bias = (
        random_bf16(2, 64, 10, 10),
        pack_weights(random_bf16(64, 64, 3, 3)),
        torch.zeros(64),
    )
    dense = convolution(x.to(memory_format=torch.channels_last), weights, bias)
    assert torch.equal(convolution(x, weights, bias), dense)
    assert torch.equal(convolution(x.repeat(1, 2, 1, 1)[:, :64], weights, bias), dense)
    x[0, 3, 4, 4] = float("nan")
    output = convolution(x, weights, bias)
    assert output[0, :, 3:6, 3:6].isnan().all() and output[1].isfinite().all()


@needs_kernel
def test_results_do_not_depend_on_other_images_of_the_batch() -> None:
    x, weights, bias = (
        random_bf16(5, 64, 9, 11),
        pack_weights(random_bf16(128, 64, 3, 3)),
        torch.zeros(128),
    )
    together = convolution(x, weights, bias)
    for i in range(5):
        assert torch.equal(convolution(x[i : i + 1], weights, bias)[0], together[i])


@needs_kernel
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_network_with_the_kernel_gives_nearly_the_same_output(
    part: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable", lambda: True)
    network: Any = load_module(Checkpoint.open(tiny), "unet", torch.bfloat16)
    if part == "vae":  # the tiny VAE has too few channels
        network = autoencoder()

    def run() -> Tensor:
        latent = random_bf16(2, 4, 8, 8)
        if part == "vae":
            decoded: Tensor = network.decode(latent).sample
            return decoded.float()
        text = random_bf16(2, 77, network.config.cross_attention_dim)
        predicted: Tensor = network(latent, torch.tensor([500, 20]), text)[0]
        return predicted.float()

    with torch.inference_mode():
        before = run()
        changed = install(network)
        after = run()
    assert changed == sum(isinstance(m, WinogradConv2d) for m in network.modules()) > 2
    assert not any(is_supported(m) for m in network.modules())
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
def test_other_convolutions_are_not_replaced(other: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1}
    usual["dtype"] = torch.bfloat16
    assert is_supported(torch.nn.Conv2d(**usual))
    assert not is_supported(torch.nn.Conv2d(**usual | other))


def test_other_precisions_are_not_replaced(tiny: Path) -> None:
    assert install(load_module(Checkpoint.open(tiny), "unet", torch.float32)) == 0
