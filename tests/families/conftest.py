"""A tiny random checkpoint of every family, on the PyTorch backend in fp32, and diffusers' pipeline
of the same folder as the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffedit.conditioning.conditioner import Conditioner
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.loader import quiet
from engine.rows import Row
from tests.algorithm.flow_tools import run
from tests.shared import Folders

LCM = ("tiny-lcm", "tiny-sdxl-lcm")
KINDS = ("tiny", "tiny-sdxl", "tiny-sd3", "tiny-sd3-no-t5", "tiny-flux", "tiny-schnell", *LCM)


@dataclass(frozen=True)
class FamilyUnderTest:
    """One checkpoint, opened by us and by diffusers.

    Attributes:
        kind: key of `random_checkpoint.KINDS`.
        networks: ours, torch in fp32.
        theirs: diffusers' text-to-image pipeline.
    """

    kind: str
    checkpoint: Checkpoint
    networks: TorchNetworks
    conditioner: Conditioner
    theirs: Any

    @property
    def folder(self) -> Path:
        return self.checkpoint.folder

    def rows(self, rows: Sequence[Row]) -> list[Any]:
        """Run rows at once."""

        def flow() -> Any:
            return (yield [*rows])

        answers: list[Any] = run(flow(), self.networks)[0]
        return answers

    def condition(self, text: str) -> tuple[Tensor, ...]:
        """The conditioning of one text."""
        ids = self.conditioner.encode(text)
        names = self.checkpoint.names.text_encoders
        rows = [Row(n, (torch.tensor(i),)) for n, i in zip(names, ids, strict=True)]
        return self.conditioner.condition(ids, self.rows(rows))


@pytest.fixture(scope="session", params=KINDS)
def family(request: pytest.FixtureRequest, folders: Folders) -> FamilyUnderTest:
    from diffusers import DiffusionPipeline

    folder = folders(request.param)
    checkpoint = Checkpoint.open(folder)
    with quiet():
        absent = {"text_encoder_3": None, "tokenizer_3": None} if "no-t5" in request.param else {}
        theirs = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **absent)
    theirs.set_progress_bar_config(disable=True)
    networks = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu")
    return FamilyUnderTest(request.param, checkpoint, networks, Conditioner(checkpoint), theirs)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Derived checkpoints go to a folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
