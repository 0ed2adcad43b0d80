"""A model argument that names something else: the error says what it is, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import CheckpointError
from engine.hub import find_checkpoint


def tensors(*names: str) -> Callable[[Path], object]:
    return lambda path: save_file({name: torch.zeros(1) for name in names}, path)


def content(raw: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(raw)


FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "single file": (
        "a model.safetensors",
        tensors("model.diffusion_model.out.0.weight", "first_stage_model.decoder.conv_in.weight"),
        "is an incomplete Stable Diffusion checkpoint",
    ),
    "single pickle": ("old.ckpt", content(b"PK\x03\x04"), "can run code.*from_single_file"),
    "pickle": ("old.pt", content(b"\x80\x02"), "pickle format"),
    "FLUX": (
        "flux.safetensors",
        tensors("double_blocks.0.img_attn.x"),
        "lacks the transformer's first or last layer",
    ),
    "LoRA": (
        "lora.safetensors",
        tensors("lora_unet_down_blocks_0.lora_down.weight"),
        "is a LoRA, not a whole model; pass it as --lora",
    ),
    "LoHa": ("loha.safetensors", tensors("lycoris_x.hada_w1_a"), "is a LoRA"),
    "VAE": (
        "vae.safetensors",
        tensors("decoder.conv_in.weight", "encoder.mid_block.x", "encoder.down_blocks.0.x"),
        "is a VAE, not a whole model",
    ),
    "U-Net": ("unet.safetensors", tensors("down_blocks.0.x", "conv_in.weight"), "is a U-Net"),
    "text encoder": ("t.safetensors", tensors("text_model.encoder.layers.0.x"), "a text encoder"),
    "ControlNet": ("c.safetensors", tensors("control_model.input_hint_block.0"), "a ControlNet"),
    "inversion": ("i.safetensors", tensors("emb_params"), "a textual inversion"),
    "other tensors": ("o.safetensors", tensors("x"), "a safetensors file of an unknown kind"),
    "cut": ("cut.safetensors", content(b"\x40\0\0\0\0\0\0\0{"), "cut.safetensors is damaged"),
    "pointer": ("p.safetensors", content(b"version https://git-lfs.github.com"), "git lfs pull"),
    "pointer to a pickle": ("p.ckpt", content(b"version https://git-lfs.x"), "git lfs pull"),
    "GGUF": ("m.gguf", content(b"GGUF"), "is a GGUF file; a model is a folder"),
    "ONNX": ("m.onnx", content(b"x"), "is an ONNX file; a model is a folder"),
    "text": ("notes.txt", content(b"hello"), "is not a model: it is another file"),
    "empty": ("nothing", content(b""), "it is an empty file"),
    "a pipe": ("pipe", lambda path: os.mkfifo(path), "neither a folder nor a file"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_says_what_it_is(case: str, tmp_path: Path) -> None:
    name, make, words = FILES[case]
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=words) as caught:
        find_checkpoint(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def the_index(tiny: Path, folder: Path) -> Path:
    shutil.copy(tiny / "model_index.json", folder)
    return folder / "model_index.json"


def folder_with(name: str) -> Callable[[Path, Path], Path]:
    """A folder with one file, or a checkpoint if its name is that of an index."""

    def make(tiny: Path, folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny / "model_index.json", path)
        return folder

    return make


def single_file_inside(tiny: Path, folder: Path) -> Path:
    save_file(
        {
            "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 4, 1, 1),
            "model.diffusion_model.out.2.weight": torch.zeros(4, 2, 1, 1),
            "cond_stage_model.transformer.text_model.x": torch.zeros(1),
        },
        folder / "m.safetensors",
    )
    return folder


FOLDERS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "the index": (the_index, "pass its folder"),
    "a part": (lambda tiny, folder: tiny / "unet", "one part of one; pass the folder"),
    "engines": (folder_with("manifest.json"), "an engine folder; pass it as --engines"),
    "an adapter": (folder_with("adapter_config.json"), "a LoRA or another adapter"),
    "a folder of models": (folder_with("a/model_index.json"), "the folder .*/a is one"),
    "a hub cache": (folder_with("snapshots/1/model_index.json"), "folder .*/snapshots/1 is one"),
    "a single file inside": (
        single_file_inside,
        r"m\.safetensors is Stable Diffusion 1 in a single file; pass that file as the model",
    ),
    "nothing": (lambda tiny, f: f, r"model_index\.json does not exist: this is not a diffusers"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_says_what_it_is(case: str, tiny: Path, tmp_path: Path) -> None:
    make, words = FOLDERS[case]
    with pytest.raises(CheckpointError, match=words) as caught:
        find_checkpoint(make(tiny, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "owner/model.ckpt"])
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="There is no model folder at"):
        find_checkpoint(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("~nobody-of-that-name/model", "cannot be opened.*home directory"),
        ("y" * 300, "cannot be opened.*too long"),
        ("a\0b", "There is no model folder"),
        ("a b", "There is no model folder"),
        ("../nothing", "There is no model folder"),
        ("https://huggingface.co/owner/name", "is an address, not a hub id; pass the id"),
        ("/dev/null", "neither a folder nor a file"),
    ],
)
def test_names_that_cannot_be_models(name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        find_checkpoint(name)
    assert "\n" not in str(caught.value)


def test_the_conversion_is_a_command_that_runs(tmp_path: Path) -> None:
    """Up to the file itself, which holds no model."""
    file = tmp_path / "it's.ckpt"
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(file)
    command = str(caught.value).partition("convert it to a folder with: ")[2]
    stub = tmp_path / "diffusers.py"
    stub.write_text(
        "class StableDiffusionPipeline:\n"
        "    @classmethod\n"
        "    def from_single_file(cls, path): cls.path = path; return cls()\n"
        "    def save_pretrained(self, folder): print(self.path, folder, sep='\\n')\n"
    )
    python = f"{sys.executable} {command.removeprefix('python ')}"
    done = subprocess.run(
        python, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(file), str(tmp_path / "it's")]
