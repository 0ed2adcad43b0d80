"""`--model` in whole commands: exit codes, and the order in which problems are found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTextModel

from engine.errors import CheckpointError, ResourceError
from engine.loader import quiet
from export.__main__ import run as run_build
from tests.cli.conftest import FAST, PROMPTS, Cli, check_refused, snapshot
from tests.engine.checkpoints import Change, config, weights

MODELS: dict[str, tuple[Change, int, str]] = {
    "missing tensors": (
        weights("text_encoder", lambda s: {k: v for k, v in s.items() if "layers.1" not in k}),
        3,
        "text_encoder lack 16 tensors",
    ),
    "unCLIP": (config("unet", class_embed_type="projection"), 3, "as unCLIP models"),
    "flow matching": (
        config("scheduler", _class_name="FlowMatchEulerDiscreteScheduler"),
        3,
        "trained with flow matching",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_edit_and_build_refuse_the_same_models(
    case: str, work: Path, tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    change, code, words = MODELS[case]
    change(Path(shutil.copytree(tiny, work / "m")))
    before = snapshot(work)
    check_refused(cli("edit", "in.png", *PROMPTS, "--model", "m"), code, words)
    assert run_build("m", work / "engines", {}) == code
    assert words in capsys.readouterr().err
    assert snapshot(work) == before


def test_a_single_file_names_the_command_that_converts_it(work: Path, cli: Cli) -> None:
    save_file({"model.diffusion_model.out.0.weight": torch.zeros(2)}, work / "m.safetensors")
    done = cli("edit", "in.png", *PROMPTS, "--model", "m.safetensors")
    check_refused(done, 3, "single file", "from_single_file")


def test_fp16_in_shards(work: Path, tiny: Path, cli: Cli) -> None:
    with quiet():
        pipe: Any = StableDiffusionPipeline.from_pretrained(tiny)
        pipe.save_pretrained(work / "m", variant="fp16", max_shard_size="200KB")
    done = cli("edit", "in.png", *PROMPTS, *FAST, "--model", "m", "--variant", "fp16")
    assert done.code == 0, done.err


def test_a_partial_variant_is_said(work: Path, tiny: Path, cli: Cli) -> None:
    unet = Path(shutil.copytree(tiny, work / "m")) / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(
        unet / "diffusion_pytorch_model.fp16.safetensors"
    )
    done = cli("mask", "in.png", *PROMPTS, *FAST, "--model", "m", "--variant", "fp16")
    assert done.code == 0, done.err


def test_a_model_folder_that_is_not_utf8(work: Path, tiny: Path, cli: Cli) -> None:
    folder = os.fsdecode(b"mod\xe8le")
    shutil.copytree(tiny, folder)
    done = cli("edit", "in.png", *PROMPTS, *FAST, "--model", folder, "-o", "out.png")
    assert done.code == 0, done.err
    done = cli("replay", "out.png", "in.png", "--model", folder, "--dtype", "fp32")
    assert done.code == 0, done.err


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), 5, "memory"),
        (MemoryError(), 5, "memory"),
        (PermissionError(13, "Permission denied", "/m/x"), 3, "no permission"),
        (ModuleNotFoundError("No module named 'x'", name="x"), 3, "the package x is missing"),
    ],
)
def test_reasons_have_their_exit_codes(
    error: Exception,
    code: int,
    words: str,
    work: Path,
    tiny: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", failing(error))
    check_refused(cli("edit", "in.png", *PROMPTS), code, words)
    assert run_build(str(tiny), work / "engines", {"target": "onnx"}) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("error", [CheckpointError("x"), ResourceError("x")])
def test_quiet_hides_the_bars_of_a_download(
    error: Exception, work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

    seen: list[bool] = []

    def download(*_: object, **__: object) -> str:
        seen.append(are_progress_bars_disabled())
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    cli("edit", "in.png", *PROMPTS, "--model", "owner/name", "-q")
    cli("edit", "in.png", *PROMPTS, "--model", "owner/name")
    assert seen == [True, False]
    assert not are_progress_bars_disabled()
