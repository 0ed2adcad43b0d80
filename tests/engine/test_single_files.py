"""A single file becomes the folder that it was made from, to the bit, and gives the same edit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from demo import random_checkpoint
from diffedit import DiffEditPipeline
from engine.checkpoint import Checkpoint
from engine.derived.additions import Additions
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from engine.weights_check import check_weights
from tests.single_files import single_file, weights

PARTS = {"tiny-sd3-no-t5": ("transformer", "vae")}
"""What the file holds, where it is not everything. SD 3 uses CLIP-L's pooled state as it is, so
diffusers replaces the projection of a file's text encoder by the identity."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for every test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "diffedit-trt" / "models"


def made(tmp_path: Path, kind: str, **options: object) -> tuple[Path, Path]:
    """A checkpoint folder, and the single file of it."""
    folder = random_checkpoint.make(tmp_path / "model", kind, **options)  # type: ignore[arg-type]
    return folder, single_file(folder, tmp_path / "one.safetensors", parts=PARTS.get(kind))


def opened(file: Path, base: Path | None = None, prediction: str | None = None) -> Checkpoint:
    return find_checkpoint(file, additions=Additions(base, prediction))


def pixels(model: Path, photo: Image.Image, base: Path | None = None) -> bytes:
    """The edited photograph."""
    options: dict[str, Any] = {"num_inference_steps": 2, "mask_thresholding_ratio": 1.0}
    with DiffEditPipeline.from_pretrained(
        model, base=base, dtype="fp32", device="cpu", size=(64, 64)
    ) as pipeline:
        return pipeline(photo, "a blue ball", "a red ball", **options).image.tobytes()


@pytest.mark.parametrize("kind", ["tiny", "tiny-sdxl", "tiny-sd3-no-t5"])
def test_the_edit_of_a_single_file_is_that_of_its_folder(
    kind: str, tmp_path: Path, photo: Image.Image
) -> None:
    folder, file = made(tmp_path, kind)
    checkpoint = opened(file, folder)
    check_weights(checkpoint)
    for part in checkpoint.family.parts:
        ours, theirs = (
            {n.removeprefix("text_model."): t for n, t in weights(f, part.name).items()}
            for f in (checkpoint.folder, folder)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), part.name
    before, after = pixels(folder, photo), pixels(file, photo, folder)
    assert before == after
    assert after != photo.tobytes()


