"""Every command of the tutorials, and of how-to pages, runs with the demo's model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate.console import commands, pattern, run_session, steps
from docs.generate.links import ROOT
from tests.docs.commands import run

TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
PAGES = [*TUTORIALS, ROOT / "docs/how-to/engines.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_has_commands_that_are_understood(page: Path) -> None:
    assert commands(page)
    assert all(words[0] in ("diffedit-trt", "python") for words in commands(page))


def missing(shown: list[str], printed: list[str], build: Path) -> list[str]:
    """The lines of a page that a command did not print. Numbers may differ between machines."""

    whole = {
        line: re.escape(f"{build}/").join(map(pattern, line.split("build/"))) for line in shown
    }
    return [
        line for line, found in whole.items() if not any(re.fullmatch(found, p) for p in printed)
    ]


def test_lines_that_a_command_does_not_print_are_found(tmp_path: Path) -> None:
    shown = ["wrote build/a.png: 19.2% of it, 3 calls", "wrote build/b.png", "wrote 5"]
    printed = [f"wrote {tmp_path}/a.png: 20% of it, 14 calls", "wrote build/b.png", "wrote 5 more"]
    assert missing(shown, printed, tmp_path) == shown[1:]


def test_tutorials_show_what_commands_print() -> None:
    shown = [step for page in TUTORIALS for step in steps(page) if step.output]
    assert len(shown) >= 5 and all("wrote" in step.output[0] for step in shown)


SESSION = """
```pycon
>>> 12 * 2, "as before"
(3, 'as before')
>>> int("x")
Traceback (most recent call last):
    ...
ValueError: invalid ...
```
Text.
```pycon
>>> "build/a".removesuffix("/a")
'{}'
```
"""


@pytest.mark.parametrize(("shown", "is_right"), [("elsewhere", True), ("build", False)])
def test_a_session_whose_results_differ_is_found(
    tmp_path: Path, shown: str, is_right: bool
) -> None:
    page = tmp_path / "page.md"
    page.write_text(SESSION.format(shown))
    report = run_session(page, Path("elsewhere"))
    assert (report == "") == is_right
    assert is_right or "Expected:\n'build'\nGot:\n'elsewhere'\n" in report


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_runs(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    for words, step in zip(commands(page, tmp_path), steps(page), strict=True):
        run(words, monkeypatch)
        printed = "".join(capsys.readouterr()).splitlines()
        assert missing(step.output, printed, tmp_path) == []
    assert run_session(page, tmp_path) == ""
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    named = {Path(w).name for words in commands(page) for w in words if w[-4:] == ".png"}
    assert named <= written
