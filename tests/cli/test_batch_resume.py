"""`batch` again: it skips the outputs of the same edit, and refuses the outputs of another one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from diffedit.cli.errors import UsageError
from diffedit.cli.resume import check_rest
from diffedit.imaging import photograph
from diffedit.imaging.metadata import EditRecord, pixel_digest
from diffedit.provenance import Fused, Provenance
from diffedit.request import EditRequest
from tests.cli.conftest import FAST, PROMPTS, Cli, Outcome

ROOT = Path(__file__).resolve().parent.parent.parent
EDIT: dict[str, Any] = {
    "image": "in.png",
    "out": "a.png",
    "prompt": "a blue ball",
    "source_prompt": "a red ball",
    "preset": "paper",
    "num_inference_steps": 2,
    "mask_thresholding_ratio": 1.0,
}


def batch(cli: Cli, *options: object, **changes: object) -> Outcome:
    Path("edits.jsonl").write_text(json.dumps(EDIT | changes))
    return cli("batch", "edits.jsonl", "--dtype", "fp32", "-q", *options)


def other_weights(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    changed = {name: 1.5 * tensor for name, tensor in load_file(file).items()}
    save_file(changed, file, metadata={"format": "pt"})


def other_scheduler(folder: Path) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"prediction_type": "v_prediction"}))


def other_photo() -> None:
    Image.effect_noise((96, 72), 50).convert("RGB").save("in.png")


def add_mask() -> dict[str, object]:
    mask = Image.new("L", (96, 72), 0)
    mask.paste(255, (10, 10, 60, 60))
    mask.save("m.png")
    return {"mask_image": "m.png"}


CHANGES: dict[str, tuple[Callable[[], dict[str, object] | None], list[object], str]] = {
    "seed": (lambda: {"seed": 1}, [], "difference: other seed"),
    "two options": (lambda: {"strength": 0.5, "method": "sdedit"}, [], "other strength, method"),
    "composite": (lambda: {"composite": False}, [], "other composite"),
    "an option left out": (lambda: {"mask_thresholding_ratio": None}, [], "other mask_threshold"),
    "photograph": (lambda: other_photo(), [], "another photograph"),
    "mask": (add_mask, [], "another mask"),
    "size": (dict, ["--size", "32x64"], "another size"),
    "precision": (dict, ["--dtype", "bf16"], "the precision is bf16, not fp32"),
}


QUICK = ("seed", "photograph", "mask")
"""The kinds of change; the other cases are in the slow tier."""


@pytest.mark.parametrize(
    "case",
    [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CHANGES],
)
def test_an_output_of_another_edit_is_refused_with_the_difference(
    case: str, work: Path, cli: Cli
) -> None:
    change, options, words = CHANGES[case]
    assert batch(cli).line["status"] == "done"
    before = (work / "a.png").read_bytes()
    changes = change() or {}
    again = batch(cli, *options, **changes)
    assert (again.code, again.line["status"]) == (2, "failed")
    assert words in again.line["error"]["message"]
    assert (work / "a.png").read_bytes() == before
    assert batch(cli, "--force", *options, **changes).line["status"] == "done"
    assert batch(cli, *options, **changes).line["status"] == "skipped"


@pytest.mark.parametrize("change", [other_weights, other_scheduler])
def test_another_model_of_the_same_name_is_noticed(
    change: Callable[[Path], None], work: Path, cli: Cli, tiny: Path
) -> None:
    copy = work / "models" / tiny.name
    shutil.copytree(tiny, copy)
    assert batch(cli).line["status"] == "done"
    assert batch(cli, "--model", copy).line["status"] == "skipped", "a copy is the same model"
    change(copy)
    again = batch(cli, "--model", copy)
    assert "difference: the model is models/" in again.line["error"]["message"]


def test_a_result_of_edit_is_the_result_of_the_same_line(work: Path, cli: Cli) -> None:
    assert cli("edit", "in.png", *PROMPTS, *FAST, "-o", "a.png", "-q").code == 0
    assert batch(cli).line["status"] == "skipped"


@pytest.mark.parametrize("content", [b"", b"mine", b"\x89PNG\r\n\x1a\n"])
def test_another_file_is_kept(content: bytes, work: Path, cli: Cli) -> None:
    (work / "a.png").write_bytes(content)
    refused = cli("batch", "-", "--model", "none", stdin=json.dumps(EDIT).encode())
    assert "no record of an edit" in refused.line["error"]["message"]
    assert (work / "a.png").read_bytes() == content


PROVENANCE = Provenance("1", "a/model", "ab", "onnxruntime", "fp32", "on this machine")
LORA = Fused("style.safetensors", "cd", 0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "cd"}, "the weights of a/model have changed"),
        ({"backend": "torch"}, "the backend is torch"),
        ({"precision": "fp16"}, "the precision is fp16"),
        ({"loras": (LORA,)}, "the LoRA style.safetensors (at 0.5) is added"),
        ({"embeddings": (LORA,)}, "the embedding style.safetensors (at 0.5) is added"),
        ({"version": "2"}, ""),
        ({"kernels": ("attention",)}, ""),
        ({"description": "on another machine"}, ""),
        (None, "its model is not recorded"),
    ],
    ids=repr,
)
def test_what_made_a_picture_is_compared(
    changes: dict[str, Any] | None, words: str, photo: Image.Image
) -> None:
    """Building engines with a LoRA takes a minute, so this compares two records."""
    request = EditRequest(photograph.read(photo), "a")
    stored = None if changes is None else PROVENANCE
    record = EditRecord({}, pixel_digest(photo), size=(8, 8), provenance=stored)
    now = replace(PROVENANCE, **changes or {})
    if not words:
        check_rest(record, Path("a.png"), request, now, (8, 8))
        return
    with pytest.raises(UsageError, match=re.escape(words)):
        check_rest(record, Path("a.png"), request, now, (8, 8))


@pytest.mark.slow
def test_a_killed_run_continues_where_it_stopped(work: Path, cli: Cli) -> None:
    rows = [
        EDIT | {"out": f"{seed}.png", "seed": seed, "num_inference_steps": 40} for seed in range(6)
    ]
    Path("edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--dtype", "fp32", "--in-flight", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "diffedit.cli", "batch", "edits.jsonl", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert first["status"] == "done"
    again = cli("batch", "edits.jsonl", *options)
    assert again.code == 0, again.err
    found = [line["status"] for line in again.lines]
    assert found[0] == "skipped" and found[-1] == "done"
    assert sorted(p.name for p in work.glob("*.png")) == [*(f"{n}.png" for n in range(6)), "in.png"]