def test_open_clip_and_v_prediction(tmp_path: Path) -> None:
    """Stable Diffusion 2's layout, with what its scheduler predicts."""
    kinds = random_checkpoint.KINDS
    text = {**kinds["tiny"]["text_encoder"], "hidden_act": "gelu"}
    kinds["tiny-sd2"] = {**kinds["tiny"], "text_encoder": text}
    try:
        folder, file = made(tmp_path, "tiny-sd2")
    finally:
        del kinds["tiny-sd2"]
    assert any(name.startswith("cond_stage_model.model.") for name in load_file(file))
    checkpoint = opened(file, folder, "v_prediction")
    assert checkpoint.scheduler_config["prediction_type"] == "v_prediction"
    ours, theirs = weights(checkpoint.folder, "text_encoder"), weights(folder, "text_encoder")
    ours, theirs = (
        {n.removeprefix("text_model."): t for n, t in state.items()} for state in (ours, theirs)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert opened(file, folder, "epsilon").folder != checkpoint.folder


@pytest.mark.parametrize(
    ("more", "metadata", "changes"),
    [
        ({"v_pred": torch.zeros(1)}, {}, {"prediction_type": "v_prediction"}),
        ({}, {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        ({}, {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "epsilon"}),
        ({"ztsnr": torch.zeros(1)}, {}, {"rescale_betas_zero_snr": True}),
    ],
)
def test_what_a_file_says_about_its_schedule_is_used(
    more: dict[str, torch.Tensor],
    metadata: dict[str, str],
    changes: dict[str, object],
    tmp_path: Path,
) -> None:
    folder, file = made(tmp_path, "tiny")
    save_file({**load_file(file), **more}, file, metadata=metadata)
    config = opened(file, folder).scheduler_config
    assert changes.items() <= config.items()


def test_plain_fp8_is_converted_exactly(tmp_path: Path) -> None:
    folder, file = made(tmp_path, "tiny", dtype="fp16")
    state = {
        n: t.to(torch.float8_e4m3fn) if n.startswith("model.") else t
        for n, t in load_file(file).items()
    }
    save_file(state, file)
    checkpoint = opened(file, folder)
    check_weights(checkpoint)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    ours = weights(checkpoint.folder, "unet")["conv_in.weight"]
    assert ours.dtype == torch.bfloat16
    vae = weights(checkpoint.folder, "vae")["encoder.conv_in.weight"]
    assert vae.dtype == torch.float16  # as in the file
    assert torch.equal(ours.float(), state[name].float())


def test_a_file_without_text_encoder_takes_the_base_s(tmp_path: Path, photo: Image.Image) -> None:
    folder = random_checkpoint.make(tmp_path / "model", "tiny-sdxl")
    file = single_file(folder, tmp_path / "unet.safetensors", parts=("unet",))
    checkpoint = opened(file, folder)
    assert (checkpoint.folder / "vae").resolve() == folder / "vae"
    assert not (checkpoint.folder / "unet").is_symlink()
    with pytest.raises(CheckpointError, match=r"without its .*vae.*pass --base"):
        opened(file)


def test_a_base_on_the_hub_needs_only_what_the_file_lacks(tmp_path: Path, tiny: Path) -> None:
    """The hub's cache has no U-Net, and nothing is downloaded."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--owner--name"
    shutil.copytree(
        tiny,
        repository / "snapshots" / commit,
        ignore=lambda folder, names: [
            n for n in names if folder.endswith("unet") and n.endswith(".safetensors")
        ],
    )
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    file = single_file(tiny, tmp_path / "one.safetensors", parts=("unet", "text_encoder"))
    checkpoint = find_checkpoint(
        file,
        additions=Additions("owner/name"),
        cache_dir=tmp_path / "hub",
        local_files_only=True,
    )
    check_weights(checkpoint)
    assert commit in str((checkpoint.folder / "vae").resolve())


def test_configs_are_those_of_the_base(tmp_path: Path) -> None:
    """So digests depend on neither the libraries' versions nor the place of the cache."""
    folder, file = made(tmp_path, "tiny-sdxl")
    ours, theirs = opened(file, folder).family.configs, Checkpoint.open(folder).family.configs
    assert ours == theirs


def test_clip_without_the_level_text_model(tmp_path: Path) -> None:
    folder, file = made(tmp_path, "tiny")
    state = {n.replace(".text_model.", "."): t for n, t in load_file(file).items()}
    save_file(state, file)
    check_weights(opened(file, folder))


def test_provenance_has_the_file_s_name_and_digest(tmp_path: Path) -> None:
    from engine.digest import file_digest

    folder, file = made(tmp_path, "tiny")
    with DiffEditPipeline.from_single_file(file, base=folder, device="cpu") as pipeline:
        assert pipeline.provenance.model == "one.safetensors"
        assert pipeline.provenance.sha256 == file_digest(file)
        origin = pipeline.checkpoint.origin
    assert origin is not None
    assert origin.model == pipeline.checkpoint.source == str(file)
    assert [source.role for source in origin.files] == ["checkpoint", "base"]


def test_from_single_file_refuses_a_folder(tiny: Path) -> None:
    from diffedit.checks import InvalidRequest

    with pytest.raises(InvalidRequest, match="a folder; use from_pretrained"):
        DiffEditPipeline.from_single_file(tiny)


def test_base_is_for_single_files(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match=r"base is for a model in a single .safetensors file"):
        find_checkpoint(tiny, additions=Additions(base=tiny))


def test_a_base_of_another_family(tmp_path: Path, tiny: Path) -> None:
    _, file = made(tmp_path, "tiny-sdxl")
    with pytest.raises(CheckpointError, match=r"Stable Diffusion XL, but the base .* same model"):
        opened(file, tiny)


def test_a_base_that_is_a_file(tmp_path: Path) -> None:
    _, file = made(tmp_path, "tiny")
    with pytest.raises(CheckpointError, match=r"^The base .*one\.safetensors is a file, but must"):
        opened(file, file)


def test_a_variant_that_a_file_has_not_names_the_file(tmp_path: Path) -> None:
    folder, file = made(tmp_path, "tiny")
    with pytest.raises(CheckpointError, match=r"^/.*one\.safetensors has no fp16 weights"):
        find_checkpoint(file, additions=Additions(folder), variant="fp16")


def test_a_base_of_other_sizes_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    """A broken conversion leaves no folder, and the sentence says what to do."""
    _, file = made(tmp_path, "tiny")
    other = random_checkpoint.make(tmp_path / "demo", "demo")
    with pytest.raises(CheckpointError, match=r"The unet of .*cannot be converted|lacks"):
        opened(file, other)
    assert [p for p in cache.iterdir() if p.is_dir() and p.name != "digests"] == []


def test_a_prediction_type_is_not_for_flow_matching(tmp_path: Path) -> None:
    folder, file = made(tmp_path, "tiny-sd3-no-t5")
    with pytest.raises(CheckpointError, match="flow matching; leave prediction_type out"):
        opened(file, folder, "epsilon")


def test_a_damaged_origin_names_the_folder(tmp_path: Path) -> None:
    folder, file = made(tmp_path, "tiny")
    checkpoint = opened(file, folder)
    origin = checkpoint.folder / "diffedit_origin.json"
    origin.write_text("{")  # of another size: the folder is made again
    assert opened(file, folder).origin == checkpoint.origin
    origin.write_text("{" * origin.stat().st_size)
    with pytest.raises(
        CheckpointError, match=r"diffedit_origin\.json is damaged .*delete the folder"
    ):
        opened(file, folder).source  # noqa: B018


def test_the_index_of_a_file_is_read_by_diffusers(tmp_path: Path) -> None:
    """What is in the cache is a diffusers folder."""
    folder, file = made(tmp_path, "tiny")
    index = json.loads((opened(file, folder).folder / "model_index.json").read_text())
    assert index == json.loads((folder / "model_index.json").read_text())
