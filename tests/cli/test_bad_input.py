"""Invalid input gives one sentence and the documented exit code, and changes no file."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffedit.cli import errors
from tests.cli.conftest import FAST, PROMPTS, Cli, check_refused, snapshot


def huge_png() -> bytes:
    """A PNG whose header claims 12,000 x 12,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: None, "does not exist"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "truncated": (lambda p: p.write_bytes(p.with_name("in.png").read_bytes()[:900]), "damaged"),
    "huge": (lambda p: p.write_bytes(huge_png()), "144,000,000 pixels"),
    "text": (lambda p: p.write_text("no picture"), "is not in a supported format"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_bad_pictures(case: str, work: Path, cli: Cli) -> None:
    make, words = PICTURES[case]
    make(work / "bad.png")
    before = snapshot(work)
    check_refused(cli("edit", "bad.png", *PROMPTS), 2, words)
    check_refused(cli("edit", "in.png", *PROMPTS, "--mask", "bad.png"), 2, words)
    assert snapshot(work) == before


def test_standard_input_that_is_not_a_picture(work: Path, cli: Cli) -> None:
    check_refused(cli("edit", "-", *PROMPTS), 2, "empty (0 bytes)")
    check_refused(cli("edit", "-", *PROMPTS, stdin=b"hello"), 2, "is not in a supported format")


UNUSUAL = {
    "palette.png": lambda i: i.convert("P"),
    "cmyk.jpg": lambda i: i.convert("CMYK"),
    "deep.png": lambda i: i.convert("I;16"),
    "alpha.png": lambda i: i.convert("RGBA"),
    "animated.gif": lambda i: i.convert("P"),
    "turned.jpg": lambda i: i,
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_pictures_are_read(name: str, work: Path, cli: Cli, photo: Image.Image) -> None:
    options: dict[str, object] = {}
    if name == "animated.gif":
        options = {"save_all": True, "append_images": [Image.new("P", photo.size)]}
    if name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6  # rotate by 90 degrees
        options = {"exif": exif}
    UNUSUAL[name](photo).save(name, **options)
    done = cli("mask", name, *PROMPTS, *FAST, "-o", "m.png")
    assert done.code == 0, done.err
    with Image.open("m.png") as mask:
        assert mask.size == ((72, 96) if name == "turned.jpg" else (96, 72))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--prompt", " "], "prompt is blank"),
        (["--prompt", "x" * 5000], "5000 characters"),
        (["--steps", "0"], "num_inference_steps is 0"),
        (["--steps", "1001"], "num_inference_steps is 1001"),
        (["--strength", "nan"], "strength is nan"),
        (["--strength", "0"], "strength is 0"),
        (["--strength", "1.01"], "strength is 1.01"),
        (["--guidance", "inf"], "guidance_scale is inf"),
        (["--guidance", "-1"], "guidance_scale is -1"),
        (["--maps", "65"], "num_maps_per_mask is 65"),
        (["--mask-encode-strength", "nan"], "mask_encode_strength is nan"),
        (["--mask-thresholding-ratio", "0"], "mask_thresholding_ratio is 0"),
        (["--mask-dilation", "-1"], "mask_dilation is -1"),
        (["--seed", "-1"], "seed is -1"),
        (["--method", "difedit"], "did you mean 'diffedit'?"),
        (["--mask", "in.png", "--method", "sdedit"], "has no mask"),
        (["--size", "big"], "--size is wrong"),
        (["--size", "63"], "multiples"),
        (["--backend", "tensort"], "no backend 'tensort'"),
        (["--dtype", "fp8"], "no dtype 'fp8'"),
        (["--device", "gpu"], "no device 'gpu'"),
        (["--out", "a.txt"], "extension of a supported picture format"),
        (["--out", "in.png"], "already exists"),
        (["--out", "."], "extension of a supported picture format"),
        (["--out", "a.png", "--mask-out", "a.png"], "is the file of two outputs"),
        (["--out", "-", "--json"], "both be written to standard output"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_options(arguments: list[str], word: str, work: Path, cli: Cli) -> None:
    before = snapshot(work)
    check_refused(cli("edit", "in.png", *PROMPTS, *arguments), 2, word)
    assert snapshot(work) == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["edit", "in.png", "-p", "x", "--steps", "many"],
            "Invalid value for '--num-inference-steps'",
        ),
        (["edti"], "No such command 'edti'"),
        (["edit"], "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_show_the_usage(
    arguments: list[str], error: str, work: Path, cli: Cli
) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert "Usage" in done.err
    assert error in done.err


def test_a_mask_of_another_aspect_ratio(work: Path, cli: Cli) -> None:
    Image.new("L", (50, 50), 255).save("m.png")
    check_refused(cli("edit", "in.png", *PROMPTS, "--mask", "m.png"), 2, "another aspect")


def test_masks_that_are_none(work: Path, cli: Cli, photo: Image.Image) -> None:
    """They are refused before the model is loaded."""
    Image.new("L", photo.size).save("black.png")
    stroke = Image.new("RGBA", photo.size)
    stroke.paste((255, 255, 255, 255), (10, 10, 40, 40))
    stroke.save("stroke.png")
    before = snapshot(work)
    for name, words in (
        ("in.png", "looks like a photograph"),
        ("black.png", "black everywhere"),
        ("stroke.png", "drawing on a transparent layer"),
    ):
        arguments = ("edit", "in.png", *PROMPTS, "--mask", name, "--model", "nowhere")
        check_refused(cli(*arguments), 2, words)
    assert snapshot(work) == before


def test_errors_are_also_printed_as_json(work: Path, cli: Cli) -> None:
    done = cli("edit", "nowhere.png", *PROMPTS, "--json")
    assert done.line["error"]["exit_code"] == done.code == 2
    assert done.line["error"]["message"] in done.err


def broken(tiny: Path, folder: Path, change: Callable[[Path], object]) -> Path:
    shutil.copytree(tiny, folder)
    change(folder)
    return folder


def _index(folder: Path, **change: object) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def _pickle(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def _truncate(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no checkpoint": (lambda f: (f / "model_index.json").unlink(), "not a diffusers checkpoint"),
    "nested too deep": (
        lambda f: (f / "model_index.json").write_text("[" * 100_000),
        "cannot be read",
    ),
    "pickle": (_pickle, "pickle weights"),
    "missing part": (lambda f: shutil.rmtree(f / "vae"), "checkpoint's vae is missing"),
    "another architecture": (
        lambda f: _index(f, unet=["diffusers", "SD3Transformer2DModel"]),
        "SD3Transformer2DModel",
    ),
    "no unet": (lambda f: _index(f, unet=None), "without a unet"),
    "truncated": (_truncate, "is damaged: it is truncated"),
}


@pytest.mark.parametrize("case", MODELS)
def test_bad_models(case: str, work: Path, cli: Cli, tiny: Path) -> None:
    change, words = MODELS[case]
    model = broken(tiny, work / "m", change)
    before = snapshot(work)
    check_refused(cli("edit", "in.png", *PROMPTS, "--model", model), 3, words)
    assert snapshot(work) == before


def test_a_model_that_does_not_exist(work: Path, cli: Cli) -> None:
    check_refused(cli("edit", "in.png", *PROMPTS, "--model", "./nowhere"), 3, "no model folder")


def test_a_model_that_returns_nan(work: Path, cli: Cli, tiny: Path) -> None:
    def poison(folder: Path) -> None:
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        weights["conv_out.bias"] = torch.full_like(weights["conv_out.bias"], torch.nan)
        save_file(weights, file, metadata={"format": "pt"})

    model = broken(tiny, work / "m", poison)
    check_refused(cli("edit", "in.png", *PROMPTS, *FAST, "--model", model), 6, "unet", "mask")
    assert not list(work.glob("*edited*"))


def test_bad_engine_folders(work: Path, cli: Cli) -> None:
    check_refused(
        cli("edit", "in.png", *PROMPTS, "--backend", "onnxruntime"), 4, "needs an engine folder"
    )
    check_refused(
        cli("edit", "in.png", *PROMPTS, "--engines", "nowhere"), 4, "manifest.json is missing"
    )
    (work / "e").mkdir()
    (work / "e" / "manifest.json").write_text('{"schema": 1, "entries": [')
    check_refused(cli("edit", "in.png", *PROMPTS, "--engines", "e"), 4, "cannot be read")


@pytest.mark.parametrize("out", ["nowhere/a.png", "in.png/a.png", "/proc/a.png"])
def test_folders_that_are_not_writable(out: str, work: Path, cli: Cli) -> None:
    """Even root cannot create files in /proc."""
    before = snapshot(work)
    check_refused(cli("edit", "in.png", *PROMPTS, "-o", out), 5, out, "cannot be written")
    check_refused(cli("edit", "in.png", *PROMPTS, "--panel", out), 5, out, "cannot be written")
    assert snapshot(work) == before


def test_replay_of_a_file_without_a_record(work: Path, cli: Cli) -> None:
    check_refused(cli("replay", "in.png", "in.png"), 2, "contains no parameters")
    check_refused(cli("replay", "nowhere.png", "in.png"), 2, "does not exist")
    (work / "t.png").write_text("text")
    check_refused(cli("replay", "t.png", "in.png"), 2, "not a readable PNG")


def test_pipes_are_written_and_not_replaced(work: Path, cli: Cli) -> None:
    """Devices are treated in the same way."""
    os.mkfifo(work / "pipe.png")
    reader = os.open(work / "pipe.png", os.O_RDONLY | os.O_NONBLOCK)
    try:
        done = cli("edit", "in.png", *PROMPTS, *FAST, "-o", "pipe.png", "--force")
        assert done.code == 0, done.err
        assert os.read(reader, 8) == b"\x89PNG\r\n\x1a\n"
        assert (work / "pipe.png").is_fifo()
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (MemoryError(), 5, "memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), 5, "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), 5, "memory"),
        (OSError(28, "No space left on device", "a.png"), 5, "No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes_of_errors_that_are_hard_to_provoke(
    error: BaseException, code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert errors.report_error(error) == code
    assert word in capsys.readouterr().err


def test_unexpected_errors_keep_their_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.report_error(ZeroDivisionError("x")) == 1
    printed = capsys.readouterr().err
    assert "ZeroDivisionError: x" in printed
    assert "please report it" in printed
