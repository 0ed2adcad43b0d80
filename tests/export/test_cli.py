"""`python -m export`: exit codes, error messages, and the files of interrupted builds."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import CheckpointError
from engine.manifest import Entry, Format, Manifest, Toolchain
from engine.netspec import NetSpec, Precision
from export.__main__ import _next, app, run
from export.events import Event
from tests.shared import CommandBuild

ROOT = Path(__file__).parents[2]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "export", *map(str, arguments)]


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )


def in_process(*arguments: object) -> tuple[int, str, str]:
    """The same without the seconds that importing PyTorch takes: exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        app([str(argument) for argument in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code, out.getvalue(), err.getvalue()


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


def test_a_build_says_what_it_did_and_what_is_next(
    command_build: CommandBuild, tmp_path: Path
) -> None:
    out, done = command_build.out, command_build
    assert (done.code, done.stderr) == (0, "")
    for text in ("exported", "verified", "compiled", "peak", f"--engines {out}", "not run"):
        assert text in done.stdout
    assert {p.name for p in out.glob("*.onnx")} == {
        "text-fp32.onnx",
        "vae_encode-16x16-fp32.onnx",
        "vae_decode-16x16-fp32.onnx",
        "unet-16x16-fp32.onnx",
    }
    own = shutil.copytree(out, tmp_path / "own")  # a run writes, and others copy the first one
    code, again, _ = in_process("--model", done.model, "--out", own, *done.options)
    assert code == 0
    assert "Nothing to do" in again


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--size", "15"], 2, "multiples of 2"),
        (["--size", "big"], 2, "HEIGHTxWIDTH"),
        (["--batches", "1,x"], 2, "--batches"),
        (["--lora", "a:b"], 2, "PATH:SCALE"),
        (["--precision", "int8"], 2, "int8"),
        (["--verify", "some"], 2, "some"),
        (["--verify", "all", "--no-verify"], 2, "contradict"),
        (["--model", "/no/such/model"], 3, "no model folder"),
        (["--model", "no/such-model"], 3, "could not be downloaded"),
        (["--lora", "none.safetensors:1"], 3, "not a LoRA file"),
        (["--out", "/no/such/folder/out"], 5, "does not exist"),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, sentence: str, micro: Path, tmp_path: Path
) -> None:
    defaults = ["--model", micro, "--out", tmp_path / "out", "--target", "onnx"]
    ended, _, said = in_process(*defaults, *arguments)
    assert ended == code
    assert sentence in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= (4 if code == 2 else 1)
    assert not (tmp_path / "out").exists()


def test_a_refusal_is_the_exit_code_of_the_process(tmp_path: Path) -> None:
    done = cli("--model", tmp_path / "none", "--out", tmp_path / "out")
    assert done.returncode == 3
    assert done.stderr.startswith("Error: ")


def test_another_models_folder_is_4(tiny: Path, micro_engines: Path) -> None:
    code, _, said = in_process("--model", tiny, "--out", micro_engines, "--target", "onnx")
    assert code == 4
    assert "--force" in said


@pytest.mark.parametrize("afterwards", ["fails", "goes on"])
def test_ctrl_c_counts_even_if_a_library_swallows_it(
    afterwards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, progress: Callable[[Event], None], **__: object) -> Manifest:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        if afterwards == "fails":
            raise CheckpointError("the weights cannot be loaded")
        progress(Event("note"))
        return Manifest(model=None)

    monkeypatch.setattr("export.build.build", build)
    before = signal.getsignal(signal.SIGINT)
    assert run("model", tmp_path, {}) == 130
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_whatever_ends_a_build_the_next_one_goes_on(micro: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def done() -> set[str]:
        """The networks in the manifest, whose files are whole at any moment."""
        if not (out / "manifest.json").exists():
            return set()
        entries = Manifest.load(out).entries
        for entry in entries:
            entry.verified(out)
        return {entry.spec.name for entry in entries}

    interrupted = start(micro, out)
    wait_for(lambda: "text" in done())
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert errors.strip().splitlines() == [
        "Error: Interrupted; finished files are kept. Run the same command again to continue."
    ]
    assert not list(out.glob(".build-*"))

    before = done()
    killed = start(micro, out)
    wait_for(lambda: len(done()) > len(before))
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert list(out.glob(".build-*"))

    both = [start(micro, out), start(micro, out)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("is up to date: text-fp32.onnx" in text for text in said)
    assert sum("Nothing to do" in text for text in said) == 1
    assert done() == {"text", "vae_encode", "vae_decode", "unet"}
    assert not list(out.glob(".build-*"))


@pytest.mark.parametrize(
    ("precision", "backend"), [("fp16", " --backend onnxruntime"), ("bf16", "")]
)
def test_the_next_command_runs_here(precision: Precision, backend: str) -> None:
    """ONNX Runtime has no kernels for bf16 on a CPU: "auto" edits with PyTorch."""
    spec = NetSpec("unet", "denoiser", None, (), (), (1,), precision)
    kinds: tuple[Format, ...] = ("onnx", "tensorrt-rtx")
    entries = tuple(Entry(kind, spec, "key", (), Toolchain("p", "1", "w")) for kind in kinds)
    said = _next("model", Path("out"), Manifest(None, entries=entries))
    first, second = said.splitlines()
    assert first.endswith(f"--engines out{backend}")
    assert "use --backend tensorrt there" in second
