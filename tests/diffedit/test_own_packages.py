"""A user's package named `engine` or `export` does not replace this project's without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a folder that comes first where Python looks; ours comes second."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(1, {str(ROOT)!r})\n{code}"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def make(folder: Path, name: str, kind: str) -> Path:
    """Make a foreign module: a package, or a single file."""
    if kind == "package":
        (folder / name).mkdir()
        file = folder / name / "__init__.py"
    else:
        file = folder / f"{name}.py"
    file.write_text("THEIRS = True\n")
    return file


@pytest.mark.parametrize("kind", ["package", "file"])
def test_a_foreign_engine_is_named_and_ours_is_used(kind: str, tmp_path: Path) -> None:
    file = make(tmp_path, "engine", kind)
    code = "from diffedit import EditRequest; import engine.checkpoint; print(engine.__file__)"
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "engine" / "__init__.py")
    assert f"{file} has the name of a package of diffedit-trt" in done.stderr


@pytest.mark.parametrize("kind", ["package", "file"])
def test_a_foreign_engine_that_is_in_use_is_an_error(kind: str, tmp_path: Path) -> None:
    file = make(tmp_path, "engine", kind)
    code = (
        "import engine\n"
        "try:\n    import diffedit\n"
        "except ImportError as error:\n    print(error)\n"
        "print(engine.THEIRS)"
    )
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert f"{file} of the same name is imported already; rename that one" in done.stdout
    assert done.stdout.endswith("True\n")


def test_a_foreign_export_is_named_and_left_to_the_program(tmp_path: Path) -> None:
    file = make(tmp_path, "export", "file")
    code = "import diffedit, export; print(export.THEIRS)"
    done = run(tmp_path, code)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert str(file) in done.stderr


def test_build_uses_our_export(tmp_path: Path) -> None:
    make(tmp_path, "export", "package")
    done = run(tmp_path, "from diffedit.cli import main; main(['build', '--help'])")
    assert done.returncode == 0, done.stderr
    assert "Usage: diffedit-trt build" in done.stdout


@pytest.mark.parametrize("name", ["engine", "export", "both"])
def test_folders_without_code_change_nothing(name: str, tmp_path: Path) -> None:
    """A folder such as the one that `build --out engine` writes is no package."""
    for folder in ("engine", "export") if name == "both" else (name,):
        (tmp_path / folder).mkdir()
    done = run(tmp_path, "import diffedit; import engine; print(engine.__file__)")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(ROOT / "engine" / "__init__.py")
