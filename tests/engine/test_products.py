"""The table of runtimes agrees with the project's extras; compute capabilities are parsed once."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement

from engine.manifest import Format
from engine.products import (
    PRODUCTS,
    TENSORRT_FORMATS,
    TensorRTFormat,
    format_compute_capability,
    parse_compute_capability,
    sm_name,
)

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_every_format_has_a_product() -> None:
    assert set(PRODUCTS) == set(get_args(Format))
    assert set(TENSORRT_FORMATS) == set(get_args(TensorRTFormat)) == set(PRODUCTS) - {"onnx"}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_the_oldest_version_is_the_lower_bound_of_the_extra(product: object) -> None:
    (product,) = (p for p in PRODUCTS.values() if p is product)
    requirements = map(Requirement, PROJECT["optional-dependencies"][product.extra])
    bounds = {r.name.replace("-", "_"): str(r.specifier) for r in requirements}
    assert bounds[product.module] == f">={product.oldest_version}"
    assert product.pip_install.startswith(f"pip install -e '.[{product.extra}]'")


def test_a_product_is_installed_if_its_module_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PRODUCTS["onnx"].installed
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not PRODUCTS["onnx"].installed


@pytest.mark.parametrize("text", ["8.6", "86", "sm_86", "SM86", " 8.6 "])
def test_a_compute_capability_has_several_spellings(text: str) -> None:
    assert parse_compute_capability(text) == (8, 6)
    two_digits = text.replace("86", "120").replace("8.6", "12.0")
    assert parse_compute_capability(two_digits) == (12, 0)


@pytest.mark.parametrize("text", ["", "none", "8", "8.x", "sm.9", "8.6.1", "8,6"])
def test_a_malformed_compute_capability_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"a compute capability is a number such as 8\.9, not"):
        parse_compute_capability(text)


def test_a_compute_capability_is_formatted_for_people_and_for_tensorrt() -> None:
    assert (format_compute_capability((8, 6)), sm_name((8, 6))) == ("8.6", "SM86")
    assert (format_compute_capability((12, 0)), sm_name((12, 0))) == ("12.0", "SM120")
