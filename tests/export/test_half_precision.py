"""Half precision on a CPU: as accurate as torch's, fast, and with the graph's overflows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from engine.checkpoint import Checkpoint
from engine.models.stable_diffusion import NETWORKS
from engine.netspec import Precision
from export.half_precision import HalfPrecisionEmulation
from export.networks import load, sample, wrap


@pytest.mark.parametrize(("precision", "error"), [("fp16", 4e-3), ("bf16", 3e-2)])
@pytest.mark.parametrize("name", sorted(network.name for network in NETWORKS))
def test_it_agrees_with_native_half_precision(
    tiny: Path, name: str, precision: Precision, error: float
) -> None:
    checkpoint = Checkpoint.open(tiny)
    spec = checkpoint.spec(name, (64, 64))
    inputs = sample(spec, 1, vocabulary=99)
    network = wrap(
        checkpoint.network(name), load(checkpoint, checkpoint.network(name).part), precision
    )
    with torch.inference_mode():
        (native,) = network(*inputs)
        with HalfPrecisionEmulation():
            (rounded,) = network(*inputs)
    assert 0 < (rounded - native).norm() / native.norm() < error


def test_masks_and_causality() -> None:
    q, k, v = torch.randn(3, 2, 4, 8, 16, generator=torch.Generator().manual_seed(0)).half()
    keep = torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) < 0.7
    keep.fill_diagonal_(True)
    added = torch.zeros(8, 8).masked_fill(~keep, -30.0).half()
    choices: list[dict[str, Any]] = [
        {"is_causal": True},
        {"attn_mask": keep},
        {"attn_mask": added},
        {"scale": 0.3},
    ]
    for options in choices:
        wide: dict[str, Any] = {n: x.float() if x is added else x for n, x in options.items()}
        want = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **wide)
        with HalfPrecisionEmulation():
            got = F.scaled_dot_product_attention(q, k, v, **options)
        assert got.dtype == torch.float16
        torch.testing.assert_close(got.float(), want, rtol=1e-2, atol=5e-3)


def test_scores_and_sums_overflow_as_they_do_in_the_graph() -> None:
    big = torch.full((1, 1, 4, 64), 300.0).half()
    with HalfPrecisionEmulation():
        assert F.scaled_dot_product_attention(big, big, big).isnan().all()
        assert F.linear(big, big[0, 0]).isinf().all()
        assert F.linear(big.float(), big[0, 0].float()).isfinite().all()


def test_a_convolution_of_real_size_takes_no_minutes() -> None:
    layer = torch.nn.Conv2d(320, 320, 3, padding=1).half().requires_grad_(False)
    image = torch.zeros(1, 320, 64, 64).half()
    began = time.perf_counter()
    with torch.inference_mode(), HalfPrecisionEmulation():
        layer(image)
    assert time.perf_counter() - began < 5
