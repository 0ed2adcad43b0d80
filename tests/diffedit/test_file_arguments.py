"""Arguments of `from_pretrained` that name files: wrong ones, before a model is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffedit import DiffEditPipeline, InvalidRequest
from diffedit.arguments import CHECKS

WRONG: list[tuple[str, Any, str]] = [
    ("base", 3, "base is 3"),
    ("base", "~nobody-of-that-name/m", "no such home folder"),
    ("prediction_type", "v", "v_prediction"),
    ("prediction_type", 1, "prediction_type"),
    ("vae", 3, "vae is 3"),
    ("vae", "", "vae"),
    ("embeddings", "toy.safetensors", "but must be a list; pass files"),
    ("embeddings", [("a", "b", "c")], "pass a file or .file, token."),
    ("embeddings", [("a", 3)], "pass a file or .file, token."),
    ("embeddings", [3], "embeddings is 3"),
    ("clip_skip", -1, "clip_skip is -1"),
    ("clip_skip", 1.5, "clip_skip is 1.5"),
    ("clip_skip", True, "clip_skip is True"),
    ("on_progress", 3, "which cannot be called"),
]


@pytest.mark.parametrize(("name", "value", "words"), WRONG)
def test_wrong_values(name: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        DiffEditPipeline.from_pretrained("no-model", **{name: value})
    assert "\n" not in str(caught.value)


def test_right_values_are_plain() -> None:
    pairs = CHECKS["embeddings"](["a.safetensors", ("b.safetensors", "<b>")])
    assert pairs == ((Path("a.safetensors"), None), (Path("b.safetensors"), "<b>"))
    assert CHECKS["vae"]("v") == Path("v")
    assert CHECKS["clip_skip"](2) == 2
    assert CHECKS["prediction_type"](None) is None


def test_a_dict_is_a_list_of_pairs() -> None:
    """Its values are not lost: a LoRA at 0.3 must not be used at 1."""
    assert CHECKS["lora"]({"a": 0.3, Path("b"): 1}) == ((Path("a"), 0.3), (Path("b"), 1.0))
    assert CHECKS["embeddings"]({"a": "<x>", "b": None}) == ((Path("a"), "<x>"), (Path("b"), None))
    with pytest.raises(InvalidRequest, match="the scale of lora is 'x'"):
        CHECKS["lora"]({"a": "x"})
