"""The column "verified" of `engines list`."""

from __future__ import annotations

import pytest

from diffedit.cli.engines import _unverified
from engine.manifest import Check, Entry, File, Manifest, Status, Toolchain
from engine.models.stable_diffusion import StableDiffusion
from engine.netspec import NetSpec
from engine.verification import verdict

FAMILY = StableDiffusion({"text_encoder": {"hidden_size": 8}, "vae": {"block_out_channels": [1]}})
SPEC = NetSpec("text", "text_encoder", None, *FAMILY.tensors("text", (8, 8)), (1,))


TOOLCHAIN = Toolchain("torch.onnx", "2.13", "weights")
TORCH = Check("torch", 1, "passed", relative=1e-4)


def check(status: Status, relative: float | None = None) -> Check:
    return Check("onnxruntime", 1, status, relative=relative)


def entry(*checks: Check, name: str = "a.onnx") -> Entry:
    return Entry("onnx", SPEC, "key", (File(name, "0", 1),), TOOLCHAIN, checks=checks)


@pytest.mark.parametrize(
    ("checks", "text"),
    [
        ([], "not run"),
        ([check("not run")], "not run"),
        ([TORCH], "not run"),
        ([TORCH, check("passed", 2e-4), check("not run")], "ok, 2.0e-04; 1 not run"),
        ([check("passed", 1e-3), check("passed", 2e-3)], "ok, 2.0e-03"),
        ([check("passed", 1e-3), check("not run")], "ok, 1.0e-03; 1 not run"),
        ([check("passed", 1e-3), check("too imprecise", 0.5)], "TOO IMPRECISE, 5.0e-01"),
        ([check("passed", 1e-3), check("failed")], "FAILED, 1.0e-03"),
        ([check("failed"), check("not run")], "FAILED; 1 not run"),
    ],
)
def test_the_worst_status_is_shown(checks: list[Check], text: str) -> None:
    """PyTorch's own check says nothing about the compiled file."""
    assert verdict(entry(*checks)) == text


def test_what_was_not_verified_is_listed_by_reason() -> None:
    skipped = [Check("onnxruntime", b, "not run", reason="it is slow") for b in (2, 4)]
    failed = Check("onnxruntime", 1, "failed", reason="no kernel")
    entries = (entry(failed, *skipped), entry(*skipped, name="b.onnx"), entry(TORCH))
    assert _unverified(Manifest(None, entries)) == [
        "a.onnx: batch 1 failed, because no kernel",
        "a.onnx, b.onnx: batch 2, 4 not run, because it is slow",
    ]
