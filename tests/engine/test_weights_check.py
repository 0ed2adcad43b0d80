"""Weight files that do not fit the configs are refused from their headers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from engine.loader import load_module
from engine.weights_check import check_weights
from tests.engine.checkpoints import Change, Weights, both, config, data, weight_file, weights

MOVED = [f"mid_block.attentions.0.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")]
OLD = [f"mid_block.attentions.0.{n}" for n in ("query", "key", "value", "proj_attn")]


def checked(folder: Path) -> Checkpoint:
    checkpoint = find_checkpoint(folder)
    check_weights(checkpoint)
    return checkpoint


def drop(part: str, word: str) -> Change:
    return weights(part, lambda s: {k: v for k, v in s.items() if word not in k})


def add(part: str, name: str, tensor: Tensor) -> Change:
    return weights(part, lambda s: {**s, name: tensor})


def cast(part: str, dtype: torch.dtype) -> Change:
    return weights(part, lambda s: {k: v.to(dtype) for k, v in s.items()})


def reshaped(name: str, shape: tuple[int, ...]) -> Change:
    return weights("unet", lambda s: {**s, name: torch.zeros(shape)})


def swap_unet_and_vae(folder: Path) -> None:
    unet, vae = weight_file(folder, "unet"), weight_file(folder, "vae")
    unet.rename(folder / "other")
    vae.rename(unet)
    (folder / "other").rename(vae)


REFUSED: dict[str, tuple[Change, str]] = {
    "no second layer": (drop("text_encoder", "layers.1."), "text_encoder lack 16 tensors"),
    "no norm": (
        drop("text_encoder", "final_layer_norm"),
        "lack 2 tensors",
    ),
    "no decoder": (drop("vae", "decoder"), "vae lack"),
    "one bias": (drop("unet", "conv_out.bias"), r"unet lack 1 tensors \(conv_out.bias\)"),
    "two more": (add("unet", "adapter.weight", torch.zeros(2)), r"have 1 tensors \(adapter.weight"),
    "SDXL's": (
        add("unet", "add_embedding.linear_1.weight", torch.zeros(2)),
        "add_embedding.linear_1.weight",
    ),
    "a vision tower": (
        add("text_encoder", "vision_model.embeddings.class_embedding", torch.zeros(2)),
        "vision_model",
    ),
    "another prefix": (
        weights("unet", lambda s: {f"module.{k}": v for k, v in s.items()}),
        "lack .* and have",
    ),
    "swapped parts": (swap_unet_and_vae, "vae lack"),
    "more layers in the config": (config("text_encoder", num_hidden_layers=3), "layers.2."),
    "more channels in the config": (
        config("unet", block_out_channels=[32, 128]),
        r"shape .* instead of",
    ),
    "a transposed weight": (reshaped("conv_in.weight", (4, 32, 3, 3)), r"\[4, 32, 3, 3\] instead"),
    "an empty tensor": (reshaped("conv_in.bias", (0,)), r"\[0\] instead of \[32\]"),
    "a scalar": (reshaped("conv_in.bias", ()), r"shape \[\] instead"),
    "whole numbers": (cast("vae", torch.int8), "stored as I8"),
    "fp8 with scales": (
        both(cast("unet", torch.float8_e4m3fn), add("unet", "conv_in.scale", torch.ones(()))),
        "conv_in.scale",
    ),
    "an unknown block": (config("unet", down_block_types=["A", "B"]), "does not describe a UNet2D"),
    "an unknown activation": (
        config("text_encoder", hidden_act="swoosh"),
        "not describe a CLIP",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit(case: str, tiny: Path, tmp_path: Path) -> None:
    change, words = REFUSED[case]
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        checked(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def old_attention(folder: Path) -> None:
    """The VAE's attention as diffusers named it until 0.18."""

    def rename(state: Weights) -> Weights:
        renamed = {}
        for name, tensor in state.items():
            for new, old in zip(MOVED, OLD, strict=True):
                name = name.replace(new, old)
            renamed[name] = tensor
        assert renamed.keys() != state.keys()
        return renamed

    weights("vae", rename)(folder)


FITTING: dict[str, Change] = {
    "position ids": add(
        "text_encoder", "text_model.embeddings.position_ids", torch.arange(77).expand(1, -1)
    ),
    "CLIP's projection": add("text_encoder", "text_projection.weight", torch.zeros(32, 32)),
    "names without a level": weights(
        "text_encoder", lambda s: {k.removeprefix("text_model."): v for k, v in s.items()}
    ),
    "old attention names": old_attention,
    "bf16": cast("unet", torch.bfloat16),
    "fp8": cast("unet", torch.float8_e4m3fn),
    "fp64": cast("vae", torch.float64),
}


