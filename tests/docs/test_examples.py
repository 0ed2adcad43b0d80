"""Every program of examples/ runs with the demo's model and does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo.gallery import write_inputs
from docs.generate.examples import examples, listed
from docs.generate.links import ROOT
from tests.docs.commands import EXAMPLES, run_example

SOURCE = "a black cube and a yellow cone on a checked cloth"
PROMPT = "a red cube and a yellow cone on a checked cloth"
HEART, MUG = "a black heart in a studio", "a black mug in a studio"


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo's pictures; the working directory is the repository's."""
    monkeypatch.chdir(ROOT)
    write_inputs(tmp_path / "in")
    return tmp_path / "in"


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_every_example_is_listed_and_tested() -> None:
    here = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".ipynb")}
    assert set(listed()) == here - {"__init__.py"}
    tests = Path(__file__).read_text() + (ROOT / "tests/server/test_examples.py").read_text()
    assert all(f'"{name}"' in tests for name in listed())


def test_the_site_has_the_source_of_every_example() -> None:
    page = examples()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == listed()
    assert (EXAMPLES / "folder.py").read_text().strip() in page
    assert "### The edit" in page and "pipe.close()" in page and "\n# A first edit" not in page


@pytest.mark.slow
def test_mask_and_refine(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("mask_and_refine.py", inputs / "5.png", SOURCE, PROMPT)
    shares = [int(n) for n in re.findall(r"0\.\d: (\d+)%", capsys.readouterr().out)]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True)
    found, used = (pixels(inputs / f"5.{name}.png") > 0 for name in ("found", "mask"))
    before, after = pixels(inputs / "5.png"), pixels(inputs / "5.edited.png")
    assert found.any() and (used & found).sum() == found.sum() < used.sum()
    assert (before == after)[~used].all() and (before != after)[used].any()


@pytest.mark.slow
def test_folder(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inputs / "7.png").write_bytes(b"no picture")
    run_example("folder.py", inputs, inputs / "out", "a mug in a studio")
    assert {path.name for path in (inputs / "out").iterdir()} == {f"{n}.png" for n in range(1, 7)}
    assert "7.png" in capsys.readouterr().err


@pytest.mark.slow
def test_in_asyncio(inputs: Path) -> None:
    run_example(
        "in_asyncio.py", inputs / "6.png", "a red mug in a studio", "a blue mug in a studio"
    )
    assert (pixels(inputs / "6.1.png") != pixels(inputs / "6.2.png")).any()


@pytest.mark.slow
def test_preview_and_cancel(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("preview_and_cancel.py", inputs / "6.png", HEART, MUG)
    out = capsys.readouterr().out
    assert "mask: " in out and "preview: a latent of shape (4, 32, 32)" in out
    assert "cancelled" in out


@pytest.mark.slow
def test_compare_methods(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("compare_methods.py", inputs / "5.png", inputs / "methods.png", SOURCE, PROMPT)
    assert pixels(inputs / "methods.png").shape == (128, 4 * 128, 3)
    changed = [float(x) for x in re.findall(r": ([\d.]+) of 255", capsys.readouterr().out)]
    assert len(changed) == 4 and changed[0] < changed[1] and changed[0] < changed[3]


@pytest.mark.slow
def test_custom_backend(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("custom_backend.py", inputs / "5.png", SOURCE, PROMPT)
    out = capsys.readouterr().out
    assert out.startswith("timed torch") and re.search(
        r"^unet: \d+\.\d\d s for \d+ rows", out, re.MULTILINE
    )


@pytest.mark.slow
def test_another_schedule(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("another_schedule.py", inputs / "5.png", SOURCE, PROMPT)
    (difference,) = re.findall(r"differ by ([\d.]+)", capsys.readouterr().out)
    assert 0 < float(difference) < 20


@pytest.mark.slow
def test_build_and_inspect(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx", reason="needs the onnx extra")
    run_example("build_and_inspect.py", micro, tmp_path / "engines", 16)
    out = capsys.readouterr().out
    assert "unet: onnx, fp32, rows (1, 2)" in out and "onnxruntime, 1 rows: passed" in out


@pytest.mark.slow
def test_from_diffusers(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("from_diffusers.py", inputs / "5.png", inputs / "both.png", SOURCE, PROMPT)
    theirs, ours = (int(n) for n in re.findall(r": (\d+)% of", capsys.readouterr().out))
    assert theirs < ours and ours > 80
    assert pixels(inputs / "both.png").shape == (128, 3 * 128, 3)


@pytest.mark.slow
def test_notebook(inputs: Path) -> None:
    cells = json.loads((EXAMPLES / "first_edit.ipynb").read_text())["cells"]
    assert all(cell.get("outputs") in (None, []) for cell in cells)
    scope: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
    again = scope["again"].stats.rows
    # 28 at most: the mask is stable after two or three noises.
    assert scope["unchanged"] and again["unet"] <= 28 and "vae_encode" not in again
