"""The patterns of texts in the OpenAPI document accept exactly what the server accepts."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from diffedit.server import schema
from diffedit.server.form_fields import TEXT_FIELDS
from diffedit.server.text_pattern import any_text, blank_text, visible_text
from diffedit.visible_text import forbidden, without_blanks

TEXTS = [
    "",
    " ",
    "a",
    "a\tb\n",
    " \u200b",
    "\u200ba",
    "a\0",
    "\x1b[1m",
    "é",
    "\U0001f34e",
    "\u2800",
]


def test_patterns_agree_with_the_rule_for_every_character() -> None:
    any_, blank, visible = (re.compile(make()) for make in (any_text, blank_text, visible_text))
    for code in (*range(0xD800), *range(0xE000, 0x30000), *range(0xE0000, 0xE1000)):
        c = chr(code)
        allowed, shown = forbidden(c) is None, bool(without_blanks(c))
        found = tuple(pattern.search(c) is not None for pattern in (any_, blank, visible))
        assert found == (allowed, allowed and not shown, allowed and shown), hex(code)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_the_schema_refuses_a_prompt_as_the_request_does(text: str) -> None:
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    from diffedit.request import EditRequest, InvalidRequest

    route = schema.multipart_form(TEXT_FIELDS, mask=True)
    content = json.loads(json.dumps(route["requestBody"]["content"]))
    form = content["multipart/form-data"]["schema"]
    for name in ("prompt", "source_prompt", "negative_prompt"):
        fields = {"prompt": "a", name: text}
        try:
            EditRequest.from_parameters(b"", fields)
        except InvalidRequest:
            accepted = False
        else:
            accepted = True
        assert jsonschema_rs.is_valid(form, {"image": "x", **fields}) == accepted, name
