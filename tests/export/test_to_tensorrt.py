"""Real builds with TensorRT for RTX on a CPU.

An engine cannot be loaded without a driver, so the tests check the builder's inputs and the digest
of the engine in the manifest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint import Checkpoint
from engine.digest import file_digest
from engine.errors import BuildError
from engine.manifest import Entry, Manifest
from export.to_tensorrt import EngineRequest, compile_engine, probe

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("polygraphy")

SCRIPT = """
import json, sys
from export.to_tensorrt import EngineRequest, prepare
p = prepare(EngineRequest.from_json(json.load(sys.stdin)))
inputs = [p.network.get_input(i) for i in range(p.network.num_inputs)]
outputs = [p.network.get_output(i) for i in range(p.network.num_outputs)]
json.dump({
    "inputs": {t.name: [list(t.shape), t.dtype.name] for t in inputs},
    "outputs": {t.name: [list(t.shape), t.dtype.name] for t in outputs},
    "count": p.config.num_optimization_profiles,
    "profiles": [
        {t.name: [list(s) for s in profile.get_shape(t.name)] for t in inputs}
        for profile in p.profiles
    ],
    "capabilities": p.config.num_compute_capabilities,
    "flags": [
        name
        for name, flag in sys.modules["tensorrt_rtx"].BuilderFlag.__members__.items()
        if p.config.get_flag(flag)
    ],
    "typed": p.network.get_flag(
        sys.modules["tensorrt_rtx"].NetworkDefinitionCreationFlag.STRONGLY_TYPED
    ),
    "cache": p.config.get_timing_cache() is not None,
}, sys.stdout)
"""


def entries(folder: Path, kind: str) -> dict[str, Entry]:
    return {e.spec.name: e for e in Manifest.load(folder).entries if e.format == kind}


def request_for(folder: Path, name: str, **changes: Any) -> EngineRequest:
    entry = entries(folder, "onnx")[name]
    path = folder / entry.files[0].name
    request = EngineRequest(path, folder / "new.engine", entry.spec, "tensorrt-rtx")
    return replace(request, **changes)


def builder_inputs(request: EngineRequest) -> dict[str, Any]:
    """Return the builder's inputs from a child process: Polygraphy loads one product each."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(request.to_json()),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", ["text", "vae_encode", "vae_decode", "unet"])
def test_the_builder_gets_one_static_profile_per_batch_size(micro_build: Path, name: str) -> None:
    request = request_for(micro_build, name)
    inputs = builder_inputs(request)
    spec = request.spec
    dtypes = {"fp32": "FLOAT", "int64": "INT64"}
    assert inputs["inputs"] == {t.name: [[-1, *t.shape], dtypes[t.dtype]] for t in spec.inputs}
    assert inputs["outputs"] == {spec.outputs[0].name: [[-1, *spec.outputs[0].shape], "FLOAT"]}
    assert inputs["count"] == len(spec.batch_sizes)
    assert inputs["profiles"] == [
        {t.name: [[b, *t.shape]] * 3 for t in spec.inputs} for b in spec.batch_sizes
    ]
    assert inputs["flags"] == ["REQUIRE_USER_ALLOCATION"]  # no TF32 above all
    assert inputs["capabilities"] == 0
    assert inputs["typed"]
    assert not inputs["cache"]


def test_capabilities_reach_the_builder(micro_engines: Path) -> None:
    request = request_for(micro_engines, "text", compute_capabilities=("8.6", "8.9"))
    assert builder_inputs(request)["capabilities"] == 2


def test_the_manifest_lists_every_engine(micro_build: Path) -> None:
    found = entries(micro_build, "tensorrt-rtx")
    onnx = entries(micro_build, "onnx")
    assert sorted(found) == ["text", "unet", "vae_decode", "vae_encode"]
    for name, entry in found.items():
        path = entry.verified(micro_build)
        assert path.name.endswith("-fp32.tensorrt-rtx.engine")
        assert entry.files[0].sha256 == file_digest(path, trust_cache=False)
        assert entry.files[0].bytes == path.stat().st_size > 100_000
        assert entry.built_with.version == probe("tensorrt-rtx")
        assert entry.built_with.onnx == tuple(f.sha256 for f in onnx[name].files)
        assert entry.built_with.weights == onnx[name].built_with.weights
        assert entry.spec == onnx[name].spec
        assert entry.seconds > 0
        assert 50e6 < entry.peak_bytes < 8e9
    assert os.environ.get("POLYGRAPHY_USE_TENSORRT_RTX") is None


def test_a_broken_onnx_file_is_an_error_in_one_sentence(micro_engines: Path) -> None:
    request = request_for(micro_engines, "text")
    request.onnx.write_bytes(b"not an onnx file")
    with pytest.raises(BuildError, match=r"Building the text engine failed: .*\.$") as caught:
        compile_engine(request)
    assert "\n" not in str(caught.value)
    assert not request.engine.exists()


def test_an_unsupported_capability_is_an_error_that_lists_the_supported_ones(
    micro_engines: Path,
) -> None:
    with pytest.raises(BuildError, match=r"9\.0 is not one of its .*8\.9"):
        compile_engine(request_for(micro_engines, "text", compute_capabilities=("9.0",)))


def test_a_killed_compiler_and_a_crashed_one_have_different_errors(
    micro_engines: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shell = tmp_path / "python"
    shell.write_text("#!/bin/sh\nkill -9 $$\n")
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    with pytest.raises(BuildError, match="memory ran out"):
        compile_engine(request_for(micro_engines, "text"))
    shell.write_text("#!/bin/sh\necho '[E] out of luck' >&2\nkill -11 $$\n")
    with pytest.raises(BuildError, match=r"crashed \(signal 11\) after: out of luck"):
        compile_engine(request_for(micro_engines, "text"))


def test_a_request_is_restored_from_json(micro_build: Path, tmp_path: Path) -> None:
    request = request_for(
        micro_build, "unet", timing_cache=tmp_path / "cache", compute_capabilities=("8.9",)
    )
    assert EngineRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


def test_the_spec_of_an_engine_is_that_of_the_checkpoint(micro: Path, micro_build: Path) -> None:
    checkpoint = Checkpoint.open(micro)
    for name, entry in entries(micro_build, "tensorrt-rtx").items():
        assert entry.spec == checkpoint.spec(name, (16, 16), denoiser_batch_sizes=(1, 2)), name
