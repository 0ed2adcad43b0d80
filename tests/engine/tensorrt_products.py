"""The TensorRT products of this environment, for tests that need one."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

MODULES = [m for m in ("tensorrt", "tensorrt_rtx") if find_spec(m)]
needs_rtx = pytest.mark.skipif(
    "tensorrt_rtx" not in MODULES, reason="tensorrt_rtx is not installed"
)
