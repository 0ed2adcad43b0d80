"""Text encoders that are loaded only while they run, and the precision of single parts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffedit import DiffEditPipeline
from diffedit.checks import InvalidRequest
from diffedit.dtypes import check_parts, checked_dtype, split
from engine.backends.torch.networks import TorchNetworks
from engine.backends.torch.parts import Parts
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch, ResourceError
from tests.shared import Folders

TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
OPTIONS: dict[str, Any] = {
    "preset": "paper",
    "num_inference_steps": 3,
    "num_maps_per_mask": 2,
    "mask_thresholding_ratio": 1.0,
    "guidance_scale": 3.0,
}


@pytest.fixture(scope="module")
def sd3(folders: Folders) -> Path:
    return folders("tiny-sd3")


@pytest.fixture(scope="module")
def offloaded(sd3: Path) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline.from_pretrained(
        sd3, dtype="fp32", device="cpu", size=(64, 64), offload_text=True, pin_batch_size=1
    ) as pipe:
        yield pipe


def loaded(pipe: DiffEditPipeline) -> set[str]:
    networks = pipe.networks
    assert isinstance(networks, TorchNetworks)
    return {name for name in networks.modules if name.startswith("text_encoder")}


def loads(pipe: DiffEditPipeline) -> int:
    networks = pipe.networks
    assert isinstance(networks, TorchNetworks)
    return networks.parts.loads


def test_an_edit_is_equal_and_leaves_no_text_encoder(
    sd3: Path, offloaded: DiffEditPipeline, photo: Image.Image
) -> None:
    assert loaded(offloaded) == set()  # nothing is loaded before the first text
    offloaded.cache_clear()
    before = loads(offloaded)
    result = offloaded(photo, "a blue ball", "a red ball", "grass", **OPTIONS)
    assert loaded(offloaded) == set()
    assert loads(offloaded) == before + 3  # one load each, although four texts were encoded
    with DiffEditPipeline.from_pretrained(
        sd3, dtype="fp32", device="cpu", size=(64, 64), pin_batch_size=1
    ) as pipe:
        assert loaded(pipe) == set(TEXTS)
        plain = pipe(photo, "a blue ball", "a red ball", "grass", **OPTIONS)
    np.testing.assert_array_equal(result.latents, plain.latents)
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(plain.image))


def test_known_texts_load_nothing(offloaded: DiffEditPipeline, photo: Image.Image) -> None:
    offloaded(photo, "a green ball", "a red ball", **OPTIONS)
    before = loads(offloaded)
    offloaded(photo, "a green ball", "a red ball", seed=5, **OPTIONS)
    assert loads(offloaded) == before


def test_edits_at_the_same_time_are_equal_to_edits_alone(
    offloaded: DiffEditPipeline, photo: Image.Image
) -> None:
    """New texts arrive while other edits run the denoiser: encoders come and go between calls."""
    words = ("blue", "green", "white", "black", "pink", "orange")
    offloaded.cache_clear()

    def edit(word: str) -> Any:
        return offloaded(photo, f"a {word} ball", "a red ball", **OPTIONS).latents

    with ThreadPoolExecutor(len(words)) as pool:
        together = list(pool.map(edit, words))
    assert loaded(offloaded) == set()
    for word, latents in zip(words, together, strict=True):
        offloaded.cache_clear()
        np.testing.assert_array_equal(edit(word), latents)


def test_at_most_one_offloaded_part_is_loaded() -> None:
    made: list[str] = []

    def load(part: str) -> torch.nn.Module:
        made.append(part)
        return torch.nn.Linear(2, 2)

    stays = torch.nn.Linear(2, 2)
    parts = Parts({"vae": stays}, torch.device("cpu"), ("a", "b"), load)
    first = parts.use("a")
    assert parts.use("a") is first
    assert set(parts.modules) == {"vae", "a"}
    parts.use("b")
    assert set(parts.modules) == {"vae", "b"}
    assert parts.use("vae") is stays
    assert set(parts.modules) == {"vae"}
    assert made == ["a", "b"]
    parts.use("a")
    assert made == ["a", "b", "a"]


def test_a_part_that_cannot_be_loaded_is_tried_again() -> None:
    answers: list[Any] = [ResourceError("no memory"), torch.nn.Linear(1, 1)]

    def load(part: str) -> torch.nn.Module:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    parts = Parts({}, torch.device("cpu"), ("a",), load)
    with pytest.raises(ResourceError):
        parts.use("a")
    assert parts.modules == {}
    assert isinstance(parts.use("a"), torch.nn.Linear)


def test_a_gpu_gets_copies_and_the_host_keeps_the_weights() -> None:
    """The meta device stands for a GPU here: it is another one than the host's."""
    host = torch.nn.Sequential(
        torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3)
    )
    host[2].weight = host[0].weight
    made: list[str] = []

    def load(part: str) -> torch.nn.Module:
        made.append(part)
        return host

    parts = Parts({}, torch.device("meta"), ("a", "b"), load)
    for _ in range(2):
        module: Any = parts.use("a")
        assert {t.device.type for t in module.state_dict().values()} == {"meta"}
        assert module[2].weight is module[0].weight
        assert not any(p.requires_grad for p in module.parameters())
        parts.use("b")
    assert made == ["a", "b"]  # later uses copy again, but read no file
    assert {t.device.type for t in host.state_dict().values()} == {"cpu"}


