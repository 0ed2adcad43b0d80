"""`build` of every family as a user runs it, in fp16 with TensorRT for RTX, then `edit --engines`.

This machine has no GPU: the engines are compiled, refused when they should run, and the ONNX files
beside them run the whole edit, but those in bf16, which ONNX Runtime cannot run on a CPU.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from demo.picture import still_life
from diffedit.cli import main
from engine.checkpoint import Checkpoint
from engine.manifest import Entry, Manifest
from tests.shared import Folders, shared

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("polygraphy")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="not applicable: there is a GPU"),
]

EDIT = ("--prompt", "a blue ball", "--source", "a red ball", "--steps", "4")
KINDS = ("tiny", "tiny-sdxl", "tiny-sd3", "tiny-flux")
"""A build takes half a minute. The other kinds have the layers of these; test_edit.py builds six
kinds in fp32 and edits with them."""
BF16 = {"tiny-sd3": {"text_3"}, "tiny-flux": {"text_2", "transformer"}}
"""Kind -> the networks that are built in bf16, because fp16 overflows."""
NO_GPU = "it cannot run on the machine that built it: there is no NVIDIA GPU"


@dataclass(frozen=True)
class Built:
    """One checkpoint and its engine folder, by the command line."""

    kind: str
    checkpoint: Checkpoint
    engines: Path
    said: str

    @property
    def bf16(self) -> set[str]:
        return BF16.get(self.kind, set())

    def entries(self, kind: str) -> dict[str, Entry]:
        found = Manifest.load(self.engines).entries
        return {entry.spec.name: entry for entry in found if entry.format == kind}


def command(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", params=KINDS)
def built(
    request: pytest.FixtureRequest, folders: Folders, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    model = folders(request.param)

    def make(new: Path) -> None:
        options = ("--size", "64", "--batches", "1,2", "--target", "tensorrt-rtx")
        code, out, err = command("build", model, "--out", new / "engines", *options)
        assert code == 0, err
        (new / "said.txt").write_text(out)

    folder = shared(tmp_path_factory, f"built-{request.param}", make)
    said = (folder / "said.txt").read_text()
    return Built(request.param, Checkpoint.open(model), folder / "engines", said)


def test_every_network_has_a_file_of_each_kind(built: Built) -> None:
    names = {network.name for network in built.checkpoint.family.networks}
    onnx, engines = built.entries("onnx"), built.entries("tensorrt-rtx")
    assert set(onnx) == set(engines) == names
    manifest = Manifest.load(built.engines)
    assert manifest.model is not None
    assert manifest.model.family == built.checkpoint.family.name
    assert set(manifest.model.networks) == names
    assert manifest.model.digests == built.checkpoint.digests()
    for name, engine in engines.items():
        denoiser = name == built.checkpoint.names.denoiser
        assert engine.spec.batch_sizes == ((1, 2) if denoiser else (1, 2, 4))
        assert engine.spec == onnx[name].spec
        assert engine.verified(built.engines).stat().st_size > 100_000
        assert engine.built_with.onnx == tuple(f.sha256 for f in onnx[name].files)


def test_the_smallest_profile_of_each_onnx_file_is_verified(built: Built) -> None:
    for name, entry in built.entries("onnx").items():
        statuses = {(c.backend, c.batch): c.status for c in entry.checks}
        narrow = name in built.bf16
        assert statuses[("torch", 1)] == "passed"
        assert statuses[("onnxruntime", 1)] == ("not run" if narrow else "passed"), name
        assert {s for (_, batch), s in statuses.items() if batch > 1} == {"not run"}
        assert entry.spec.precision == ("bf16" if narrow else "fp16"), entry.notes
        assert any("fp16 overflows" in note for note in entry.notes) == narrow


def test_engines_are_not_called_verified_without_a_gpu(built: Built) -> None:
    for entry in built.entries("tensorrt-rtx").values():
        assert {check.status for check in entry.checks} == {"not run"}
        assert {check.reason for check in entry.checks} == {NO_GPU}
    assert "The engines did not run here: copy the folder" in built.said


def test_a_second_build_has_nothing_to_do(built: Built) -> None:
    options = ("--size", "64", "--batches", "1,2", "--target", "tensorrt-rtx")
    code, out, err = command("build", built.checkpoint.folder, "--out", built.engines, *options)
    assert code == 0, err
    assert "Nothing to do" in out


def edit(built: Built, folder: Path, *options: object) -> tuple[int, dict[str, Any], str]:
    """Edit a photograph; returns the exit code, the line of JSON and standard error."""
    photo = folder / "in.png"
    still_life(96, 72).save(photo)
    model = ("--model", built.checkpoint.folder, "--engines", built.engines)
    code, out, err = command(
        "edit", photo, *EDIT, *model, "-o", folder / "out.png", "--force", "--json", *options
    )
    return code, json.loads(out or "{}"), err


def test_tensorrt_is_refused_without_a_gpu(built: Built, tmp_path: Path) -> None:
    code, _, err = edit(built, tmp_path, "--backend", "tensorrt")
    assert code == 4, err
    assert "TensorRT needs an NVIDIA GPU" in err and "backend='torch'" in err
    assert not (tmp_path / "out.png").exists()


def test_a_whole_edit_on_onnxruntime(built: Built, tmp_path: Path) -> None:
    code, line, err = edit(built, tmp_path, "--backend", "onnxruntime")
    if built.bf16:
        assert code == 4 and "onnxruntime has no bf16 kernels for a CPU" in err
        assert "build with --precision fp32" in err
        return
    assert code == 0, err
    assert line["backend"].startswith("onnxruntime")
    with Image.open(tmp_path / "out.png") as picture, Image.open(tmp_path / "in.png") as photo:
        assert picture.size == photo.size == (96, 72)
        assert np.asarray(picture).std() > 1


def test_auto_runs_the_same_weights_in_pytorch(built: Built, tmp_path: Path) -> None:
    code, line, err = edit(built, tmp_path)
    assert code == 0, err
    assert line["backend"].startswith("torch")
    assert "are not used: there is no NVIDIA GPU" in " ".join(err.split())
