"""Edits in the default precision on processors with and without bfloat16 instructions.

A fresh process simulates each kind of processor: PyTorch's feature checks are replaced, and oneDNN
and PyTorch are limited to the instructions of that kind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.engine.processor import HAS_COMPILER

SCRIPT = """
import json, sys
import torch
amx, avx512_bf16 = json.loads(sys.argv[2])
torch.cpu._is_amx_tile_supported = lambda: amx
torch.cpu._is_avx512_bf16_supported = lambda: avx512_bf16

from demo.picture import still_life
from diffedit import DiffEditPipeline, EditRequest

texts = ("a blue ball", "a red ball")
request = EditRequest(still_life(64, 64), *texts, preset="paper", num_inference_steps=4)
with DiffEditPipeline.from_pretrained(
    sys.argv[1], backend="torch", device="cpu", size=(64, 64)
) as pipe:
    result = pipe.submit(request).result()
    print(json.dumps([pipe.networks.describe(), list(result.image.size)]))
"""


@dataclass(frozen=True)
class Processor:
    """A kind of processor.

    Attributes:
        amx, avx512_bf16: whether it has these instructions.
        onednn: the value of ONEDNN_MAX_CPU_ISA that limits oneDNN to its instructions.
        pytorch: the value of ATEN_CPU_CAPABILITY that does the same for PyTorch.
        precision: the default precision there.
    """

    amx: bool
    avx512_bf16: bool
    onednn: str
    pytorch: str
    precision: str

    @property
    def can_be_simulated(self) -> bool:
        """Instructions can be hidden, but not added."""
        amx, avx512_bf16 = torch.cpu._is_amx_tile_supported, torch.cpu._is_avx512_bf16_supported
        return self.amx <= amx() and self.avx512_bf16 <= avx512_bf16()


PROCESSORS = {
    "without bfloat16": Processor(False, False, "AVX2", "avx2", "fp32"),
    "AVX-512 BF16 without AMX": Processor(False, True, "AVX512_CORE_BF16", "avx512", "bf16"),
    "AMX": Processor(True, True, "DEFAULT", "avx512", "bf16"),
}


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_an_edit_works_in_the_default_precision(tiny: Path, processor: Processor) -> None:
    if not processor.can_be_simulated:
        pytest.skip("this processor has no such instructions")
    limits = {"ONEDNN_MAX_CPU_ISA": processor.onednn, "ATEN_CPU_CAPABILITY": processor.pytorch}
    features = json.dumps([processor.amx, processor.avx512_bf16])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny), features],
        env=os.environ | limits,
        text=True,
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    description, size = json.loads(done.stdout.splitlines()[-1])
    assert f", {processor.precision}" in description
    own_kernels = HAS_COMPILER and processor.avx512_bf16 and not processor.amx
    assert ("own kernels: attention and convolution" in description) == own_kernels
    assert size == [64, 64]
