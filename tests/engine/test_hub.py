"""A model argument: folders, hub ids, and which files are downloaded; offline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.hub import download_patterns, find_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tiny: Path, tmp_path: Path) -> Path:
    """A hub cache that already has owner/name."""
    repository = tmp_path / "models--owner--name"
    shutil.copytree(tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path


def test_an_id_is_found_in_the_cache(cache: Path, tiny: Path) -> None:
    found = find_checkpoint("owner/name", cache_dir=cache, local_files_only=True)
    assert found.folder.name == COMMIT
    assert found.digest("unet") == Checkpoint.open(tiny).digest("unet")


def test_a_folder_needs_no_hub(tiny: Path) -> None:
    assert find_checkpoint(str(tiny)).folder == tiny


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("owner/other", "could not be downloaded"),
        ("./nothing", "There is no model folder"),
        ("/no/such/folder", "There is no model folder"),
    ],
)
def test_what_is_not_there_is_one_sentence(model: str, says: str, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        find_checkpoint(model, cache_dir=cache, local_files_only=True)
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
def test_only_what_an_edit_needs_is_downloaded(variant: str | None) -> None:
    wanted, unused = download_patterns(variant)
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


def test_a_truncated_weight_file_is_found_before_loading(tiny: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    (weights,) = Checkpoint.open(model).weights("unet")
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"unet.*is damaged: it is truncated"):
        find_checkpoint(model)
