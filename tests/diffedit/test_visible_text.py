"""Invisible characters in prompts: refused, removed, or warned about."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from diffedit.request import InvalidRequest
from diffedit.visible_text import invisible_warnings

PICTURE = Image.new("RGB", (8, 8))
BLANK = {
    "nothing": "",
    "white space": " \t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000",
    "zero-width space": "\u200b",
    "byte order mark": "\ufeff",
    "joiners": "\u200d\u200c",
    "direction marks": "\u202e\u2066\u200f",
    "soft hyphen": "\xad",
    "Hangul filler": "\u3164",
    "Braille blank": "\u2800\u2800",
    "variation selector": "\ufe0f",
    "Mongolian separator": "\u180e",
    "tags": "\U000e0061",
    "several": " \u200b\ufeff \u2060 ",
}
FORBIDDEN = {
    "NUL": ("a\0b", r"a NUL \(U\+0000\)"),
    "bell": ("\aa", r"a control character \(U\+0007\)"),
    "escape": ("a \x1b[31mred\x1b[0m cup", r"U\+001B"),
    "backspace": ("cup\b", r"U\+0008"),
    "delete": ("a\x7f", r"U\+007F"),
    "C1": ("a\x9bcup", r"U\+009B"),
    "high surrogate": ("\ud83d", r"an unpaired surrogate \(U\+D83D\)"),
    "low surrogate": ("a\udc80", r"U\+DC80"),
    "only control characters": ("\x01\x02", r"U\+0001"),
}
VISIBLE = [
    *("a", "\U0001f46a", "\u0301", "0", ".", "\u200bx", "\u00e9", "\u4e2d", "\u00a9"),
    *("\u2764\ufe0f", "\U0001f468\u200d\U0001f469\u200d\U0001f467"),
]


@pytest.mark.parametrize("kind", BLANK)
def test_a_prompt_without_a_visible_character_is_blank(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^prompt is blank \(.*\), but it describes"):
        EditRequest(PICTURE, BLANK[kind])


@pytest.mark.parametrize("kind", BLANK)
def test_other_texts_without_a_visible_character_are_empty(kind: str) -> None:
    request = EditRequest(PICTURE, "a", source_prompt=BLANK[kind], negative_prompt=BLANK[kind])
    assert (request.source_prompt, request.negative_prompt) == ("", "")


@pytest.mark.parametrize("name", ["prompt", "source_prompt", "negative_prompt"])
@pytest.mark.parametrize("kind", FORBIDDEN)
def test_what_no_text_contains_is_refused(kind: str, name: str) -> None:
    text, words = FORBIDDEN[kind]
    with pytest.raises(InvalidRequest, match=f"^{name} is .*{words}.*; remove it"):
        EditRequest.from_parameters(PICTURE, {"prompt": "a", name: text})


@pytest.mark.parametrize("text", VISIBLE)
def test_what_is_visible_stays_as_it_is(text: str) -> None:
    assert EditRequest(PICTURE, text).prompt == text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a red\u200bcup", "U+200B zero width space"),
        ("\ufeffa cup", "U+FEFF zero width no-break space"),
        ("a \u202epuc", "U+202E right-to-left override"),
        ("a\xadcup", "U+00AD soft hyphen"),
        ("a\u3164cup", "U+3164 hangul filler"),
        ("\u200b\ufeff\u2060\xada", "and more"),
    ],
)
def test_invisible_characters_in_a_text_are_named(text: str, named: str) -> None:
    (warning,) = invisible_warnings({"prompt": "a", "negative": text})
    assert named in warning


@pytest.mark.parametrize("text", [*VISIBLE[1:5], *VISIBLE[6:], "\u0645\u06cc\u200c\u062e", "a\tb"])
def test_what_writing_needs_is_no_surprise(text: str) -> None:
    assert invisible_warnings({"prompt": text}) == ()


def test_an_edit_states_the_warning(tiny: Path, photo: Image.Image) -> None:
    with DiffEditPipeline.from_pretrained(tiny, device="cpu") as pipeline:
        result = pipeline(photo, "a red\u200bcup", num_inference_steps=1)
    assert any("U+200B" in warning for warning in result.warnings)
