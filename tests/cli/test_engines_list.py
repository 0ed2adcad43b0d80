"""The column "verified" of `engines list`."""

from __future__ import annotations

import pytest

from diffedit.cli.engines import _verification
from engine.manifest import Check, Entry, Status, Toolchain
from engine.models.stable_diffusion import StableDiffusion
from engine.netspec import NetSpec

FAMILY = StableDiffusion({"text_encoder": {"hidden_size": 8}, "vae": {"block_out_channels": [1]}})
SPEC = NetSpec("text", "text_encoder", None, *FAMILY.tensors("text", (8, 8)), (1,))


def check(status: Status, relative: float | None = None) -> Check:
    return Check("onnxruntime", 1, status, relative=relative)


@pytest.mark.parametrize(
    ("checks", "text"),
    [
        ([], "not run here"),
        ([check("not run")], "not run here"),
        ([check("passed", 1e-3), check("passed", 2e-3)], "ok, 2.0e-03"),
        ([check("passed", 1e-3), check("not run")], "ok, 1.0e-03; 1 not run"),
        ([check("passed", 1e-3), check("too imprecise", 0.5)], "TOO IMPRECISE, 5.0e-01"),
        ([check("passed", 1e-3), check("failed")], "FAILED, 1.0e-03"),
        ([check("failed")], "FAILED, 0.0e+00"),
    ],
)
def test_the_worst_status_is_shown(checks: list[Check], text: str) -> None:
    toolchain = Toolchain("torch.onnx", "2.13", "weights")
    assert _verification(Entry("onnx", SPEC, "key", (), toolchain, checks=tuple(checks))) == text
