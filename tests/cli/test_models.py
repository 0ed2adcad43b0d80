"""`--model` in whole commands: exit codes, and the order in which problems are found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPTextModel

from engine.errors import CheckpointError, ResourceError
from engine.loader import quiet
from export.__main__ import run as run_build
from tests.cli.conftest import FAST, PROMPTS, Cli, check_refused, snapshot
from tests.engine.checkpoints import Change, config, weights
from tests.single_files import single_file

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


def test_edit_replay_and_build_take_a_single_file(
    work: Path, tiny: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "cache"))
    file = single_file(tiny, work / "m.safetensors")
    model = ("--model", file.name, "--base", tiny)
    done = cli("edit", "in.png", *PROMPTS, *FAST, *model, "--json")
    assert done.line["model"] == "m.safetensors"
    assert len(done.line["provenance"]["sha256"]) == 64
    assert "identical" in cli("replay", "in.edited.png", "in.png", *model, *FAST[-2:]).err
    again = cli("edit", "in.png", *PROMPTS, *FAST, "--model", tiny, "-o", "folder.png")
    assert again.code == 0
    assert Image.open("in.edited.png").tobytes() == Image.open("folder.png").tobytes()


def test_a_pickle_is_refused_with_the_command_that_converts_it(work: Path, cli: Cli) -> None:
    (work / "m.ckpt").write_bytes(b"PK\x03\x04")
    done = cli("edit", "in.png", *PROMPTS, "--model", "m.ckpt")
    check_refused(done, 3, "pickle format", "from_single_file")


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
        (PermissionError(13, "Permission denied", "/m/x"), 3, "permission denied"),
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
