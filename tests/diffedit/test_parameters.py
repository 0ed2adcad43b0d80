"""The conversion of a request's options to JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit.method_options import has_option
from diffedit.request import (
    METHODS,
    PARAMETERS,
    RANGES,
    EditRequest,
    InvalidRequest,
    parameters,
)
from diffedit.visible_text import without_blanks


def texts() -> st.SearchStrategy[str]:
    """Texts that are kept as they are: visible ones without control characters, and ""."""
    letters = st.characters(exclude_categories=["Cs", "Cc"])
    return st.text(letters, max_size=30).map(without_blanks)


def numbers_in_range(name: str) -> st.SearchStrategy[int | float]:
    allowed = RANGES[name]
    if allowed.whole:
        return st.integers(int(allowed.low), int(allowed.high))
    return st.floats(allowed.low, allowed.high, exclude_min=allowed.above)


def of_one_method(values: dict[str, Any]) -> dict[str, Any]:
    """Without the options that belong to other methods."""
    method = values.get("method", "diffedit")
    return {name: value for name, value in values.items() if has_option(method, name)}


@given(
    st.fixed_dictionaries(
        {"prompt": texts().filter(bool)},
        optional={
            "source_prompt": texts(),
            "negative_prompt": texts(),
            "method": st.sampled_from(METHODS),
            "composite": st.booleans(),
            **{name: numbers_in_range(name) for name in RANGES},
        },
    ).map(of_one_method)
)
def test_parameters_survive_json(values: dict[str, Any]) -> None:
    edit = EditRequest("a.png", **values)
    values_out = parameters(edit)
    assert tuple(values_out) == tuple(
        n for n in PARAMETERS if has_option(edit.method, n) and n != "edits"
    )
    again = EditRequest.from_parameters("b.png", json.loads(json.dumps(values_out)))
    assert parameters(again) == values_out
    assert again.image == "b.png"


def test_the_mask_is_passed_outside_the_parameters() -> None:
    edit = EditRequest.from_parameters("a.png", {"prompt": "a pear"}, mask_image="m.png")
    assert edit.mask_image == "m.png"
    assert "mask_image" not in parameters(edit)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prompt": "a", "sed": 1}, "no parameter 'sed'; did you mean 'seed'"),
        ({"prompt": "a", "num_steps": 1}, "did you mean 'num_inference_steps'"),
        ({"prompt": "a", "image": "b.png"}, "no parameter 'image'; use one of prompt"),
        ({"prompt": "a", 3: 4}, "no parameter 3"),
        ({}, "contain no prompt"),
        (["prompt"], "must be a mapping"),
        ({"prompt": "a", "seed": -1}, "seed is -1"),
    ],
)
def test_bad_parameters_are_refused(params: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        EditRequest.from_parameters("a.png", params)
