"""What a result was made with: recorded, read again, and compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from diffedit import DiffEditPipeline
from diffedit.provenance import Fused, Provenance
from engine.backends.fake import FakeNetworks
from engine.checkpoint import Checkpoint
from engine.fingerprint import fingerprint, model_name

STYLE, LIGHT = Fused("style.safetensors", "a" * 64, 0.8), Fused("light.safetensors", "b" * 64, 1)
BEFORE = Provenance(
    version="0.1.0",
    model="demo/model",
    weights="c" * 64,
    backend="torch",
    precision="bf16",
    description="torch 2.13.0 on cpu, 2 threads, bf16",
    kernels=("attention",),
    loras=(STYLE, LIGHT),
    embeddings=(LIGHT,),
)


def test_equal_provenances_have_no_differences() -> None:
    assert BEFORE.differences(BEFORE) == []
    moved = replace(BEFORE, loras=(LIGHT, replace(STYLE, name="renamed.safetensors")))
    assert BEFORE.differences(moved) == []
    assert BEFORE.differences(replace(BEFORE, model="copy/of-it")) == []


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"weights": "d"}, ["the weights of demo/model have changed"]),
        ({"weights": "d", "model": "sd15"}, ["the model is sd15, not demo/model"]),
        ({"backend": "tensorrt"}, ["the backend is tensorrt, not torch"]),
        ({"precision": "fp32"}, ["the precision is fp32, not bf16"]),
        ({"kernels": ()}, ["the CPU kernels are PyTorch's, not our own for attention"]),
        ({"version": "0.2.0"}, ["this is diffedit-trt 0.2.0, not 0.1.0"]),
        ({"loras": (LIGHT,)}, ["the LoRA style.safetensors (at 0.8) is missing"]),
        ({"embeddings": ()}, ["the embedding light.safetensors (at 1) is missing"]),
        (
            {"loras": (STYLE, LIGHT, Fused("new", "e", 2))},
            ["the LoRA new (at 2) is added"],
        ),
        (
            {"loras": (replace(STYLE, scale=0.5), LIGHT)},
            ["the LoRA style.safetensors is at 0.5, not 0.8"],
        ),
        (
            {"loras": (replace(STYLE, sha256="f"), LIGHT)},
            [
                "the LoRA style.safetensors (at 0.8) is missing",
                "the LoRA style.safetensors (at 0.8) is added",
            ],
        ),
        (
            {"description": "torch 2.13.0 on cpu, 1 threads, bf16"},
            ["this is torch 2.13.0 on cpu, 1 threads, bf16, not torch 2.13.0 on cpu, 2 threads"],
        ),
        (
            {"backend": "onnxruntime", "precision": "fp16", "kernels": (), "loras": ()},
            ["style", "light", "the backend", "the precision", "the CPU kernels"],
        ),
    ],
)
def test_every_difference_is_named(now: dict[str, Any], words: list[str]) -> None:
    found = BEFORE.differences(replace(BEFORE, **now))
    assert len(found) == len(words)
    assert all(word in clause for word, clause in zip(words, found, strict=True)), found


def test_it_is_read_as_it_was_written() -> None:
    assert Provenance.from_json(json.loads(json.dumps(asdict(BEFORE)))) == BEFORE


@pytest.mark.parametrize(
    "bad",
    [{"model": 3}, {"kernels": [1]}, {"loras": [{}]}, {"loras": 5}, {"embeddings": None}, None],
)
def test_damaged_provenances_are_refused(bad: dict[str, Any] | None) -> None:
    values: Any = {**json.loads(json.dumps(asdict(BEFORE))), **bad} if bad else "text"
    with pytest.raises((TypeError, KeyError, ValueError)):
        Provenance.from_json(values)


def scale_a_tensor(folder: Path) -> None:
    (file,) = (folder / "unet").glob("*.safetensors")
    state = load_file(file)
    state["mid_block.resnets.0.conv1.weight"] *= 1.01
    save_file(state, file)


def rename_a_tensor(folder: Path) -> None:
    (file,) = (folder / "vae").glob("*.safetensors")
    state = load_file(file)
    state["other"] = state.pop("encoder.conv_in.bias")
    save_file(state, file)


def change_json(part: str, name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


@pytest.mark.parametrize(
    "change",
    [
        scale_a_tensor,
        rename_a_tensor,
        change_json("scheduler", "scheduler_config.json", beta_end=0.013),
        change_json("text_encoder", "config.json", hidden_act="gelu"),
        change_json("tokenizer", "tokenizer_config.json", do_lower_case=False),
    ],
    ids=["a tensor", "a name", "the scheduler", "a config", "the tokenizer"],
)
def test_fingerprints_tell_models_apart(
    change: Callable[[Path], None], tiny: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    own = fingerprint(Checkpoint.open(tiny))
    assert len(own) == 64 and fingerprint(Checkpoint.open(copy)) == own
    change(copy)
    assert fingerprint(Checkpoint.open(copy)) != own


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/data/demo/model", "demo/model"),
        ("/home/anna/sd15", "sd15"),
        ("/Users/anna/sd15", "sd15"),
        ("/sd15", "sd15"),
        ("/home/anna/models/sd15", "models/sd15"),
        ("/c/hub/models--owner--sd-1--5/snapshots/0123abc", "owner/sd-1/5"),
        ("/c/hub/models--gpt2/snapshots/0123abc", "gpt2"),
    ],
)
def test_names_of_models_hold_no_private_folders(folder: str, name: str) -> None:
    assert model_name(Path(folder)) == name


def test_a_result_states_what_it_was_made_with(tiny: Path, photo: Image.Image) -> None:
    with DiffEditPipeline.from_pretrained(tiny, device="cpu", dtype="bf16") as pipe:
        result = pipe(photo, "a blue ball", num_inference_steps=1, method="sdedit")
        found = result.provenance
        assert found is not None and found == pipe.provenance
        assert (found.backend, found.precision) == ("torch", "bf16")
        assert found.weights == fingerprint(Checkpoint.open(tiny))
        own_kernels = "own kernels" in pipe.describe()
        assert found.kernels == (("attention", "convolution") if own_kernels else ())
        assert found.model == f"{tiny.parent.name}/{tiny.name}"
    with DiffEditPipeline(Checkpoint.open(tiny), FakeNetworks(factor=4)) as fake:
        assert fake.provenance.backend == "fake"
