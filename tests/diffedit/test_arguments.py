"""Wrong arguments of the Python API: an error that names the argument, before a model is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest, InvalidRequest
from diffedit.arguments import CHECKS
from engine.backends.fake import FakeNetworks
from engine.checkpoint import Checkpoint

NAN, INF = float("nan"), float("inf")

FLAGS = ("allow_tf32", "compile", "local_files_only", "warm")
PATHS = ("model", "engines", "cache_dir")
NO_FLAGS: list[object] = [None, 1, "yes", []]
NO_PATHS: list[object] = ["", "  ", 7, b"x", 1.5, [], "a\0b", "\ud800", "x" * 5000]
NO_PATHS.append("~nobody-of-this-name/x")
NO_COUNTS: list[object] = [0, -1, True, "8", 2.0, None, NAN, 10**30]

MODEL_ARGUMENTS: list[tuple[str, object, str]] = [
    *((name, value, f"{name} is") for name in FLAGS for value in NO_FLAGS),
    *((name, value, f"{name} is") for name in PATHS for value in NO_PATHS),
    ("model", None, "a model folder, or a hub id"),
    ("backend", None, "no backend None; use one of auto, torch"),
    ("backend", "Torch", "did you mean 'torch'"),
    ("backend", "openvino", "no backend 'openvino'"),
    ("backend", 3, "no backend 3"),
    ("device", "mps", "only CPUs and NVIDIA GPUs"),
    ("device", "xpu", "no device 'xpu'"),
    ("device", "gpu", "use cpu, cuda or cuda:N"),
    ("device", "meta", "no device 'meta'"),
    ("device", "cuda:-1", "no device 'cuda:-1'"),
    ("device", "cuda:x", "no device 'cuda:x'"),
    ("device", "cuda:" + "9" * 5000, "no device"),
    ("device", "cuda:9999", "device is cuda:9999, but"),
    ("device", torch.device("mps"), "no device 'mps'"),
    ("device", torch.device("cuda", 99), "device is cuda:99, but"),
    ("device", 0, "no device 0"),
    ("device", "", "no device ''"),
    ("device", "cpu ", "no device 'cpu '"),
    ("dtype", "fp8", "no dtype 'fp8'"),
    ("dtype", "float16", "called 'fp16' here"),
    ("dtype", torch.bfloat16, "called 'bf16' here"),
    ("dtype", torch.int8, "no dtype 'int8'"),
    ("dtype", 16, "no dtype 16"),
    ("size", 64, "(for a square: (64, 64))"),
    ("size", "64x64", "size is '64x64', but must be (height, width)"),
    ("size", (64,), "size is (64,)"),
    ("size", (64, 64, 3), "size is (64, 64, 3)"),
    ("size", (0, 64), "size is (0, 64)"),
    ("size", (-64, 64), "a whole number from 1 to 8192"),
    ("size", (64.0, 64.0), "size is (64.0, 64.0)"),
    ("size", (True, True), "size is (True, True)"),
    ("size", ("64", "64"), "size is"),
    ("size", (10**9, 64), "size is"),
    ("size", {64: 64}, "size is"),
    ("size", (NAN, INF), "size is"),
    ("pin_batch_size", 0, "pin_batch_size is 0"),
    ("pin_batch_size", True, "pin_batch_size is True"),
    ("pin_batch_size", "8", "pin_batch_size is '8'"),
    ("pin_batch_size", 2.0, "pin_batch_size is 2.0"),
    ("pin_batch_size", 10**9, "from 1 to 256"),
    ("revision", 5, "revision is 5"),
    ("revision", "", "revision is blank"),
    ("revision", "a\0b", "contains a NUL"),
    ("variant", "../fp16", "a part of a file name"),
    ("variant", "*", "variant is '*'"),
    ("variant", b"fp16", "variant is b'fp16'"),
    ("variant", "", "variant is blank"),
    ("torch_dtype", torch.float16, "it is called 'dtype' here"),
    ("device_map", "auto", "it is called 'device' here"),
    ("safety_checker", None, "no safety checker is loaded"),
    ("use_safetensors", True, "only safetensors are loaded"),
    ("bakend", "torch", "did you mean 'backend'"),
    ("local_file_only", True, "did you mean 'local_files_only'"),
]


def refused(call: Callable[[], object], words: str) -> None:
    """The call raises InvalidRequest with these words, and its message is one short sentence."""
    with pytest.raises(InvalidRequest, match=re.escape(words)) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.endswith((".", "?"))


@pytest.mark.parametrize(("name", "value", "words"), MODEL_ARGUMENTS, ids=lambda v: repr(v)[:30])
def test_opening_a_model(name: str, value: object, words: str, tmp_path: Path) -> None:
    """The folder has no model, so the argument is refused before a model is looked for."""
    arguments: dict[str, Any] = {"model": tmp_path, name: value}
    refused(lambda: DiffEditPipeline.from_pretrained(**arguments), words)


def test_engines_that_are_a_file(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text("{}")
    refused(lambda: DiffEditPipeline.from_pretrained(tmp_path, engines=file), "is a file; pass its")


def test_a_model_is_needed() -> None:
    call: Any = DiffEditPipeline.from_pretrained
    refused(lambda: call(), "from_pretrained: missing a required argument: 'model'")
    refused(lambda: call("a", "torch"), "too many positional arguments")


def test_an_impossible_size_is_refused_before_the_weights_are_read(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffedit.pipeline.open_backend", lambda *_, **__: pytest.fail("loaded"))
    refused(lambda: DiffEditPipeline.from_pretrained(tiny, size=(30, 64)), "multiples of 4")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("size", [64, np.int64(32)], (64, 32)),
        ("size", (np.uint16(64), 32), (64, 32)),
        ("compile", np.bool_(False), False),
        ("pin_batch_size", np.int32(4), 4),
        ("device", torch.device("cpu"), "cpu"),
        ("in_flight", np.int8(3), 3),
    ],
)
def test_numpys_and_torchs_values_become_plain_ones(
    name: str, value: object, expected: object
) -> None:
    checked = CHECKS[name](value)
    assert checked == expected
    assert type(checked) is type(expected)


# -- methods --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> Iterator[Any]:
    """Typed as Any: the tests pass what a type checker would find."""
    with DiffEditPipeline(Checkpoint.open(tiny), FakeNetworks(factor=4)) as opened:
        yield opened


Wrong = Callable[[Any, Image.Image], object]
REQUEST = EditRequest(Image.new("RGB", (64, 64)), "a", num_inference_steps=2)

METHOD_ARGUMENTS: dict[str, tuple[Wrong, str]] = {
    "no image": (lambda pipe, photo: pipe(), "missing a required argument: 'image'"),
    "no prompt": (lambda pipe, photo: pipe(photo), "prompt is blank"),
    "prompt twice": (lambda pipe, photo: pipe(photo, "a", prompt="b"), "multiple values"),
    "target_prompt": (
        lambda pipe, photo: pipe(photo, target_prompt="a"),
        "'target_prompt'; it is called 'prompt' here",
    ),
    "generator": (
        lambda pipe, photo: pipe(photo, "a", generator=torch.Generator()),
        "no parameter 'generator'; it is called 'seed' here",
    ),
    "steps": (lambda pipe, photo: pipe(photo, "a", steps=3), "called 'num_inference_steps'"),
    "height": (lambda pipe, photo: pipe(photo, "a", height=64), "pass size=(height, width)"),
    "misspelt": (lambda pipe, photo: pipe(photo, "a", sed=3), "did you mean 'seed'"),
    "callback": (lambda pipe, photo: pipe(photo, "a", callback=3), "callback is 3, which cannot"),
    "image int": (lambda pipe, photo: pipe(7, "a"), "picture"),
    "image bool": (lambda pipe, photo: pipe(True, "a"), "picture"),
    "image list": (lambda pipe, photo: pipe([photo], "a"), "picture"),
    "image none": (lambda pipe, photo: pipe(None, "a"), "image is None"),
    "image empty": (lambda pipe, photo: pipe("", "a"), "picture"),
    "image NUL": (lambda pipe, photo: pipe("a\0b.png", "a"), "picture"),
    "image surrogate": (lambda pipe, photo: pipe("\ud800.png", "a"), "picture"),
    "image long": (lambda pipe, photo: pipe("x" * 300, "a"), "picture"),
    "image floats": (lambda pipe, photo: pipe(np.zeros((4, 4, 3)), "a"), "picture"),
    "image scalar": (lambda pipe, photo: pipe(np.zeros(()), "a"), "picture"),
    "image tensor": (lambda pipe, photo: pipe(torch.zeros(3, 4, 4), "a"), "picture"),
    "prompt list": (lambda pipe, photo: pipe(photo, ["a", "b"]), "prompt is ['a', 'b']"),
    "seed bool": (lambda pipe, photo: pipe(photo, "a", seed=True), "seed is True"),
    "mask int": (lambda pipe, photo: pipe(photo, "a", mask_image=3), "mask"),
    "submit dict": (lambda pipe, photo: pipe.submit({"prompt": "a"}), "must be an EditRequest"),
    "submit picture": (lambda pipe, photo: pipe.submit(photo), "request is <PIL"),
    "submit nothing": (lambda pipe, photo: pipe.submit(), "missing a required argument"),
    "submit preview": (lambda pipe, photo: pipe.submit(REQUEST, on_preview="x"), "on_preview is"),
    "submit group": (lambda pipe, photo: pipe.submit(REQUEST, group=7), "group is 7"),
    "submit mask_only": (lambda pipe, photo: pipe.submit(REQUEST, mask_only=1), "mask_only is 1"),
    "many, one": (lambda pipe, photo: pipe.edit_many(REQUEST), "put a single one in a list"),
    "many, none": (lambda pipe, photo: pipe.edit_many(None), "requests is None"),
    "many, text": (lambda pipe, photo: pipe.edit_many("abc"), "requests is 'abc'"),
    "many, dict": (lambda pipe, photo: pipe.edit_many({"a": REQUEST}), "requests is"),
    "return_errors": (
        lambda pipe, photo: pipe.edit_many([REQUEST], return_errors="yes"),
        "return_errors is 'yes'",
    ),
    "many, misspelt": (
        lambda pipe, photo: pipe.edit_many([REQUEST], inflight=2),
        "did you mean 'in_flight'",
    ),
    "many, element": (lambda pipe, photo: list(pipe.edit_many([3])), "request is 3"),
    "invert steps": (lambda pipe, photo: pipe.invert(photo, 0), "num_inference_steps is 0"),
    "invert strength": (lambda pipe, photo: pipe.invert(photo, 2, NAN), "strength is nan"),
    "invert prompt": (lambda pipe, photo: pipe.invert(photo, prompt="a"), "no argument 'prompt'"),
    "invert callback": (lambda pipe, photo: pipe.invert(photo, 2, callback="x"), "callback is 'x'"),
    "mask method": (
        lambda pipe, photo: pipe.generate_mask(photo, "a", method="x"),
        "no method 'x'",
    ),
    "mask of a method without one": (
        lambda pipe, photo: pipe.generate_mask(photo, "a", method="sdedit"),
        "no mask to find",
    ),
    "mask prompt": (lambda pipe, photo: pipe.generate_mask(photo, " "), "prompt is blank"),
    "mask maps": (
        lambda pipe, photo: pipe.generate_mask(photo, "a", num_maps_per_mask=INF),
        "num_maps_per_mask is inf",
    ),
    "mask target": (
        lambda pipe, photo: pipe.generate_mask(photo, target_prompt="a", source_prompt="b"),
        "it is called 'prompt' here",
    ),
    "request name": (lambda pipe, photo: EditRequest(photo, "a", sed=1), "did you mean 'seed'"),  # type: ignore[call-arg]
    "request prompt": (lambda pipe, photo: EditRequest(photo), "prompt is blank"),
    "request image": (lambda pipe, photo: EditRequest(), "missing a required"),  # type: ignore[call-arg]
    "request twice": (lambda pipe, photo: EditRequest(photo, "a", prompt="b"), "multiple values"),  # type: ignore[misc]
}


@pytest.mark.parametrize("case", METHOD_ARGUMENTS)
def test_methods(case: str, pipe: Any, photo: Image.Image) -> None:
    call, words = METHOD_ARGUMENTS[case]
    refused(lambda: call(pipe, photo), words)


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
def test_in_flight_is_checked_before_the_first_result(value: object, pipe: Any) -> None:
    refused(lambda: pipe.edit_many([REQUEST], in_flight=value), "in_flight is")


def test_an_element_that_is_no_request_fails_alone(pipe: Any) -> None:
    found = list(pipe.edit_many([REQUEST, "x", REQUEST], return_errors=True, in_flight=1))
    assert isinstance(found[1], InvalidRequest)
    assert not isinstance(found[0], Exception) and not isinstance(found[2], Exception)
