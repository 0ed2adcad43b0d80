"""The project's files agree with each other: packages, versions, extras, targets."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diffedit

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
# These have to match a machine's CUDA and are left to it.
UNPINNED = {"onnxruntime-gpu", "tensorrt"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in found}


def requirements() -> list[Requirement]:
    lists = [PROJECT["project"]["dependencies"], *EXTRAS.values()]
    return [Requirement(text) for texts in lists for text in texts]


def test_every_package_is_listed_and_every_listed_one_is_there() -> None:
    folders = [f for top in ("diffedit", "engine", "export") for f in (ROOT / top).rglob("*.py")]
    found = {".".join(f.parent.relative_to(ROOT).parts) for f in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found
    assert all((ROOT / top / "py.typed").is_file() for top in ("diffedit", "engine", "export"))


def test_every_requirement_has_a_tested_version_within_its_range() -> None:
    tested = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        if name not in (*UNPINNED, PROJECT["project"]["name"]):
            assert requirement.specifier.contains(tested[name]), requirement


@pytest.mark.parametrize("name", ["diffusers", "transformers", "numpy", "typer", "pytest"])
def test_this_environment_is_the_tested_one(name: str) -> None:
    assert importlib.metadata.version(name) == pins()[name]


def test_no_extra_brings_both_onnxruntimes() -> None:
    for texts in EXTRAS.values():
        names = {Requirement(t).name for t in texts}
        assert len(names & {"onnxruntime", "onnxruntime-gpu"}) <= 1


def test_changelog_opens_with_the_version() -> None:
    version = PROJECT["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version == diffedit.__version__


@pytest.mark.parametrize(
    ("file", "text"),
    [("CITATION.cff", "\nversion: {}\n"), ("README.md", "diffedit_trt-{}-py3-none-any.whl")],
)
def test_other_files_name_the_version(file: str, text: str) -> None:
    assert text.format(diffedit.__version__) in (ROOT / file).read_text()


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell: without the variables of a make that runs these tests."""
    own = re.findall(r"^# ([A-Z_]+) ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    own += ["MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"]
    environment = {name: value for name, value in os.environ.items() if name not in own}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


def test_make_lists_every_target() -> None:
    listed = set(re.findall(r"^  make (\S+)", make().stdout, re.MULTILINE))
    wanted = "setup demo engines edit test test-slow check bench gpu-check clean"
    assert set(wanted.split()) <= listed
    rule = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule is not None
    assert {t for t in rule[1].split() if not t.startswith("need-")} == listed


def test_arguments_of_the_test_run_do_not_reach_other_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`make test ARGS=...` exports its overrides to every make that a test starts."""
    monkeypatch.setenv("MAKEFLAGS", " -- ARGS=-x")
    monkeypatch.setenv("ARGS", "-x")
    dry = make("--dry-run", "edit", "PY=python", "IMAGE=a.jpg", "PROMPT=a cup")
    assert dry.returncode == 0 and "-x" not in dry.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["engines", "MODEL="], "Name the model"),
        (["edit", "IMAGE=", "PROMPT="], "Name the picture"),
        (["edit", "IMAGE=a.jpg", "PROMPT="], "Say what should be there"),
    ],
)
def test_make_says_which_variable_is_missing(arguments: list[str], sentence: str) -> None:
    done = make(*arguments)
    assert done.returncode != 0
    assert done.stderr.startswith(sentence)


def test_make_edit_passes_any_text_on_unharmed(tmp_path: Path) -> None:
    """Quotes and dollars in a prompt reach the program unchanged; `PY` is a substitute here."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    prompt = 'a "red" ball; it\'s `new` & big'
    done = make("edit", f"PY={stand_in}", "IMAGE=my photo.jpg", f"PROMPT={prompt}", "OUT=o.png")
    assert done.stdout.splitlines() == [
        *("-m", "diffedit.cli", "edit", "my photo.jpg", "--prompt", prompt, "-o", "o.png")
    ]
