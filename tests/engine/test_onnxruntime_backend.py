"""The ONNX Runtime backend: which files it refuses, and how it uses the caller's tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.backends.onnxruntime.networks import OnnxNetworks
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.netspec import Precision
from tests.engine.compiled import TOKENS, entry, manifest, only, spec
from tests.engine.onnx_text import FILE, WEIGHT, ids, text


def test_inputs_and_outputs_are_used_without_a_copy(tmp_path: Path) -> None:
    backend = text(tmp_path)
    batch = {"input_ids": ids()}
    first = only(backend(batch))
    assert torch.equal(first, ids()[..., None] * WEIGHT)
    batch["input_ids"].zero_()
    assert only(backend(batch)).data_ptr() == first.data_ptr()
    assert torch.equal(first, torch.zeros(2, TOKENS, 3))


def test_other_tensors_are_bound_again(tmp_path: Path) -> None:
    backend = text(tmp_path)
    backend({"input_ids": ids()})
    assert torch.equal(only(backend({"input_ids": ids() + 1})), (ids() + 1)[..., None] * WEIGHT)
    assert torch.equal(only(backend({"input_ids": ids(4)})), ids(4)[..., None] * WEIGHT)


def test_inputs_of_another_size_or_type_are_refused(tmp_path: Path) -> None:
    backend = text(tmp_path)
    with pytest.raises(ValueError, match="batches of"):
        backend({"input_ids": ids(3)})
    with pytest.raises(ValueError, match=r"text\.input_ids must be a contiguous int64"):
        backend({"input_ids": ids().int()})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fp32_and_fp16_run_on_a_cpu(tmp_path: Path, precision: Precision) -> None:
    backend = text(tmp_path, precision=precision)
    assert backend.spec.precision == precision
    assert torch.equal(only(backend({"input_ids": ids()})), ids()[..., None] * WEIGHT)


def test_bf16_on_a_cpu_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"no bf16 kernels .*--precision fp32"):
        text(tmp_path, precision="bf16")


def test_external_weights_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHT.numpy().tobytes())
    backend = text(tmp_path, location="w.data", data="w.data")
    assert torch.equal(only(backend({"input_ids": ids()})), ids()[..., None] * WEIGHT)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("location", ["../w.data", "ABSOLUTE", "w.data", "sub/w.data", "./w.data"])
def test_external_weights_outside_the_manifest_are_refused(
    tmp_path: Path, location: str, nested: bool
) -> None:
    """Even if the file exists and has the right content: the manifest does not list it."""
    folder = tmp_path / "engines"
    (folder / "sub").mkdir(parents=True)
    for parent in (tmp_path, folder, folder / "sub"):
        (parent / "w.data").write_bytes(WEIGHT.numpy().tobytes())
    path = location.replace("ABSOLUTE", str(tmp_path / "w.data"))
    with pytest.raises(EngineMismatch, match=r"which its manifest does not list"):
        text(folder, location=path, nested=nested)


def test_a_manifest_cannot_list_a_file_outside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    (tmp_path / "w.data").write_bytes(WEIGHT.numpy().tobytes())
    with pytest.raises(EngineMismatch, match="not a plain file name"):
        text(folder, location="../w.data", data="../w.data")


def test_a_changed_file_is_not_loaded(tmp_path: Path) -> None:
    text(tmp_path)
    networks = OnnxNetworks.open(tmp_path)
    changed = bytearray((tmp_path / FILE).read_bytes())
    changed[-1] ^= 1
    (tmp_path / FILE).write_bytes(changed)
    with pytest.raises(EngineMismatch, match="was changed since it was built"):
        networks.find("text", (TOKENS,))
    (tmp_path / FILE).write_bytes(changed[:-9])
    with pytest.raises(EngineMismatch, match="is truncated"):
        networks.find("text", (TOKENS,))


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    manifest(tmp_path, [entry(tmp_path, spec("text"), content=b"\xff\xff not a network")])
    with pytest.raises(EngineMismatch, match="is not an ONNX file"):
        OnnxNetworks.open(tmp_path).find("text", (TOKENS,))


def test_outputs_must_match_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"output 'embedding' of .* is missing"):
        text(tmp_path, output="states")


def test_a_session_is_loaded_at_its_first_use(tmp_path: Path) -> None:
    text(tmp_path)
    networks = OnnxNetworks.open(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(EngineMismatch, match="is missing"):
        networks.find("text", (TOKENS,))


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    text(tmp_path)
    with pytest.raises(EngineMismatch, match="not finished"):
        OnnxNetworks.open(tmp_path, digests={})


def test_engines_of_another_model_are_refused(onnx_folder: Path, tiny: Path, tiny_v: Path) -> None:
    digests = {p: Checkpoint.open(tiny).digest(p) for p in ("unet", "vae", "text_encoder")}
    networks = OnnxNetworks.open(onnx_folder, digests=digests)
    assert networks.sizes == ((64, 96),)
    assert networks.describe().endswith("threads, fp32")
    other = {"unet": Checkpoint.open(tiny_v).digest("unet")}
    with pytest.raises(EngineMismatch, match="whose unet differs"):
        OnnxNetworks.open(onnx_folder, digests=other)
