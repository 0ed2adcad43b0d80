"""The release: an sdist, the wheel built from it, and the program that the wheel installs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import diffedit

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command to its end, without this run's paths, and return what it printed."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**outside, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist of the committed and changed files, without what tools made here."""
    folder = tmp_path_factory.mktemp("sdist")
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    build = "import setuptools.build_meta as b; b.build_sdist('..')"
    run(sys.executable, "-c", build, cwd=folder / "tree")
    (archive,) = folder.glob("*.tar.gz")
    assert archive.name == f"diffedit_trt-{diffedit.__version__}.tar.gz"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    """The wheel, built from the sdist."""
    build = "import setuptools.build_meta as b; b.build_wheel('..')"
    run(sys.executable, "-c", build, cwd=source)
    (built,) = source.parent.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; the packages that it needs are those of this one."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin/python"
    install = ["pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run(python, "-m", *install, wheel, cwd=folder.parent)
    (packages,) = folder.glob("lib/*/site-packages")
    theirs = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import sys; sys.path += {theirs!r}\n"]  # without their .pth files: not this clone
    (packages / "their_packages.pth").write_text("".join(lines))
    return folder


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "diffedit",
        "engine",
        "export",
        f"diffedit_trt-{diffedit.__version__}.dist-info",
    }
    for needed in ("diffedit/py.typed", "engine/py.typed", "export/py.typed"):
        assert needed in names
    tracked = run("git", "ls-files", "diffedit", "engine", "export", cwd=ROOT).split()
    assert {n for n in tracked if (ROOT / n).is_file()} <= set(names)


def test_the_sdist_is_complete(source: Path) -> None:
    for name in (
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "pyproject.toml",
        "constraints.txt",
        "deploy/alerts.yml",
    ):
        assert (source / name).is_file(), name


def test_the_installed_program_runs(installed: Path, tiny: Path, photo_file: Path) -> None:
    program, elsewhere = installed / "bin/diffedit-trt", photo_file.parent
    assert run(program, "--version", cwd=elsewhere).strip() == diffedit.__version__
    where = run(
        installed / "bin/python",
        "-c",
        "import diffedit, engine, export; print(diffedit.__file__)",
        cwd=elsewhere,
    )
    assert Path(where.strip()).is_relative_to(installed)
    run(
        *(program, "edit", photo_file, "--source", "a red ball", "-p", "a blue ball"),
        *("--model", tiny, "--steps", "4", "--maps", "2", "--out", elsewhere / "edited.png"),
        cwd=elsewhere,
    )
    assert (elsewhere / "edited.png").is_file()


def test_the_shell_completes(installed: Path, tmp_path: Path) -> None:
    words = {"COMP_WORDS": "diffedit-trt ed", "COMP_CWORD": "1"}
    program = installed / "bin/diffedit-trt"
    out = run(program, cwd=tmp_path, _DIFFEDIT_TRT_COMPLETE="complete_bash", **words)
    assert out.split() == ["edit"]


@pytest.fixture
def photo_file(tmp_path: Path) -> Path:
    from demo.picture import still_life

    still_life(64, 64).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
