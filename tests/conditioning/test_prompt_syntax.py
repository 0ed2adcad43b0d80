"""Syntax of other programs in prompts gives one warning; ordinary punctuation gives none."""

from __future__ import annotations

import pytest

from diffedit.conditioning.prompt_syntax import foreign_forms, syntax_warnings

FOREIGN = [
    ("(red:1.4) ball", "(red:1.4)"),
    ("a (red ball:1.25) on a table", "(red ball:1.25)"),
    ("(red:-1)", "(red:-1)"),
    ("(red:.5) ball", "(red:.5)"),
    ("a ((red)) ball", "((red))"),
    ("a (((very red))) ball", "(((very red)))"),
    ("a [red] ball", "[red]"),
    ("[[red]] ball", "[[red]]"),
    ("[red:blue:0.5] ball", "[red:blue:0.5]"),
    ("[cow|horse] in a field", "[cow|horse]"),
    ("[red:0.8]", "[red:0.8]"),
    ("a {red} ball", "{red}"),
    ("a {red|blue} ball", "{red|blue}"),
    ("a {2$$red|blue} ball", "{2$$red|blue}"),
    ("a {{red}} ball", "{{red}}"),
    ("(red ball)1.4", "(red ball)1.4"),
    ("(red ball)++, table", "(red ball)++"),
    ("ball <lora:style:0.8>", "<lora:style:0.8>"),
    ("ball <LoRA:my style:1>", "<LoRA:my style:1>"),
    ("ball <lyco:a:1>", "<lyco:a:1>"),
    ("ball <hypernet:b:0.5>", "<hypernet:b:0.5>"),
    ("ball, embedding:easynegative", "embedding:easynegative"),
    ("a __colour__ ball", "__colour__"),
    ("a red ball BREAK a blue table", "BREAK"),
    ("a red ball AND a blue table", "AND"),
    ("a cat\nAND\na dog", "AND"),
    (r"a ball \(red\)", r"\("),
    ("a ball --ar 16:9", "--ar"),
    ("a ball --no table", "--no"),
    ("ball::2 table", "ball::2"),
    ("(b\u00e4r:1.2)", "(b\u00e4r:1.2)"),
    ("(\u732b:1.2)", "(\u732b:1.2)"),
]

ORDINARY = [
    "",
    "a red ball",
    "a red ball (old)",
    "a sign (very old, but readable) on a wall",
    "a clock (at 10:30)",
    "a picture (ratio 16:9)",
    "the verse (John 3:16)",
    "a map (scale 1:10)",
    "two things: a ball (red), a cube (blue)",
    "a man (left) and a woman (right)",
    "(left)-handed guitar",
    "a smiley :) and :( and ;-)",
    "a ball ((",
    "5 > 3 < 7",
    "a <cat-toy> on a table",
    "bread and butter, salt & pepper",
    "A CAT AND A DOG",
    "a jar of SALT AND PEPPER",
    "a sign that says STOP AND GO",
    'a sign with the text "BREAK" on it',
    'a sign with the text "(red:1.4)" on it',
    "a sign with the text \u201c[red]\u201d on it",
    "and, break, embedding",
    "a book: embedding: methods",
    "footnote [1] on a page",
    "a snake_case word and __init",
    "a ball -- red -- on a table",
    "C++ code on a screen",
    "the years 1990-2000, f/2.8, 50mm, 1.4x",
    "http://example.org/a:80",
    "3:00 pm",
    "AND",
]


@pytest.mark.parametrize(("text", "form"), FOREIGN)
def test_foreign_syntax_is_quoted_in_one_warning(text: str, form: str) -> None:
    assert form in foreign_forms(text)
    (warning,) = syntax_warnings({"prompt": text})
    assert f"'{form}'" in warning
    assert "read as plain letters" in warning


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_writing_is_not(text: str) -> None:
    assert foreign_forms(text) == []
    assert syntax_warnings({"prompt": text}) == ()


def test_one_warning_for_all_prompts_of_a_request() -> None:
    (warning,) = syntax_warnings(
        {"source": "(cat:1.1)", "prompt": "(dog:1.1) (dog:1.1)", "negative": "((blur))"}
    )
    assert warning.count("(dog:1.1)") == 1
    assert "'(cat:1.1)', '(dog:1.1)', '((blur))'" in warning


STARTS = ("(", "[", "{", "((", "[[", "<lora:", "embedding:", "__", "--ar", "\\", "(a", "{a", "a")
LONG = [start * (4096 // len(start)) for start in STARTS]
LONG += [
    start + rest * 1300 for start in STARTS for rest in ("a", "a1_", "1", "a: ", "(a:1", "a::1")
]


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:12])
def test_a_long_prompt_takes_little_time(text: str) -> None:
    """The patterns do not go back over the whole text for every bracket or letter."""
    import time

    start = time.thread_time()
    foreign_forms(text[:4096])
    assert time.thread_time() - start < 0.1


def test_a_long_form_is_shortened() -> None:
    (warning,) = syntax_warnings({"prompt": "[" + "x" * 3000 + "]"})
    assert len(warning) < 400
