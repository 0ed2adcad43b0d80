"""What the tests of the CPU kernels need: a compiler for x86, and a processor with AVX-512 BF16."""

from __future__ import annotations

import os
import platform
import shutil

import pytest
import torch

HAS_COMPILER = platform.machine().lower() in ("x86_64", "amd64") and any(
    shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")
)

needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler for x86")
needs_kernel = pytest.mark.skipif(
    not (HAS_COMPILER and torch.cpu._is_avx512_bf16_supported()),
    reason="this processor has no AVX-512 BF16, or there is no C++ compiler",
)
