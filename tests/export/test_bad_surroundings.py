"""Builds that run out of memory or get an invalid --out: exit code and error message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import ResourceError
from export.__main__ import run
from export.build import build

OPTIONS: dict[str, Any] = {"target": "onnx", "precision": "fp32", "sizes": [(16, 16)]}


def exporter_error() -> Exception:
    """As PyTorch's exporter raises it: the reason is in `__cause__`."""
    error = torch.onnx.errors.OnnxExporterError("Failed to export the model")
    error.__cause__ = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 17179869184 bytes."
    )
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError,
        exporter_error,
        lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1"),
    ],
    ids=["MemoryError", "cause", "RuntimeError"],
)
def test_memory_that_runs_out_while_tracing_is_exit_5(
    error: Callable[[], BaseException],
    micro: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error()

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ResourceError, match="not enough memory to build the text"):
        build(str(micro), tmp_path / "out", **OPTIONS)
    assert run(str(micro), tmp_path / "out", OPTIONS) == 5
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("", "--out is empty"),
        ("  ", "--out is empty"),
        ("~nobody-of-this-name/engines", "no such home folder"),
        ("a\0b", "not a path"),
    ],
)
def test_an_impossible_folder_is_refused(
    out: str,
    words: str,
    micro: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An empty name, such as that of a variable that is not set, was the current folder."""
    monkeypatch.chdir(tmp_path)
    assert run(str(micro), out, OPTIONS) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message
    assert list(tmp_path.iterdir()) == []
