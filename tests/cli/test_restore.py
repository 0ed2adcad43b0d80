"""`restore`: pictures in, a picture out, without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Cli, check_refused, snapshot


@pytest.fixture
def pictures(work: Path, photo: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """in.png, and edited.png with a changed square and other noise everywhere."""
    values = np.asarray(photo).astype(int)
    values[20:60, 20:60] = (30, 60, 220)
    values += np.random.default_rng(0).integers(-2, 3, values.shape)
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save("edited.png")
    return np.asarray(photo)


def test_it_writes_the_result_the_mask_and_a_panel(
    cli: Cli, pictures: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    done = cli(
        "restore", "in.png", "edited.png", "--mask-out", "m.png", "--panel", "p.png", "--json"
    )
    assert done.code == 0, done.err
    with Image.open("in.restored.png") as result, Image.open("m.png") as mask:
        outside = np.asarray(mask) == 0
        assert (np.asarray(result)[outside] == pictures[outside]).all()
        assert not outside[30:50, 30:50].any()
        assert (np.asarray(result)[30:50, 30:50, 2] > 200).all()
    assert done.line["max_abs_diff_outside_mask"] == 0
    assert done.line["share"] == pytest.approx((~outside).mean())
    assert done.line["out"] == "in.restored.png"
    assert "of the picture is the edited one" in done.err
    with Image.open("p.png") as panel:
        assert panel.width > panel.height


def test_standard_output_and_jpeg(cli: Cli, pictures: object) -> None:
    done = cli("restore", "in.png", "edited.png", "-o", "-")
    assert done.out.startswith(b"\x89PNG")
    done = cli("restore", "in.png", "edited.png", "-o", "out.jpg")
    assert "JPEG changes every pixel a little" in done.err
    assert "replay" not in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["in.png", "missing.png"], 2, "missing.png"),
        (["in.png", "small.png"], 2, "resize the edited picture"),
        (["in.png", "inverse.png"], 2, "of the picture differs"),
        (["in.png", "edited.png", "--threshold", "0"], 2, "threshold is 0"),
        (["in.png", "edited.png", "--grow", "9"], 2, "grow is 9"),
        (["in.png", "edited.png", "-o", "x.gif"], 2, ".gif"),
        (["-", "-"], 2, "Only one picture"),
    ],
)
def test_bad_input(
    cli: Cli, work: Path, pictures: object, arguments: list[str], code: int, words: str
) -> None:
    with Image.open("in.png") as photo:
        photo.resize((10, 10)).save("small.png")
        Image.fromarray(255 - np.asarray(photo)).save("inverse.png")
    before = snapshot(work)
    check_refused(cli("restore", *arguments), code, words)
    assert snapshot(work) == before
