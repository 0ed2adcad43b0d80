"""docs/deploy.md and SECURITY.md state the defaults and name files that exist."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deploy.deployment import ROOT


def test_security_md_states_the_default_limits(settings: Any) -> None:
    text = (ROOT / "SECURITY.md").read_text()
    table = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", text, re.MULTILINE)
    assert len(table) >= 10
    for name, value in table:
        assert float(value.replace(",", "")) == getattr(settings, name), name


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/deploy.md"])
def test_files_named_in_documents_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    for word in re.findall(r"`((?:\w+/)*[\w-]+\.(?:py|yaml|yml|json))`", text):
        assert any((top / word).is_file() for top in (ROOT, ROOT / "diffedit")), word
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((ROOT / name).parent / link).is_file(), link


def test_security_md_states_the_cache_sizes_and_formats() -> None:
    pytest.importorskip("fastapi", reason="the server extra is not installed")
    from diffedit import flow_runner
    from diffedit.server import form_body, image_codec

    text = " ".join((ROOT / "SECURITY.md").read_text().split())
    caches = flow_runner.TRAJECTORY_CACHE_BYTES, flow_runner.TEXT_CACHE_BYTES
    assert "{} MiB and {} MiB".format(*(size // 2**20 for size in caches)) in text
    assert image_codec.INPUT_FORMATS == ("PNG", "JPEG", "WEBP")
    assert f"{form_body.MAX_FIELDS} text fields and {form_body.MAX_FILES} files" in text
