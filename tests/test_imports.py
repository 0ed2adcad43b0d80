"""The time and the requirements of importing the packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import diffedit
import engine
import export
from tests.test_layers import HEAVY, OPTIONAL, ROOT, sources


@pytest.mark.parametrize("package", [diffedit, engine, export], ids=lambda p: p.__name__)
def test_packages_come_from_this_tree(package: object) -> None:
    """Another top-level `engine` would otherwise be imported without a warning."""
    (folder,) = package.__path__  # type: ignore[attr-defined]
    assert Path(folder).resolve() == ROOT / package.__name__  # type: ignore[attr-defined]


def run_python(code: str) -> dict[str, object]:
    """Run code in a fresh interpreter; the last line it prints is json."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_importing_diffedit_is_quick_and_light() -> None:
    """Under 1.5 s on an idle machine (3 s here), and no backend is imported."""
    code = (
        "import json, sys, time; start = time.perf_counter(); import diffedit; "
        "seconds = time.perf_counter() - start; "
        "print(json.dumps({'seconds': seconds, 'roots': sorted({m.split('.')[0] for m in "
        "sys.modules}), 'backends': [m for m in sys.modules if 'engine.backends.' in m]}))"
    )
    runs = [run_python(code) for _ in range(2)]
    seconds = min(float(str(r["seconds"])) for r in runs)
    print(f"import diffedit: {seconds:.2f} s (bound 1.5)")
    roots = runs[0]["roots"]
    assert isinstance(roots, list)
    unwanted = {*HEAVY, "torch", "export", "numpy"} & set(roots)
    assert not unwanted
    assert runs[0]["backends"] == []
    assert seconds < 2 * 1.5


def test_core_imports_without_any_optional_package() -> None:
    """Every core module imports without the packages of the extras."""
    apart = ("export", *HEAVY["ray"])
    modules = [m for m, _ in sources() if not m.startswith(apart) and "__main__" not in m]
    code = (
        "import importlib, json, sys\n"
        f"blocked = {OPTIONAL!r}\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in blocked: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"for m in {modules!r}:\n"
        "    importlib.import_module(m)\n"
        "print(json.dumps({'here': [b for b in blocked if b in sys.modules]}))"
    )
    assert run_python(code) == {"here": []}
