"""A pipeline of a real tiny checkpoint in fp32, and the same with empty caches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from diffedit import DiffEditPipeline


@pytest.fixture(scope="package")
def pipe(tiny: Path) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline.from_pretrained(tiny, dtype="fp32", device="cpu") as opened:
        yield opened


@pytest.fixture
def cold(pipe: DiffEditPipeline) -> None:
    pipe.cache_clear()
