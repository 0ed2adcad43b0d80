"""`--precision` with another one for single parts, and the parts whose default is bf16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from demo import random_checkpoint
from engine.checkpoint import Checkpoint
from engine.netspec import Precision
from export.__main__ import run as run_command
from export.build_jobs import build_jobs
from export.precisions import Precisions
from tests.export.builds import Change, Made, Only, Run

SIZE = (64, 64)
HALF: dict[str, dict[str, Precision]] = {
    "tiny": {},
    "tiny-sdxl": {},
    "tiny-sd3": {"text_3": "bf16"},
    "tiny-sd3-no-t5": {},
    "tiny-flux": {"text_2": "bf16", "transformer": "bf16"},
}
"""Kind -> the networks that are not in fp16 when fp16 is asked for."""


def opened(kind: str, folder: Path) -> Checkpoint:
    return Checkpoint.open(random_checkpoint.make(folder / "model", kind))


def precisions(checkpoint: Checkpoint, asked: str | Mapping[str, str]) -> dict[str, Precision]:
    jobs = build_jobs(checkpoint, [SIZE], Precisions.of(asked), (1, 2), [])
    return {job.spec.name: job.spec.precision for job in jobs}


@pytest.mark.parametrize("kind", HALF)
def test_parts_that_overflow_in_fp16_are_built_in_bf16(kind: str, tmp_path: Path) -> None:
    checkpoint = opened(kind, tmp_path)
    names = [network.name for network in checkpoint.family.networks]
    assert precisions(checkpoint, "fp16") == dict.fromkeys(names, "fp16") | HALF[kind]
    for precision in ("fp32", "bf16"):
        assert precisions(checkpoint, precision) == dict.fromkeys(names, precision)
    jobs = build_jobs(checkpoint, [SIZE], Precisions(), (1,), [])
    assert {job.spec.name for job in jobs if job.note} == HALF[kind].keys()


def test_the_users_choice_for_a_part_comes_first(tmp_path: Path) -> None:
    checkpoint = opened("tiny-flux", tmp_path)
    wanted = {"default": "bf16", "transformer": "fp16", "vae": "fp32"}
    text = "bf16, transformer=fp16,vae=fp32"
    assert precisions(checkpoint, text) == precisions(checkpoint, wanted)
    assert precisions(checkpoint, text) == {
        "text": "bf16",
        "text_2": "bf16",
        "vae_encode": "fp32",
        "transformer": "fp16",
        "vae_decode": "fp32",
    }
    alone = precisions(checkpoint, "transformer=fp32")  # the others as usual
    assert (alone["text"], alone["text_2"], alone["transformer"]) == ("fp16", "bf16", "fp32")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fp12", "the precision is 'fp12', but must be one of fp32, fp16, bf16"),
        ("fp16,vae=half", "the precision of vae is 'half', but must be one of"),
        ("fp16,fp32", "pass one precision, and PART=PRECISION"),
        ("fp16,=fp32", "pass one precision, and PART=PRECISION"),
        ("fp16,unit=fp32", "'unit', which this model does not have; its parts are text_encoder,"),
    ],
)
def test_what_is_no_precision_is_refused(
    text: str, words: str, micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"precision": text, "target": "onnx", "batches": (1,)}
    assert run_command(str(micro), tmp_path / "out", options) == 2
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_one_part_in_fp32(micro: Path, tmp_path: Path, run: Run, made: Made, only: Only) -> None:
    only("text", "vae_encode")
    out = tmp_path / "out"
    manifest, _ = run(micro, out, precision="fp16,text_encoder=fp32")
    assert {e.spec.name: e.spec.precision for e in manifest.entries} == {
        "text": "fp32",
        "vae_encode": "fp16",
    }
    assert not any(entry.notes for entry in manifest.entries)
    assert made(run(micro, out, precision="fp16,text_encoder=fp32")[1]) == []
    assert made(run(micro, out, precision="fp16")[1]) == [("export", "text")]


@pytest.mark.slow
def test_forecast_and_manifest_say_that_t5_is_in_bf16(tmp_path: Path, run: Run, only: Only) -> None:
    only("text_2")
    model = random_checkpoint.make(tmp_path / "model", "tiny-flux")
    manifest, events = run(model, tmp_path / "out", precision="fp16")
    (entry,) = manifest.entries
    assert entry.spec.precision == "bf16" and entry.files[0].name == "text_2-bf16.onnx"
    assert entry.notes == (
        "text_2 is in bf16, because fp16 overflows in this part of the model; ONNX Runtime cannot "
        "run it on a CPU (--precision fp16,text_encoder_2=fp32 can).",
    )
    assert [c.status for c in entry.checks] == ["passed", *["not run"] * 3]
    (forecast,) = (e.text for e in events if e.step == "forecast" and e.label)
    assert " M parameters in bf16; memory: " in forecast


@pytest.mark.slow
def test_a_t5_that_overflows_fp16_is_right_in_bf16(
    tmp_path: Path, run: Run, only: Only, change: Change
) -> None:
    """Half the size of fp32, which it falls back to where fp16 is asked for."""
    only("text_2")
    model = random_checkpoint.make(tmp_path / "model", "tiny-flux")
    change(model, "text_encoder_2", "DenseReluDense.wo", 1e6)
    usual, _ = run(model, tmp_path / "usual", precision="fp16")
    asked, _ = run(model, tmp_path / "asked", precision="fp16,text_encoder_2=fp16")
    assert [e.spec.precision for e in usual.entries] == ["bf16"]
    assert usual.entries[0].checks[0].status == "passed"
    assert [e.spec.precision for e in asked.entries] == ["fp32"]
    assert "text_2 is too imprecise in fp16 (torch: " in asked.entries[0].notes[0]
