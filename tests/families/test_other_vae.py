"""A checkpoint with another VAE, and with every other addition at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from demo import random_checkpoint
from engine.derived.additions import Additions
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from engine.weights_check import check_weights
from tests.families.addition_tools import (
    saved,
    vectors,
)
from tests.shared import Folders
from tests.single_files import single_file, weights
from tests.single_files.ldm import vae_to_ldm

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with other weights."""
    return random_checkpoint.make(tmp_path_factory.mktemp("other") / "m", "tiny", seed=5)


@pytest.mark.parametrize("form", ["checkpoint", "folder", "single file", "file in its folder"])
def test_another_vae(form: str, folders: Folders, other: Path, tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    config = {"block_out_channels": (16, 32, 32)}
    save_file(
        {n: t.contiguous() for n, t in vae_to_ldm(weights(other, "vae"), config, "").items()}, file
    )
    (inside,) = (other / "vae").glob("*.safetensors")
    path = {
        "checkpoint": other,
        "folder": other / "vae",
        "single file": file,
        "file in its folder": inside,
    }[form]
    checkpoint = find_checkpoint(folders("tiny"), additions=Additions(vae=path))
    check_weights(checkpoint)
    wanted = weights(other, "vae")
    found = weights(checkpoint.folder, "vae")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    unet = weights(checkpoint.folder, "unet")
    assert torch.equal(unet["conv_in.weight"], weights(folders("tiny"), "unet")["conv_in.weight"])
    plain = find_checkpoint(folders("tiny")).digests()
    digests = checkpoint.digests()
    assert [part for part in plain if plain[part] != digests[part]] == ["vae"]


def test_a_vae_keeps_its_own_scaling(folders: Folders, tmp_path: Path) -> None:
    kinds = random_checkpoint.KINDS
    vae = {**kinds["tiny"]["vae"], "scaling_factor": 0.5}
    kinds["scaled"] = {**kinds["tiny"], "vae": vae}
    try:
        folder = random_checkpoint.make(tmp_path / "m", "scaled")
    finally:
        del kinds["scaled"]
    checkpoint = find_checkpoint(folders("tiny"), additions=Additions(vae=folder / "vae"))
    assert checkpoint.family.configs["vae"]["scaling_factor"] == 0.5


@pytest.mark.parametrize(
    ("kind", "words"), [("tiny-flux", "has 16 latent channels, but this model has 4")]
)
def test_a_vae_of_another_family(kind: str, words: str, folders: Folders) -> None:
    with pytest.raises(CheckpointError, match=words):
        find_checkpoint(folders("tiny"), additions=Additions(vae=folders(kind) / "vae"))


def test_a_vae_of_another_size(folders: Folders, tmp_path: Path) -> None:
    kinds = random_checkpoint.KINDS
    vae = {**kinds["tiny"]["vae"], "block_out_channels": (16, 32)}
    vae |= {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    kinds["small"] = {**kinds["tiny"], "vae": vae}
    try:
        folder = random_checkpoint.make(tmp_path / "m", "small")
    finally:
        del kinds["small"]
    with pytest.raises(CheckpointError, match=r"latent cells of 2 pixels a side.* has 4"):
        find_checkpoint(folders("tiny"), additions=Additions(vae=folder))


def test_vaes_that_are_none(folders: Folders, tmp_path: Path) -> None:
    pickle = tmp_path / "v.ckpt"
    pickle.write_bytes(b"PK\x03\x04")
    lora = saved(tmp_path / "lora.safetensors", **{"x.lora_A.weight": torch.zeros(1)})
    for path, words in (
        (tmp_path / "no", "There is no VAE"),
        (pickle, "can run code"),
        (lora, "is not a VAE"),
        (folders("tiny") / "unet", "is a UNet2DConditionModel|no diffusion_pytorch_model"),
        (tmp_path, r"config\.json does not exist"),
    ):
        with pytest.raises(CheckpointError, match=words):
            find_checkpoint(folders("tiny"), additions=Additions(vae=path))


def test_everything_at_once(folders: Folders, other: Path, tmp_path: Path) -> None:
    """A single file with another VAE, a textual inversion and a layer left out."""
    file = single_file(folders("tiny"), tmp_path / "one.safetensors")
    embedding = saved(tmp_path / "toy.safetensors", emb_params=vectors(2, 32, 1))
    additions = Additions(folders("tiny"), None, other / "vae", ((embedding, "<t>"),), 1)
    checkpoint = find_checkpoint(file, additions=additions)
    check_weights(checkpoint)
    origin = checkpoint.origin
    assert origin is not None
    assert [source.role for source in origin.files] == ["checkpoint", "base", "vae", "embedding"]
    assert checkpoint.source == str(file)
    assert checkpoint.clip_skip == 1
    table = load_file(next((checkpoint.folder / "text_encoder").glob("*.safetensors")))
    assert any(len(t) == checkpoint.family.text_inputs[0].vocabulary for t in table.values())
