"""A plugin of pytest: run tests on the simulated GPU.

python -m pytest -m gpu -p tests.simulated_gpu.plugin tests/engine/test_cuda_gpu.py
"""

from __future__ import annotations

import contextlib

import pytest

from tests.simulated_gpu import simulated_gpu

_stack = contextlib.ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    _stack.enter_context(simulated_gpu())


def pytest_unconfigure(config: pytest.Config) -> None:
    _stack.close()
