"""What the integrations import: rule 6 of ARCHITECTURE.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.test_layers import ROOT, imports_of

FOLDER = ROOT / "integrations"
ALLOWED = {
    "comfyui": ("numpy", "torch", "PIL", "comfy"),
    "diffusers": ("diffusers", "PIL", "diffedit.DiffEditPipeline", "diffedit.InvalidRequest"),
}


def problems(folder: str, source: str) -> list[str]:
    """The imports that the files of a folder must not have."""
    return [
        found.name
        for found in imports_of(source)
        if not found.name.startswith(".")
        and found.name.split(".")[0] not in sys.stdlib_module_names
        and not found.within(*ALLOWED[folder])
    ]


def test_every_file_keeps_the_rules() -> None:
    files = sorted(FOLDER.rglob("*.py"))
    assert {path.parent.name for path in files} == set(ALLOWED)
    for path in files:
        assert problems(path.parent.name, path.read_text()) == [], path


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("comfyui", "def f():\n    from diffedit import EditRequest"),
        ("comfyui", "import requests"),
        ("diffusers", "from diffedit.request import EditRequest"),
        ("diffusers", "import engine.errors"),
    ],
)
def test_each_rule_can_fail(folder: str, source: str) -> None:
    assert problems(folder, source)


def test_diffusers_loads_one_file() -> None:
    """It copies the file that the configuration names, and what that imports relatively."""
    source = (FOLDER / "diffusers" / "block.py").read_text()
    assert not [found for found in imports_of(source) if found.name.startswith(".")]
    assert Path(FOLDER / "diffusers" / "modular_config.json").is_file()
