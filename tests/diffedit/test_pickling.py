"""Objects that can be pickled, and the errors of those that cannot."""

from __future__ import annotations

import ast
import copy
import multiprocessing
import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from diffedit.imaging.mask_reader import read_mask
from diffedit.request import InvalidRequest
from diffedit.server.errors import ApiError
from engine.errors import NonFiniteError

ROOT = Path(__file__).parents[2]
ERROR = re.compile(r"^class .*(Error|Exception|Request)\)", re.MULTILINE)
TEXTS: dict[str, Any] = {"prompt": "a blue ball", "source_prompt": "a red ball"}
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(scope="module")
def pipeline(tiny: Path) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline.from_pretrained(tiny, device="cpu", dtype="fp32") as pipeline:
        yield pipeline


@pytest.mark.parametrize("way", WAYS)
def test_requests_and_results_can_be_sent(
    way: str, pipeline: DiffEditPipeline, photo: Image.Image
) -> None:
    soft = read_mask(Image.linear_gradient("L").resize(photo.size), photo.size)
    request = EditRequest(photo, **TEXTS, num_inference_steps=1, mask_image=soft)
    result = pipeline.submit(WAYS[way](request)).result()
    found = pipeline.generate_mask(photo, **TEXTS, num_inference_steps=1)
    _ = result.photo.rgb  # what is computed once is sent, too, or computed again
    other = WAYS[way](result)
    assert np.array_equal(np.asarray(other.image), np.asarray(result.image))
    assert np.array_equal(other.latents, result.latents)
    for name in ("parameters", "stats", "provenance", "warnings", "seed"):
        assert getattr(other, name) == getattr(result, name)
    assert np.array_equal(WAYS[way](found).heatmap, found.heatmap)


@pytest.mark.parametrize("way", WAYS)
def test_a_pipeline_says_what_to_do(
    way: str, pipeline: DiffEditPipeline, photo: Image.Image
) -> None:
    with pytest.raises(TypeError, match="must open its own with from_pretrained"):
        WAYS[way](pipeline)
    handle = pipeline.submit(EditRequest(photo, **TEXTS, num_inference_steps=1))
    with pytest.raises(TypeError, match=r"call result\(\) and send the EditResult"):
        WAYS[way](handle)
    assert handle.result().seed == 0


def call_in_child(value: Any) -> str:
    return type(value).__name__


def raise_in_child(kind: str) -> None:
    raise NonFiniteError("unet", "decode") if kind == "network" else InvalidRequest("no", field="f")


@pytest.mark.slow
def test_another_process(pipeline: DiffEditPipeline, photo: Image.Image) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with pytest.raises(TypeError, match="must open its own"):
            pool.submit(call_in_child, pipeline).result()
        assert pool.submit(call_in_child, EditRequest(photo, "a")).result() == "EditRequest"
        with pytest.raises(NonFiniteError, match="the decode stage"):
            pool.submit(raise_in_child, "network").result()
        with pytest.raises(InvalidRequest) as caught:
            pool.submit(raise_in_child, "request").result()
        assert caught.value.field == "f"


MADE: dict[str, BaseException] = {
    "NonFiniteError": NonFiniteError("unet", "mask"),
    "InvalidRequest": InvalidRequest("no", field="image", code="bad"),
    "ApiError": ApiError(503, "busy", "later", "image", retry_after=7, headers={"x": "y"}),
}
"""Errors whose constructor takes more than a message."""


def error_classes() -> Iterator[type[BaseException]]:
    """Every error class that the project defines, found in its source."""
    for package in ("diffedit", "engine", "export"):
        for path in (ROOT / package).rglob("*.py"):
            names = [
                n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)
            ]
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for name in names if ERROR.search(path.read_text()) else ():
                value = getattr(import_module(module), name)
                if issubclass(value, BaseException):
                    yield value


def test_every_error_can_be_sent() -> None:
    """A process pool hangs if an error cannot be unpickled."""
    classes = list(error_classes())
    assert len(classes) > 12
    for cls in classes:
        error = MADE.get(cls.__name__) or cls("a sentence")
        other = pickle.loads(pickle.dumps(error))
        assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