@pytest.mark.parametrize("case", FITTING)
def test_weights_that_fit_are_loaded_as_they_are(case: str, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    FITTING[case](folder)
    checkpoint = checked(folder)
    plain = Checkpoint.open(tiny)
    for part in checkpoint.family.parts:
        found = load_module(checkpoint, part.name, torch.float32).state_dict()
        stored = {t["dtype"] for t in checkpoint.header(part.name).values()}
        narrow = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}
        dtype = next((narrow[name] for name in stored if name in narrow), torch.float32)
        for name, tensor in load_module(plain, part.name, torch.float32).state_dict().items():
            assert torch.equal(found[name], tensor.to(dtype).float()), name


def test_a_config_with_fewer_layers_is_clip_skip(tiny: Path, tmp_path: Path) -> None:
    """The text encoder then ends earlier; nothing else may be left over."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    config("text_encoder", num_hidden_layers=1)(folder)
    checkpoint = checked(folder)
    assert len(load_module(checkpoint, "text_encoder", torch.float32).encoder.layers) == 1  # type: ignore[union-attr, arg-type]
    drop("text_encoder", "layers.0.")(folder)
    with pytest.raises(CheckpointError, match="lack 16 tensors"):
        checked(folder)


def test_the_backend_refuses_before_it_loads(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    drop("unet", "conv_out.bias")(folder)  # the last part
    loaded: list[str] = []
    monkeypatch.setattr("engine.backends.torch.weights.load_module", lambda *a: loaded.append(a[1]))
    with pytest.raises(CheckpointError, match="unet lack 1 tensors"):
        TorchNetworks.open(Checkpoint.open(folder), device="cpu")
    assert loaded == []


def raw_file(header: object, length: int) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(length)


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "a pickle": (b"PK\x03\x04" + bytes(100), "is a pickle"),
    "GGUF": (b"GGUF" + bytes(100), "is a GGUF file"),
    "a web page": (b"<!DOCTYPE html><html>" + bytes(100), "is a web page"),
    "a long header": ((2**30).to_bytes(8, "little") + b"{}", "truncated or not a safetensors"),
    "noise": (b"\xff" * 100, "truncated or not a safetensors file"),
    "no tensors": (raw_file({"__metadata__": {"format": "pt"}}, 0), "has no tensors"),
    "cut": (raw_file({"a": TENSOR}, 7), r"truncated \(7 of 8 bytes of weights\)"),
    "bytes behind": (raw_file({"a": TENSOR}, 72), "64 bytes after its last tensor"),
    "overlapping": (raw_file({"a": TENSOR, "b": TENSOR}, 8), "overlap or leave gaps"),
    "a gap": (raw_file({"a": {**TENSOR, "data_offsets": [8, 16]}}, 16), "overlap or leave gaps"),
    "another size": (raw_file({"a": {**TENSOR, "shape": [3]}}, 8), "the size of its shape"),
    "a list": (raw_file([1, 2], 8), "not a safetensors file"),
    "no places": (raw_file({"a": {"dtype": "F32", "shape": [2]}}, 8), "not a safetensors file"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_safetensors_file(case: str, tiny: Path, tmp_path: Path) -> None:
    content, words = FILES[case]
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    data("unet/diffusion_pytorch_model.safetensors", content)(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        find_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_the_check_reads_no_weights(tiny: Path, tmp_path: Path) -> None:
    """A file of 8 GB, of which only the header is written, is refused in a moment."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    file = weight_file(folder, "unet")
    state = {name: list(t.shape) for name, t in load_file(file).items()}
    state["conv_in.weight"] = [2**31]
    header, end = {}, 0
    for name, shape in state.items():
        size = 4 * int(torch.tensor(shape).prod())
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    file.write_bytes(raw_file(header, 0))
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size + end)  # a sparse file
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"conv_in.weight has the shape \[2147483648\]"):
        checked(folder)
    assert time.perf_counter() - start < 5


def test_twice_the_same_tensor(tiny: Path, tmp_path: Path) -> None:
    """In two shards: which one would be loaded depends on their order."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    single = weight_file(folder, "unet")
    state = load_file(single)
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    save_file(state, single.with_name(names[0]))
    save_file({"conv_out.bias": state["conv_out.bias"]}, single.with_name(names[1]))
    listed = {"metadata": {}, "weight_map": dict.fromkeys(state, names[0])}
    listed["weight_map"]["conv_out.bias"] = names[1]
    data("unet/diffusion_pytorch_model.safetensors.index.json", json.dumps(listed))(folder)
    with pytest.raises(CheckpointError, match=r"has conv_out.bias, which another shard"):
        find_checkpoint(folder)
