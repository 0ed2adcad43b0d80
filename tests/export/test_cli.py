"""`python -m export` as a person meets it: exit codes, one sentence, and what an end leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.spec import Manifest

ROOT = Path(__file__).parents[2]
Run = Callable[..., object]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "export", *map(str, arguments)]


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )


def start(model: Path, out: Path) -> subprocess.Popen[str]:
    arguments = command("--model", model, "--out", out, "--target", "onnx", "--precision", "fp32")
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_help_is_quick_and_teaches() -> None:
    began = time.perf_counter()
    done = cli("--help")
    assert done.returncode == 0
    assert time.perf_counter() - began < 3
    for word in ("--model", "--out", "--size", "--lora", "PATH:SCALE", "Examples", "Exit codes"):
        assert word in done.stdout
    code = "import sys, export.__main__, export.build; print('torch' in sys.modules)"
    answer = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert answer.strip() == "False"


def test_a_build_says_what_it_did_and_what_is_next(micro: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--model", micro, "--out", out, "--height", 16, "--width", 24, "--batches", "1,2")
    options = ("--precision", "fp32", "--target", "tensorrt-rtx")
    done = cli(*arguments, *options)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("exported", "verified", "compiled", "peak", f"--engines {out}", "not verified"):
        assert text in done.stdout
    manifest = Manifest.load(out)
    assert len(manifest.entries) == 8
    assert {p.name for p in out.glob("*.onnx")} == {
        "text-fp32.onnx",
        "vae_encode-16x24-fp32.onnx",
        "vae_decode-16x24-fp32.onnx",
        "unet-16x24-fp32.onnx",
    }
    again = cli(*arguments, *options)
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--size", "15"], 2, "multiples of 2"),
        (["--size", "big"], 2, "HEIGHTxWIDTH"),
        (["--batches", "1,x"], 2, "--batches"),
        (["--lora", "a:b"], 2, "PATH:SCALE"),
        (["--precision", "int8"], 2, "int8"),
        (["--model", "/no/such/model"], 3, "no model folder"),
        (["--model", "no/such-model"], 3, "could not be fetched"),
        (["--lora", "none.safetensors:1"], 3, "no LoRA file"),
        (["--out", "/no/such/folder/out"], 5, "does not exist"),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, sentence: str, micro: Path, tmp_path: Path
) -> None:
    defaults = ["--model", micro, "--out", tmp_path / "out", "--target", "onnx"]
    done = cli(*defaults, *arguments)
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= (4 if code == 2 else 1)
    assert not (tmp_path / "out").exists()


def test_another_models_folder_is_4(tiny: Path, micro_engines: Path) -> None:
    done = cli("--model", tiny, "--out", micro_engines, "--target", "onnx")
    assert done.returncode == 4
    assert "--force" in done.stderr


def test_a_killed_build_goes_on_where_it_stopped(micro: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(micro, out)
    wait_for(lambda: (out / "manifest.json").exists() and any(out.glob(".build-*")))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    partial = Manifest.load(out)
    assert partial.entries
    for entry in partial.entries:
        entry.verified(out)
    done = cli("--model", micro, "--out", out, "--target", "onnx", "--precision", "fp32")
    assert done.returncode == 0
    assert "is up to date: text-fp32.onnx" in done.stdout
    assert not list(out.glob(".build-*"))
    assert len(Manifest.load(out).entries) == 4


def test_ctrl_c_is_130_and_leaves_nothing_half_written(micro: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(micro, out)
    wait_for(lambda: (out / "manifest.json").exists())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines() == [
        "Error: Interrupted; what is finished is kept, the same command goes on there."
    ]
    for entry in Manifest.load(out).entries:
        entry.verified(out)
    assert not list(out.glob(".build-*"))


def test_two_builders_at_once_both_succeed(micro: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [start(micro, out), start(micro, out)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("waiting for it to end" in text for text in said) <= 1
    assert sum("Nothing to do" in text for text in said) == 1
    assert len(Manifest.load(out).entries) == 4
