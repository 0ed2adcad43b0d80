"""Real TensorRT-RTX builds on the CPU: a plan cannot be opened without a driver, so what is
asserted is what the builder was given, and the plan's digest in the manifest."""

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
from export.to_tensorrt import EngineRequest, capability_name, compile_engine, probe

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


def request(folder: Path, name: str, **changes: Any) -> EngineRequest:
    entry = entries(folder, "onnx")[name]
    path = folder / entry.files[0].name
    made = EngineRequest(path, folder / "new.engine", entry.spec, "tensorrt-rtx")
    return replace(made, **changes)


def prepared(asked: EngineRequest) -> dict[str, Any]:
    """What the builder is given, asked in a process of its own: polygraphy serves one product."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(asked.to_json()),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", ["text", "vae_encode", "vae_decode", "unet"])
def test_the_builder_gets_one_static_profile_per_batch_size(engines: Path, name: str) -> None:
    asked = request(engines, name)
    seen = prepared(asked)
    spec = asked.spec
    dtypes = {"fp32": "FLOAT", "int64": "INT64"}
    assert seen["inputs"] == {t.name: [[-1, *t.shape], dtypes[t.dtype]] for t in spec.inputs}
    assert seen["outputs"] == {spec.outputs[0].name: [[-1, *spec.outputs[0].shape], "FLOAT"]}
    assert seen["count"] == len(spec.batch_sizes)
    assert seen["profiles"] == [
        {t.name: [[b, *t.shape]] * 3 for t in spec.inputs} for b in spec.batch_sizes
    ]
    assert seen["flags"] == ["REQUIRE_USER_ALLOCATION"]  # no TF32 above all
    assert seen["capabilities"] == 0
    assert seen["typed"]
    assert not seen["cache"]


def test_capabilities_reach_the_builder(micro_engines: Path) -> None:
    asked = request(micro_engines, "text", compute_capabilities=("8.6", "8.9"))
    assert prepared(asked)["capabilities"] == 2


def test_the_manifest_holds_every_plan(engines: Path) -> None:
    found = entries(engines, "tensorrt-rtx")
    onnx = entries(engines, "onnx")
    assert sorted(found) == ["text", "unet", "vae_decode", "vae_encode"]
    for name, entry in found.items():
        path = entry.verified(engines)
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


def test_a_broken_onnx_file_is_one_sentence(micro_engines: Path) -> None:
    asked = request(micro_engines, "text")
    asked.onnx.write_bytes(b"not an onnx file")
    with pytest.raises(BuildError, match=r"Building the text engine failed: .*\.$") as caught:
        compile_engine(asked)
    assert "\n" not in str(caught.value)
    assert not asked.engine.exists()


def test_an_unknown_capability_is_refused_with_those_there_are(micro_engines: Path) -> None:
    with pytest.raises(BuildError, match=r"9\.0 is not one of its .*8\.9"):
        compile_engine(request(micro_engines, "text", compute_capabilities=("9.0",)))
    assert capability_name("12.0") == "SM120"
    for wrong in ("89", "8.x", "", "sm.9"):
        with pytest.raises(ValueError, match="compute capability"):
            capability_name(wrong)


def test_a_killed_compiler_is_told_from_a_failed_one(
    micro_engines: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shell = tmp_path / "python"
    shell.write_text("#!/bin/sh\nkill -9 $$\n")
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    with pytest.raises(BuildError, match="memory ran out"):
        compile_engine(request(micro_engines, "text"))
    shell.write_text("#!/bin/sh\necho '[E] out of luck' >&2\nkill -11 $$\n")
    with pytest.raises(BuildError, match=r"crashed \(signal 11\) after: out of luck"):
        compile_engine(request(micro_engines, "text"))


def test_a_request_survives_json(engines: Path, tmp_path: Path) -> None:
    asked = request(engines, "unet", timing_cache=tmp_path / "cache", compute_capabilities=("8.9",))
    assert EngineRequest.from_json(json.loads(json.dumps(asked.to_json()))) == asked


def test_spec_of_the_engines_is_the_checkpoints(tiny: Path, engines: Path) -> None:
    checkpoint = Checkpoint.open(tiny)
    for name, entry in entries(engines, "tensorrt-rtx").items():
        assert entry.spec == checkpoint.spec(name, (64, 96), denoiser_batch_sizes=(1, 3)), name
