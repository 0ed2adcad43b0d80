"""The command line in a separate process: pipes, signals, a full disk."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import FAST, PROMPTS

Start = Callable[..., "subprocess.Popen[bytes]"]
COMMAND = [sys.executable, "-m", "diffedit.cli"]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def start(work: Path) -> Iterator[Start]:
    """Start a command line in the work folder; the end of the test kills it."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(*arguments: object, file_bytes: int | None = None) -> subprocess.Popen[bytes]:
        def limit() -> None:
            assert file_bytes is not None
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        process = subprocess.Popen(
            [*COMMAND, *(str(argument) for argument in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=limit if file_bytes is not None else None,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_pipe_and_a_full_disk(start: Start, work: Path, photo: Image.Image) -> None:
    """Both run at the same time, because importing PyTorch takes most of it."""
    piped = start("edit", "-", *PROMPTS, *FAST)
    full = start("edit", "in.png", *PROMPTS, *FAST, "--mask-out", "m.png", file_bytes=2000)
    out, err = piped.communicate((work / "in.png").read_bytes())
    assert piped.returncode == 0, err.decode()
    with Image.open(io.BytesIO(out)) as image:
        assert (image.format, image.size) == ("PNG", photo.size)
    _, err = full.communicate()
    assert full.returncode == 5, err.decode()
    assert (
        "in.edited.png cannot be written (File too large), and no file was changed" in err.decode()
    )
    assert [p.name for p in work.iterdir()] == ["in.png"]


@pytest.mark.slow
def test_signals_leave_no_files(start: Start, work: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start("edit", "in.png", *PROMPTS, "--steps", 1000, "--panel", "p.png")
        assert process.stderr is not None
        for line in process.stderr:  # this line is printed once the model is loaded
            if line.startswith(b"backend:"):
                break
        assert [p for p in work.iterdir() if p.name.endswith(".tmp")]
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        assert [p.name for p in work.iterdir()] == ["in.png"]
        assert b"Traceback" not in process.stderr.read()
