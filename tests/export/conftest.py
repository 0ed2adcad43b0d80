"""Checkpoints and one real build, shared by every test of the compiler.

"tiny" (of the tests' common conftest) has every kind of layer of the real networks; "micro" has
one block each and exports in a second, for what is about files and keys rather than layers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.manifest import Manifest
from export import build_jobs
from export.build import Event, build

Build = Callable[..., tuple[Manifest, list[Event]]]
Copy = Callable[[Path], Path]


def run(model: Path, out: Path, **options: Any) -> tuple[Manifest, list[Event]]:
    """`build` for tests: small, fp32 and ONNX alone unless said otherwise."""
    events: list[Event] = []
    defaults: dict[str, Any] = {"precision": "fp32", "batches": (1, 2), "target": "onnx"}
    manifest = build(str(model), out, progress=events.append, **(defaults | options))
    return manifest, events


@pytest.fixture(scope="session", name="run")
def _run() -> Build:
    return run


@pytest.fixture
def micro_engines(micro_build: Path, tmp_path: Path) -> Path:
    """A copy of a finished micro build, to spoil."""
    return Path(shutil.copytree(micro_build, tmp_path / "engines"))


@pytest.fixture
def own(tmp_path: Path) -> Copy:
    """Copies of checkpoints, to change."""

    def copy(model: Path) -> Path:
        return Path(shutil.copytree(model, tmp_path / f"copy-{len(os.listdir(tmp_path))}"))

    return copy


@pytest.fixture(scope="session")
def made() -> Callable[[list[Event]], list[tuple[str, str]]]:
    """(step, network) of everything that wrote a file."""

    def steps(events: list[Event]) -> list[tuple[str, str]]:
        done = [e for e in events if e.state == "done" and e.step in ("export", "compile")]
        return [(e.step, e.label.split()[0]) for e in done]

    return steps


@pytest.fixture(scope="session")
def change() -> Callable[..., None]:
    """Scale one tensor of a part's weights (all of them if no name is given)."""

    def scale(model: Path, part: str, name: str = "", by: float = 1.5) -> None:
        from safetensors.torch import load_file, save_file

        (file,) = (model / part).glob("*.safetensors")
        state = load_file(file)
        chosen = [key for key in state if name in key]
        assert chosen
        save_file({k: v * by if k in chosen else v for k, v in state.items()}, file)

    return scale


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a build see these networks alone: for what does not differ between networks."""

    def choose(*names: str) -> None:
        every = build_jobs.build_jobs
        monkeypatch.setattr(
            "export.build.build_jobs",
            lambda *a: tuple(j for j in every(*a) if j.spec.name in names),
        )

    return choose
