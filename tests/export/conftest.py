"""Checkpoints and one real build, shared by every test of the compiler.

"tiny" (of the tests' common conftest) has every kind of layer of the real networks; "micro" has
one block each and exports in a second, for what is about files and keys rather than layers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo import random_checkpoint
from engine.manifest import Manifest
from export import build_jobs
from export.build import Event, build

MICRO: dict[str, Any] = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": (8,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "mid_block_type": None,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
    "vae": {
        "block_out_channels": (4, 4),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "sample_size": 16,
        "mid_block_add_attention": False,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
    },
    "text_encoder": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 16,
        "max_position_embeddings": 77,
    },
    "scheduler": random_checkpoint.SD_SCHEDULER,
}
Build = Callable[..., tuple[Manifest, list[Event]]]
Copy = Callable[[Path], Path]


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random_checkpoint.KINDS["micro"] = MICRO
    try:
        return random_checkpoint.make(tmp_path_factory.mktemp("micro") / "model", "micro")
    finally:
        del random_checkpoint.KINDS["micro"]


def run(model: Path, out: Path, **options: Any) -> tuple[Manifest, list[Event]]:
    """`build` for tests: small, fp32 and ONNX alone unless said otherwise."""
    events: list[Event] = []
    defaults: dict[str, Any] = {"precision": "fp32", "batches": (1, 2), "target": "onnx"}
    manifest = build(str(model), out, progress=events.append, **(defaults | options))
    return manifest, events


@pytest.fixture(scope="session", name="run")
def _run() -> Build:
    return run


@pytest.fixture(scope="session")
def by_command(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The issue's command, run as a person does: the folder, and what was said."""
    out = tmp_path_factory.mktemp("engines") / "out"
    size = ["--height", "64", "--width", "96", "--batches", "1,3"]
    options = [*size, "--precision", "fp32", "--target", "tensorrt-rtx"]
    done = subprocess.run(
        [sys.executable, "-m", "export", "--model", str(tiny), "--out", str(out), *options],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    return out, done


@pytest.fixture(scope="session")
def engines(by_command: tuple[Path, object]) -> Path:
    """What that command left: 4 .onnx, 4 engines, a manifest. Read only."""
    return by_command[0]


@pytest.fixture(scope="session")
def _micro_engines(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("micro-engines") / "out"
    run(micro, out, target="tensorrt-rtx")
    return out


@pytest.fixture
def micro_engines(_micro_engines: Path, tmp_path: Path) -> Path:
    """A copy of a finished micro build, to spoil."""
    return Path(shutil.copytree(_micro_engines, tmp_path / "engines"))


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
