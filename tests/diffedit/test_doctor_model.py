"""`doctor MODEL`: the memory of each part, of edits and of a build, without reading a weight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffedit.doctor.model import check_model
from engine.checkpoint import Checkpoint
from tests.cli.conftest import Cli, cli
from tests.shared import Folders

__all__ = ["cli"]


@pytest.fixture(scope="module")
def sd3(folders: Folders) -> Path:
    return folders("tiny-sd3")


def test_every_part_has_its_weights_in_each_precision(sd3: Path) -> None:
    found = {check.name: check for check in check_model(str(sd3))}
    parts = [part.name for part in Checkpoint.open(sd3).family.parts]
    assert list(found) == ["model", *parts, "edits", "edits, text offloaded", "build"]
    assert {check.state for check in found.values()} == {"ok"}
    assert "stable-diffusion-3, native size 64x64, 5 parts" in found["model"].what
    transformer = found["transformer"].what
    (stored,) = (sd3 / "transformer").glob("*.safetensors")
    assert f"{stored.stat().st_size / 1e6:.1f} MB in fp32" in transformer
    assert "with calls of one row" in found["edits"].what
    assert "fp16" in found["build"].what and "export" in found["build"].what


def test_too_little_memory_is_a_problem_with_a_way_out(
    sd3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffedit.doctor.model.available", lambda: 10**6)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = {check.name: check for check in check_model(str(sd3))}
    assert found["edits"].state == "problem"
    assert "1.0 MB are free" in found["edits"].what and "--offload-text" in found["edits"].fix
    assert found["build"].state == "missing"  # nobody has to build


def test_the_command_reports_them(cli: Cli, sd3: Path) -> None:
    done = cli("doctor", sd3, "--json")
    checks = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert checks["text_encoder_3"]["state"] == "ok"
    assert "edits" not in {c["name"] for c in json.loads(cli("doctor", "--json").out)["checks"]}


def test_a_missing_model_is_a_line_of_the_report() -> None:
    (found,) = check_model("./nowhere")
    assert found.state == "problem"
    assert "no model folder" in found.what
