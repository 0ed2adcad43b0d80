"""The attention kernel compared with PyTorch's attention in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine.backends.torch.kernels import attention as module
from engine.backends.torch.kernels.attention import attention, install
from engine.checkpoint import Checkpoint
from engine.loader import load_module
from tests.engine.processor import needs_kernel


def reference(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    split = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    return scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


@needs_kernel
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads", "width"),
    [
        (1, 1, 1, 1, 2),
        (2, 96, 96, 8, 40),  # head size of SD 1.5, whole blocks
        (1, 1024, 1024, 2, 80),
        (2, 70, 77, 3, 160),  # the keys of a text
        (1, 25, 513, 2, 64),  # one query and one key past a block
        (1, 30, 33, 1, 96),
        (3, 50, 600, 2, 128),
        (1, 24, 31, 2, 12),
        (1, 13, 50, 1, 512),
    ],
)
def test_the_kernel_computes_attention(
    batch: int, queries: int, keys: int, heads: int, width: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn((batch, n, heads * width), generator=draw).mul(2).bfloat16()
        for n in (queries, keys, keys)
    )
    output, exact = attention(q, k, v, heads).float(), reference(q, k, v, heads)
    assert output.shape == exact.shape
    # Weights and output are rounded once each; the step of bfloat16 is 2^-8.
    assert (output - exact).norm() / exact.norm() < 2**-8
    assert (output - exact).abs().max() < 2**-6 * exact.abs().max()


@needs_kernel
def test_large_scores_do_not_overflow() -> None:
    """The maxima grow from block to block, far beyond the range of exp."""
    q = torch.full((1, 30, 8), 30.0).bfloat16()
    k = torch.linspace(-30, 30, 1100)[None, :, None].expand(1, 1100, 8).bfloat16()
    v = torch.linspace(0, 1, 1100)[None, :, None].expand(1, 1100, 8).bfloat16()
    output = attention(q, k, v, 1).float()
    assert torch.allclose(output, reference(q, k, v, 1), atol=2**-7)


@needs_kernel
def test_strided_inputs_are_read_and_nan_is_kept() -> None:
    whole = torch.randn(2, 40, 3 * 64).bfloat16()
    q, k, v = whole.chunk(3, dim=-1)  # as from one product for all three
    dense = attention(*(t.contiguous() for t in (q, k, v)), 2)
    assert torch.equal(attention(q, k, v, 2), dense)
    columns = q.transpose(1, 2).contiguous().transpose(1, 2)  # channels are not contiguous
    assert torch.equal(attention(columns, k, v, 2), dense)
    k = k.clone()
    k[0, 7, 3] = float("nan")
    output = attention(q, k, v, 2)
    assert output[0, :, :32].isnan().all() and output[1].isfinite().all()


@needs_kernel
def test_results_do_not_depend_on_other_rows_of_the_batch() -> None:
    q, k, v = (torch.randn(4, n, 64).bfloat16() for n in (50, 77, 77))
    together = attention(q, k, v, 4)
    for i in range(4):
        alone = attention(q[i : i + 1], k[i : i + 1], v[i : i + 1], 4)
        assert torch.equal(alone[0], together[i])


@needs_kernel
def test_a_unet_with_the_kernel_gives_nearly_the_same_output(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable", lambda: True)
    unet: Any = load_module(Checkpoint.open(tiny), "unet", torch.bfloat16)
    text = torch.randn(2, 77, unet.config.cross_attention_dim).bfloat16()
    latent = torch.randn(2, unet.config.in_channels, 8, 8).bfloat16()
    with torch.inference_mode():
        before = unet(latent, torch.tensor([500, 20]), text)[0].float()
        assert install(unet)
        after = unet(latent, torch.tensor([500, 20]), text)[0].float()
    processors = {type(p).__name__ for p in unet.attn_processors.values()}
    assert processors == {"KernelAttnProcessor"}
    assert (after - before).norm() / before.norm() < 0.02
    assert not torch.equal(after, before)


def test_other_precisions_keep_pytorchs_attention(tiny: Path) -> None:
    unet: Any = load_module(Checkpoint.open(tiny), "unet", torch.float32)
    assert not install(unet)
    assert "KernelAttnProcessor" not in {type(p).__name__ for p in unet.attn_processors.values()}
