from __future__ import annotations

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate allows one precision per process; each test may use its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
