"""Which backend a pipeline takes, and what it refuses to open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffedit import CheckpointError, DiffEditPipeline, EngineMismatch, InvalidRequest


def test_auto_says_what_it_took_and_why(pipe: DiffEditPipeline, tiny: Path) -> None:
    with DiffEditPipeline.from_pretrained(tiny, device="cpu") as chosen:
        assert chosen.networks.name == "torch"
        assert "torch" in chosen.describe() and "no engines folder" in chosen.describe()


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_compiled_backends_want_engines(tiny: Path, backend: Any) -> None:
    with pytest.raises(EngineMismatch, match="diffedit-trt build"):
        DiffEditPipeline.from_pretrained(tiny, backend=backend)


def test_unknown_backends_devices_and_dtypes_are_named(tiny: Path) -> None:
    with pytest.raises(InvalidRequest, match="openvino"):
        DiffEditPipeline.from_pretrained(tiny, backend="openvino")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="tpu9"):
        DiffEditPipeline.from_pretrained(tiny, backend="torch", device="tpu9")
    with pytest.raises(InvalidRequest, match="pin_batch_size is 0"):
        DiffEditPipeline.from_pretrained(tiny, pin_batch_size=0)
    with pytest.raises(InvalidRequest, match="int8"):
        DiffEditPipeline.from_pretrained(tiny, backend="torch", dtype="int8")


def test_a_missing_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model folder"):
        DiffEditPipeline.from_pretrained(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        DiffEditPipeline.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="hub"):
        DiffEditPipeline.from_pretrained("someone/some-model", local_files_only=True)