def test_a_part_runs_in_its_own_precision(sd3: Path, photo: Image.Image) -> None:
    dtype = "fp32,text_encoder_3=bf16"
    with DiffEditPipeline.from_pretrained(sd3, dtype=dtype, device="cpu", size=(64, 64)) as pipe:
        networks = pipe.networks
        assert isinstance(networks, TorchNetworks)
        found = {name: next(m.parameters()).dtype for name, m in networks.modules.items()}
        assert found.pop("text_encoder_3") == torch.bfloat16
        assert set(found.values()) == {torch.float32}
        assert pipe.provenance.precision == "fp32 with text_encoder_3 in bf16"
        assert np.isfinite(pipe(photo, "a blue ball", "a red ball", **OPTIONS).latents).all()


@pytest.mark.parametrize(
    ("value", "main", "own"),
    [
        ("bf16", "bf16", {}),
        (torch.bfloat16, None, "called 'bf16' here"),
        ("fp16,text_encoder_3=bf16", "fp16", {"text_encoder_3": "bf16"}),
        ("text_encoder_3 = bf16 , vae=fp32", None, {"text_encoder_3": "bf16", "vae": "fp32"}),
        ({"default": "fp16", "vae": "fp32"}, "fp16", {"vae": "fp32"}),
        ("fp16,bf16", None, "pass one precision"),
        ("vae=fp32,vae=fp16", None, "pass one precision"),
        ("=fp32", None, "pass one precision"),
        ("vae=int8", None, "int8"),
        ("fp16,", None, "pass one precision"),
        ({}, None, "empty"),
    ],
)
def test_dtypes_in_every_form(value: Any, main: Any, own: Any) -> None:
    if isinstance(own, str):
        with pytest.raises(InvalidRequest, match=own):
            checked_dtype(value)
    else:
        assert split(checked_dtype(value)) == (main, own)


def test_unknown_parts_and_engines_are_refused(sd3: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"'text_encoder_4'.*its parts are text_encoder, "):
        DiffEditPipeline.from_pretrained(sd3, dtype="text_encoder_4=bf16")
    check_parts(Checkpoint.open(sd3), {"vae": "fp32", "default": "bf16"})
    for options in ({"offload_text": True}, {"dtype": "vae=fp32"}):
        with pytest.raises(EngineMismatch, match="is for the torch backend, not for ONNX Runtime"):
            DiffEditPipeline.from_pretrained(
                sd3, backend="onnxruntime", engines="nowhere", **options
            )


def test_weights_that_cannot_fit_are_refused_before_they_are_loaded(
    sd3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(sd3)
    need = {p.name: 4 * checkpoint.parameters(p.name) for p in checkpoint.family.parts}
    every = sum(need.values())
    less = every - sum(sorted(need[part] for part in TEXTS)[:-1])
    options: dict[str, Any] = {"dtype": "fp32", "device": "cpu"}

    def free(size: int) -> None:
        monkeypatch.setattr("engine.backends.torch.weights.available", lambda: size)

    free(every - 1)
    with monkeypatch.context() as patched:
        patched.setattr("engine.backends.torch.weights.load_module", None)
        with pytest.raises(ResourceError, match=r"MB of memory.*--offload-text.*--ignore-memory"):
            TorchNetworks.open(checkpoint, **options)
    TorchNetworks.open(checkpoint, ignore_memory=True, **options).close()
    TorchNetworks.open(checkpoint, offload_text=True, **options).close()
    free(less - 1)
    with pytest.raises(ResourceError, match="MB free"):
        TorchNetworks.open(checkpoint, offload_text=True, **options)
    free(every)
    TorchNetworks.open(checkpoint, **options).close()
