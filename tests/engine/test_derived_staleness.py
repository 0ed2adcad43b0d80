"""A derived folder in the cache is never used after something that it was made from has changed.

The oracle: what a warm cache gives equals, file by file, what an empty cache gives.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from demo import random_checkpoint
from engine.checkpoint import Checkpoint
from engine.derived.additions import Additions
from engine.derived.cached_folder import LIST_NAME
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from engine.origin import ORIGIN_NAME
from tests.single_files import single_file, weights
from tests.single_files.ldm import vae_to_ldm


@dataclass
class Work:
    """A folder with copies that a test may change.

    Attributes:
        model: a checkpoint in diffusers' format.
        target: the folder that a link of `model` leads to.
        vae, vae_file: another VAE, as a folder and as a single file.
        embedding: a textual inversion.
        single: U-Net and text encoder in a single file, whose base is `model`.
    """

    folder: Path
    variant: str | None = None

    def __post_init__(self) -> None:
        self.model, self.vae = self.folder / "model", self.folder / "vae"
        self.vae_file = self.folder / "files" / "vae.safetensors"
        self.embedding = self.folder / "files" / "toy.safetensors"
        self.single = self.folder / "files" / "unet.safetensors"

    def open(self, kind: str) -> Checkpoint:
        """What the cache gives for the model with one addition."""
        model = self.single if kind == "base" else self.model
        return find_checkpoint(model, additions=self.additions(kind), variant=self.variant)

    def additions(self, kind: str) -> Additions:
        """What is added to the model."""
        return {
            "base": Additions(base=self.model),
            "vae folder": Additions(vae=self.vae),
            "vae file": Additions(vae=self.vae_file),
            "embedding": Additions(embeddings=((self.embedding, "<toy>"),)),
        }[kind]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    model = random_checkpoint.make(folder / "model", "tiny")
    other = random_checkpoint.make(folder / "other", "tiny", seed=5)
    (other / "vae").rename(folder / "vae")
    shutil.rmtree(other)
    (folder / "files").mkdir()
    config = json.loads((folder / "vae" / "config.json").read_text())
    vae = vae_to_ldm(weights(folder, "vae"), config, "")
    save_file({n: t.contiguous().clone() for n, t in vae.items()}, folder / "files/vae.safetensors")
    save_file({"emb_params": torch.ones(2, 32)}, folder / "files" / "toy.safetensors")
    single_file(model, folder / "files" / "unet.safetensors", parts=("unet", "text_encoder"))
    (model / "unet").rename(folder / "linked")
    (model / "unet").symlink_to(folder / "linked")
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "warm"))
    shutil.copytree(made, tmp_path / "work", symlinks=True)
    link = tmp_path / "work" / "model" / "unet"
    link.unlink()
    link.symlink_to(tmp_path / "work" / "linked")
    return Work(tmp_path / "work")


def contents(checkpoint: Checkpoint) -> dict[str, str]:
    """Digest of every file that the checkpoint has, links followed."""
    folder = checkpoint.folder
    files = [path for part in folder.iterdir() for path in (part, *part.rglob("*"))]
    used = {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and path.name not in (ORIGIN_NAME, LIST_NAME)
    }
    read = {
        p.name: [str(f.name) for f in checkpoint.weights(p.name)] for p in checkpoint.family.parts
    }
    return used | {f"weights of {part}": " ".join(names) for part, names in read.items()}


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def retrain(path: Path) -> None:
    """Other numbers under the same name and with the same size."""
    save_file({n: t + 1 for n, t in load_file(path).items()}, path, metadata={"format": "pt"})


def text_weights(work: Work) -> None:
    retrain(work.model / "text_encoder" / "model.safetensors")


def text_config(work: Work) -> None:
    edit_json(work.model / "text_encoder" / "config.json", layer_norm_eps=0.01)


def tokenizer(work: Work) -> None:
    edit_json(work.model / "tokenizer" / "tokenizer_config.json", unk_token="!</w>")


def variant(work: Work) -> None:
    """The part has other weights under the variant's name, which is asked for now."""
    for part, base in (("text_encoder", "model"), ("vae", "diffusion_pytorch_model")):
        path = work.model / part / f"{base}.safetensors"
        half = {n: t.half() for n, t in load_file(path).items()}
        save_file(half, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    work.variant = "fp16"


def link_elsewhere(work: Work) -> None:
    shutil.copytree(work.folder / "linked", work.folder / "newer")
    retrain(work.folder / "newer" / "diffusion_pytorch_model.safetensors")
    (work.model / "unet").unlink()
    (work.model / "unet").symlink_to(work.folder / "newer")


def scheduler(work: Work) -> None:
    edit_json(work.model / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")


def index(work: Work) -> None:
    edit_json(work.model / "model_index.json", _diffusers_version="0.1")


def vae_weights(work: Work) -> None:
    retrain(work.vae / "diffusion_pytorch_model.safetensors")
    retrain(work.vae_file)


def vae_config(work: Work) -> None:
    edit_json(work.vae / "config.json", scaling_factor=0.5)
    config = json.loads((work.vae / "config.json").read_text())
    work.vae_file.with_name("config.json").write_text(json.dumps(config))


def vae_config_of_the_model(work: Work) -> None:
    """A single file takes the scaling factor of the model's own VAE."""
    edit_json(work.model / "vae" / "config.json", scaling_factor=0.25)


def embedding(work: Work) -> None:
    retrain(work.embedding)


def single(work: Work) -> None:
    retrain(work.single)


def unet_config(work: Work) -> None:
    edit_json(work.folder / "linked" / "config.json", norm_eps=0.01)


def move(work: Work) -> None:
    """Everything is elsewhere, and the old place is empty."""
    new = work.folder.with_name("moved")
    work.folder.rename(new)
    (new / "model" / "unet").unlink()
    (new / "model" / "unet").symlink_to(new / "linked")
    work.folder = new
    work.__post_init__()


CHANGES: tuple[Callable[[Work], None], ...] = (
    *(text_weights, text_config, tokenizer, variant, link_elsewhere, scheduler, index),
    *(vae_weights, vae_config, vae_config_of_the_model, embedding, single, unet_config, move),
)


KINDS = ("vae folder", "vae file", "embedding", "base")
OFTEN = (
    *((kind, link_elsewhere) for kind in KINDS),
    *(("embedding", change) for change in (text_weights, text_config, tokenizer, variant)),
    *(("vae file", change) for change in (vae_weights, vae_config, vae_config_of_the_model)),
    *(("base", change) for change in (index, unet_config, single)),
    ("vae folder", variant),
)
"""What is likely to matter. The other pairs are tested too, with the slow tests."""
PAIRS = [
    pytest.param(
        *(kind, change),
        id=f"{kind}, {change.__name__}",
        marks=() if (kind, change) in OFTEN else pytest.mark.slow,
    )
    for kind in KINDS
    for change in CHANGES
]


@pytest.mark.parametrize(("kind", "change"), PAIRS)
def test_a_warm_cache_gives_what_an_empty_one_gives(
    kind: str,
    change: Callable[[Work], None],
    work: Work,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work.open(kind)
    change(work)
    warm = contents(work.open(kind))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    assert warm == contents(work.open(kind))


@pytest.mark.parametrize("kind", ["vae file", "base"])
def test_a_relative_path_means_the_present_folder(
    kind: str, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same relative names in two folders with equal files; the first folder is gone then."""
    monkeypatch.chdir(work.folder)
    relative = Work(Path())
    relative.open(kind)
    move(work)
    monkeypatch.chdir(work.folder)
    warm = contents(relative.open(kind))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    assert warm == contents(relative.open(kind))


@pytest.mark.parametrize(
    ("kind", "name"), [("base", "single"), ("vae file", "vae_file"), ("embedding", "embedding")]
)
def test_a_file_that_changes_while_it_is_read(
    kind: str, name: str, work: Work, tmp_path: Path
) -> None:
    """As one that is still downloaded: the digest is that of another file than the weights."""
    file: Path = getattr(work, name)

    def change(text: str, done: int, total: int) -> None:
        if "convert" in text or "adding" in text:
            retrain(file)

    additions = work.additions(kind)
    model = work.single if kind == "base" else work.model
    with pytest.raises(CheckpointError, match=r"was changed while it was read; wait"):
        find_checkpoint(model, additions=additions, report=change)
    assert list((tmp_path / "warm").rglob(ORIGIN_NAME)) == []
    work.open(kind)


@pytest.mark.parametrize("kind", ["vae file", "embedding", "base"])
def test_nothing_is_made_twice(kind: str, work: Work, tmp_path: Path) -> None:
    assert work.open(kind).folder == work.open(kind).folder
    assert len(list((tmp_path / "warm").rglob(ORIGIN_NAME))) == 1
