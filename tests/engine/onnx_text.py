"""The one-layer text encoder on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from engine.backends.onnxruntime.networks import OnnxBackend, OnnxNetworks
from tests.engine.compiled import TOKENS, entry, manifest, text_onnx

FILE = "text-5.onnx"
CPU = torch.device("cpu")
WEIGHT = torch.tensor([1.0, 2.0, 3.0])


def text(folder: Path, **options: object) -> OnnxBackend:
    """The backend of the one-layer text encoder, after writing it into `folder`."""
    data = options.pop("data", None)
    assert data is None or isinstance(data, str)
    net = text_onnx(folder / FILE, **options)  # type: ignore[arg-type]
    manifest(folder, [entry(folder, net, content=None, data=data)])
    return OnnxNetworks.open(folder).find("text", (TOKENS,))


def ids(rows: int = 2) -> Tensor:
    return torch.arange(rows * TOKENS).reshape(rows, TOKENS)
