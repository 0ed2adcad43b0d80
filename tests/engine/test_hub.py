"""A model argument: folders, ids, and what is fetched of a repository; offline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from engine.checkpoint import Checkpoint, hub_patterns
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from export.hub import open_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OPENERS: list[Callable[..., Checkpoint]] = [find_checkpoint, open_checkpoint]


@pytest.fixture
def cache(tiny: Path, tmp_path: Path) -> Path:
    """A hub cache in which owner/name was fetched before."""
    repository = tmp_path / "models--owner--name"
    shutil.copytree(tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path


@pytest.mark.parametrize("opened", OPENERS)
def test_an_id_is_found_in_the_cache(opened: Any, cache: Path, tiny: Path) -> None:
    found = opened("owner/name", cache_dir=cache, local_files_only=True)
    assert found.folder.name == COMMIT
    assert found.digest("unet") == Checkpoint.open(tiny).digest("unet")


@pytest.mark.parametrize("opened", OPENERS)
def test_a_folder_needs_no_hub(opened: Any, tiny: Path) -> None:
    assert opened(str(tiny)).folder == tiny


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("owner/other", "could not be fetched"),
        ("./nothing", "There is no model folder"),
        ("/no/such/folder", "There is no model folder"),
    ],
)
def test_what_is_not_there_is_one_sentence(opened: Any, model: str, says: str, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        opened(model, cache_dir=cache, local_files_only=True)
    assert "\n" not in str(caught.value)


REPOSITORY = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.safetensors",
    "v1-5-pruned.ckpt",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin",
]


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_only_what_an_edit_needs_is_fetched(variant: str | None) -> None:
    wanted, unused = hub_patterns(variant)
    found = set(filter_repo_objects(REPOSITORY, allow_patterns=wanted, ignore_patterns=unused))
    ending = ".fp16.safetensors" if variant else ".safetensors"
    weights = {f for f in found if f.endswith(".safetensors")}
    assert weights == {
        f"text_encoder/model{ending}",
        f"unet/diffusion_pytorch_model{ending}",
    }
    assert found - weights == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
    }
