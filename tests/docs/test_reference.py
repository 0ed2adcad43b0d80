"""The generated reference has every command, option, endpoint, setting and error code."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import typer

pytest.importorskip("fastapi", reason="needs the server extra")

import diffedit
from diffedit.cli import app
from diffedit.cli.errors import EXIT_CODES
from diffedit.server.settings import Settings
from docs.generate.command_line import command_line, exit_codes
from docs.generate.error_codes import find_error_codes
from docs.generate.http import http_api, openapi
from docs.generate.imports import count_imports, import_table
from docs.generate.links import ROOT
from docs.generate.public_names import public_names, without_docstring
from docs.generate.settings import field_docstrings, settings


def test_every_command_and_option_is_described() -> None:
    page = command_line()
    program = typer.main.get_command(app)
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        assert f"`diffedit-trt {name}`" in page
        for option in (opt for parameter in command.params for opt in parameter.opts):
            assert option in page or not option.startswith("-"), option
    assert "[bold]" not in page and "diffedit-trt edit cup.jpg" in page
    assert all(f"| {code} |" in exit_codes() for code in EXIT_CODES)


def test_every_endpoint_and_field_is_described() -> None:
    page = http_api()
    for path, methods in openapi()["paths"].items():
        for method, operation in methods.items():
            assert f"## `{method.upper()} {path}`" in page
            assert all(one.get("description") for one in operation.get("parameters", []))
            for body in operation.get("requestBody", {}).get("content", {}).values():
                assert all(f"| `{name}` |" in page for name in body["schema"]["properties"])


def test_every_setting_has_a_meaning() -> None:
    assert set(field_docstrings(Settings)) == set(Settings.model_fields)
    page = settings()
    assert "| `DIFFEDIT_SERVE_PORT` | whole number from 0 up to 65,535 | `8000` |" in page


def test_the_server_page_and_the_source_have_the_same_error_codes() -> None:
    text = (ROOT / "docs/server.md").read_text()
    section = text.split("## Errors")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if re.match(r"\| \d{3}", line)]
    written = {code for row in rows for code in re.findall(r"`([a-z]+(?:_[a-z]+)*)`", row)}
    assert written == {found.code for found in find_error_codes()}


def test_every_public_name_has_a_docstring() -> None:
    assert "diffedit.DiffEditPipeline" in public_names()
    assert without_docstring() == []


def test_a_name_without_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Bare:
        size: int

        def grow(self) -> None: ...

        @property
        def box(self) -> tuple[int, int]:
            """(width, height)."""
            return self.size, self.size

    @dataclass
    class Described:
        """A box.

        Attributes:
            size: in pixels.
            depth, width: in pixels.
        """

        size: int
        depth: int

    names = {"a.Bare": Bare, "a.Described": Described}
    monkeypatch.setattr("docs.generate.public_names.public_names", lambda: names)
    found = ["a.Bare", "a.Bare.grow", "a.Bare.size", "a.Described.depth"]
    assert without_docstring() == found


def test_who_imports_whom() -> None:
    counts = count_imports()
    assert counts["diffedit.cli", "export"] == 1  # the command `build`
    assert counts["engine", "diffedit"] == counts["export", "diffedit"] == 0
    page = import_table()
    assert all(f"| `{group}` |" in page for pair in counts for group in pair)


def test_the_python_page_has_every_public_name() -> None:
    pages = ROOT / "docs/reference"
    text = (pages / "python.md").read_text() + (pages / "errors.md").read_text()
    members = {name for line in re.findall(r"members: \[(.*)\]", text) for name in line.split(", ")}
    described = set(re.findall(r"^::: diffedit\.(\w+)$", text, re.MULTILINE)) | members
    assert set(diffedit.__all__) <= described
