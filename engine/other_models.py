"""Describe a path that was passed as a model but is not a checkpoint folder.

Standard library only: no code of the file is run, and only the header of a safetensors file is
read.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.errors import CheckpointError
from engine.models.single_files import identify
from engine.safetensors_header import read_header, read_metadata

FORMATS = {
    ".gguf": "a GGUF file",
    ".onnx": "an ONNX file",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
}
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
FORMAT = (
    "a model is a folder in diffusers' format, with a model_index.json, or a single .safetensors "
    "file, or a hub id"
)


def not_a_folder(path: Path) -> str:
    """The error message for a path that is not a folder: a file, or nothing."""
    try:
        if not path.exists():
            return f"There is no model folder at {path}; check the path."
        is_file = path.is_file()
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})."
    if not is_file:
        return f"{path} is neither a folder nor a file; {FORMAT}."
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    return _file(path)


def not_a_checkpoint(folder: Path) -> str:
    """The error message for a folder without `model_index.json`."""
    here = f"{folder / 'model_index.json'} does not exist: this is not a diffusers checkpoint"
    if (folder / "manifest.json").is_file():
        return f"{here} but an engine folder; pass it as --engines, and the model as --model."
    if (folder / "adapter_config.json").is_file():
        return f"{here} but a LoRA or another adapter; {FORMAT}."
    if (folder.parent / "model_index.json").is_file():
        return f"{here} but one part of one; pass the folder {folder.parent}."
    inside = sorted(folder.glob("snapshots/*/model_index.json")) or sorted(
        folder.glob("*/model_index.json")
    )
    if inside:
        return f"{here}; the folder {inside[0].parent} is one."
    singles = sorted(folder.glob("*.safetensors"))
    if singles and not (folder / "config.json").is_file():
        return f"{here}; {_safetensors(singles[0])}"
    return f"{here}."


def _file(path: Path) -> str:
    if path.name == "model_index.json":
        return f"{path} is a file of a checkpoint; pass its folder {path.parent}."
    if path.suffix.lower() in FORMATS:
        return f"{path} is {FORMATS[path.suffix.lower()]}; {FORMAT}."
    try:
        with path.open("rb") as stream:
            begin = stream.read(256)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})."
    if begin.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not a model; run: git lfs pull"
    if path.suffix.lower() in PICKLES or begin.startswith((b"PK\x03\x04", b"\x80\x02")):
        return (
            f"{path} is a single-file checkpoint in pickle format, which can run code when opened; "
            f"if you trust it, convert it to a folder with: {_conversion(path)}"
        )
    return f"{path} is not a model: it is {'an empty' if not begin else 'another'} file; {FORMAT}."


def _safetensors(path: Path) -> str:
    try:
        found = identify(read_header(path), read_metadata(path))
    except CheckpointError as error:
        text = str(error)
        return text if text.startswith(str(path)) else f"{path} {text}."
    return f"{path} is {found.title} in a single file; pass that file as the model."


def _conversion(path: Path) -> str:
    """A command that writes a diffusers folder beside a pickled checkpoint."""
    code = (
        "import sys; from diffusers import StableDiffusionPipeline as P; "
        "P.from_single_file(sys.argv[1]).save_pretrained(sys.argv[2])"
    )
    return shlex.join(["python", "-c", code, str(path), str(path.with_suffix(""))])
