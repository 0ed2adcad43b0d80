"""The range of every option from both sides."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from diffedit.presets import DECIDED
from diffedit.request import (
    MAX_TEXT,
    METHODS,
    RANGES,
    EditRequest,
    InvalidRequest,
    parameters,
)
from diffedit.result import EditResult, Stats
from engine.errors import DiffEditError

NAN, INF = float("nan"), float("inf")
INVALID_NUMBERS: list[object] = [
    NAN,
    INF,
    -INF,
    "1",
    True,
    1j,
    [],
    -1,
    10**400,
    Fraction(10**400),
]
"""Values that every numeric option refuses."""


def request(**changes: Any) -> EditRequest:
    return EditRequest(**{"image": "a.png", "prompt": "a pear", **changes})


def test_defaults_and_order_match_the_documented_api() -> None:
    assert [f.name for f in fields(EditRequest)][:4] == [
        "image",
        "prompt",
        "source_prompt",
        "negative_prompt",
    ]
    assert parameters(EditRequest("a.png", "a pear")) == {
        "prompt": "a pear",
        "source_prompt": "",
        "negative_prompt": "",
        "num_inference_steps": None,
        "strength": None,
        "guidance_scale": None,
        "num_maps_per_mask": None,
        "mask_encode_strength": None,
        "mask_thresholding_ratio": None,
        "mask_dilation": 0,
        "method": "diffedit",
        "composite": True,
        "focus": None,
        "context_factor": 1.5,
        "seed": 0,
        "preset": "balanced",
        "guidance_interval": None,
        "inversion_stride": None,
        "mask_tolerance": None,
        "mask_cleaning": None,
        "mask_threshold": 0.5,
        "mask_feather": 1 / 256,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_inference_steps", 1),
        ("num_inference_steps", 1000),
        ("strength", 1),
        ("strength", 1e-9),
        ("guidance_scale", 0),
        ("guidance_scale", 100.0),
        ("num_maps_per_mask", 1),
        ("num_maps_per_mask", 64),
        ("mask_encode_strength", 1.0),
        ("mask_thresholding_ratio", 1e-3),
        ("mask_thresholding_ratio", 100),
        ("mask_dilation", 64),
        ("seed", 2**63 - 1),
        ("seed", np.int64(7)),
        ("seed", np.uint8(7)),
        ("strength", np.float32(0.5)),
        ("guidance_scale", np.int16(3)),
        ("strength", Fraction(1, 2)),
        ("composite", np.bool_(False)),
        ("prompt", "x" * MAX_TEXT),
        ("prompt", np.str_("a pear")),
        ("source_prompt", ""),
    ],
)
def test_values_in_range_are_stored_as_plain_python(name: str, value: object) -> None:
    stored = getattr(request(**{name: value}), name)
    assert stored == value
    if name in RANGES:
        assert type(stored) is (int if RANGES[name].whole else float)
    else:
        assert type(stored) is (bool if name == "composite" else str)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in RANGES for value in INVALID_NUMBERS],
        *[(name, None) for name in RANGES if name not in DECIDED],
        ("preset", None),
        ("preset", "Paper"),
        ("guidance_interval", 0.5),
        ("guidance_interval", "0,1"),
        ("guidance_interval", (0.5,)),
        ("guidance_interval", (0.5, 0.5)),
        ("guidance_interval", (0.6, 0.4)),
        ("guidance_interval", (-0.1, 1)),
        ("guidance_interval", (0, 1.1)),
        ("guidance_interval", (0, True)),
        ("guidance_interval", (0, NAN)),
        ("guidance_interval", (0, 0.5, 1)),
        ("num_inference_steps", 0),
        ("num_inference_steps", 1001),
        ("num_inference_steps", 50.0),
        ("num_inference_steps", np.float64(50)),
        ("num_inference_steps", np.array([50])),
        ("strength", 0),
        ("strength", 0.0),
        ("strength", np.nextafter(1, 2)),
        ("strength", np.bool_(True)),
        ("guidance_scale", 100.1),
        ("num_maps_per_mask", 0),
        ("num_maps_per_mask", 65),
        ("mask_encode_strength", 0),
        ("mask_encode_strength", 1.1),
        ("mask_thresholding_ratio", 0),
        ("mask_thresholding_ratio", 101),
        ("mask_dilation", 65),
        ("seed", 2**63),
        ("seed", 1.5),
        ("composite", 1),
        ("composite", None),
        ("composite", "yes"),
        ("method", "DiffEdit"),
        ("method", np.array(["sdedit"])),
        ("prompt", None),
        ("prompt", b"a pear"),
        ("prompt", ["a pear"]),
        ("source_prompt", None),
        ("negative_prompt", 3),
        ("image", None),
    ],
)
def test_values_out_of_range_are_refused_with_name_and_value(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**{name: value})
    message = str(caught.value)
    assert name in message
    assert message.endswith((".", "?"))
    assert len(message) < 400
    if isinstance(value, float):
        assert str(value) in message


@pytest.mark.parametrize("prompt", ["", " ", "\t\n", "\u3000"])
def test_a_blank_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidRequest, match="prompt is blank"):
        request(prompt=prompt)


@pytest.mark.parametrize("name", ["prompt", "source_prompt", "negative_prompt"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\0b", "NUL"),
        ("a\udc80b", "an unpaired surrogate"),
        ("x" * (MAX_TEXT + 1), "4097 characters"),
    ],
)
def test_invalid_text_is_refused(name: str, text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name} .*{reason}"):
        request(**{name: text})


def test_messages_say_what_to_do() -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(strength=1.5)
    assert str(caught.value) == (
        "strength is 1.5, but must be a number above 0 and at most 1; leave it out to use 0.8."
    )
    with pytest.raises(InvalidRequest, match="did you mean 'sdedit'"):
        request(method="sd-edit")
    with pytest.raises(InvalidRequest, match="use one of diffedit, encode-decode"):
        request(method="paint")


def test_a_value_whose_repr_raises_is_refused() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(InvalidRequest, match="strength is"):
        request(strength=Broken())


def test_a_mask_image_excludes_mask_dilation() -> None:
    with pytest.raises(InvalidRequest, match="but it applies to computed masks"):
        request(mask_image="m.png", mask_dilation=2)


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_needs_a_method_that_uses_one(method: str) -> None:
    if method in ("diffedit", "masked-sdedit", "flowedit", "chordedit"):
        assert request(method=method, mask_image="m.png").mask_image == "m.png"
    else:
        with pytest.raises(InvalidRequest, match=f"mask_image is given, but method is '{method}'"):
            request(method=method, mask_image="m.png")


def test_requests_are_frozen_and_hashable_and_omit_pictures_from_repr() -> None:
    pixels = np.zeros((500, 500, 3), np.uint8)
    edit = request(image=pixels)
    with pytest.raises(FrozenInstanceError):
        edit.seed = 3  # type: ignore[misc]
    assert edit == edit
    assert edit != request(image=pixels)
    assert len({edit, edit}) == 1
    assert len(repr(edit)) < 600


def test_invalid_request_is_a_value_error_and_a_diffedit_error() -> None:
    assert issubclass(InvalidRequest, ValueError)
    assert issubclass(InvalidRequest, DiffEditError)


def test_stats_and_results_are_frozen() -> None:
    stats = Stats({"unet": 140}, {"unet": 82}, {"total": 1.0}, "unet")
    with pytest.raises(FrozenInstanceError):
        stats.rows = {}  # type: ignore[misc]
    empty: Any = None
    result = EditResult(empty, empty, empty, empty, empty, empty, empty, stats, seed=3)
    assert result.warnings == ()
    assert result != EditResult(empty, empty, empty, empty, empty, empty, empty, stats, seed=3)


def test_importing_it_imports_no_heavy_package() -> None:
    code = "import sys, diffedit.request; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
