"""The networks of a tiny real checkpoint, shared by the tests of edits."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def real(tiny: Path) -> TorchNetworks:
    return TorchNetworks.open(Checkpoint.open(tiny), dtype="fp32", device="cpu")
