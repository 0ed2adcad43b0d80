"""`edit`, `mask` and `replay` with valid input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffedit.cli.errors import UsageError
from diffedit.cli.model_options import default_model
from diffedit.imaging.metadata import read_record
from diffedit.method_options import OWNERS
from diffedit.request import EditRequest
from tests.cli.conftest import FAST, PROMPTS, Cli


def pixels(source: str | Path | bytes) -> np.ndarray:
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_edit_writes_every_file_and_one_line_of_json(work: Path, cli: Cli) -> None:
    files = (
        "--mask-out",
        "m.png",
        "--heatmap-out",
        "h.npy",
        "--panel",
        "p.webp",
        "--blend-out",
        "b.png",
    )
    done = cli("edit", "in.png", *PROMPTS, *FAST, *files, "--json")
    assert done.code == 0, done.err
    assert done.line["out"] == "in.edited.png"
    assert done.line["stats"]["rows"]["unet"] == 20 + 2 + 4
    assert sorted(p.name for p in work.iterdir()) == [
        *("b.png", "h.npy", "in.edited.png", "in.png", "m.png", "p.webp")
    ]
    assert ((pixels("b.png") > 0) <= (pixels("m.png") > 0)).all() and pixels("b.png").any()
    mask, heat = pixels("m.png"), np.load("h.npy")
    assert done.line["mask_share"] == pytest.approx((mask == 255).mean(), abs=1e-6)
    assert 0 < done.line["mask_share"] < 1
    assert heat.dtype == np.float32
    assert list(np.array(heat.shape) * 4) == done.line["size"]
    before, after = pixels("in.png"), pixels("in.edited.png")
    assert (before == after)[mask == 0].all()
    assert (before != after)[mask == 255].any()
    assert pixels("p.webp").shape[1] > 3 * before.shape[1]


def test_every_field_of_the_api_is_an_option(work: Path, cli: Cli) -> None:
    """Other tests cover the mask picture and several edits."""
    given = {
        "prompt": "a green ball",
        "source_prompt": "a ball",
        "negative_prompt": "a cube",
        "num_inference_steps": 3,
        "strength": 0.7,
        "guidance_scale": 1.0,
        "num_maps_per_mask": 2,
        "mask_encode_strength": 0.4,
        "mask_thresholding_ratio": 2.0,
        "mask_dilation": 1,
        "method": "masked-sdedit",
        "composite": False,
        "seed": 7,
        "preset": "draft",
        "guidance_interval": [0.25, 1.0],
        "inversion_stride": 2,
        "mask_tolerance": 0.5,
        "mask_cleaning": "clean",
        "mask_threshold": 0.4,
        "mask_feather": 0.01,
        "focus": "auto",
        "context_factor": 2.0,
    }
    of_others = [name for name in OWNERS if OWNERS[name] != given["method"]]
    known = {**given, "image": 0, "mask_image": 0, "edits": 0, **dict.fromkeys(of_others)}
    assert known.keys() == EditRequest.__dataclass_fields__.keys()
    arguments = [
        text
        for name, value in given.items()
        if name != "composite"
        for text in (
            "--" + name.replace("_", "-"),
            *(value if isinstance(value, list) else [value]),
        )
    ]
    done = cli("edit", "in.png", *arguments, "--no-composite", "--json")
    assert done.code == 0, done.err
    assert done.line["parameters"] == given
    assert read_record(Path("in.edited.png")).parameters == given


def test_dashes_are_standard_input_and_output(work: Path, cli: Cli) -> None:
    named = cli("edit", "in.png", *PROMPTS, *FAST, "-o", "a.png")
    piped = cli("edit", "-", *PROMPTS, *FAST, stdin=(work / "in.png").read_bytes())
    assert (named.code, piped.code) == (0, 0), named.err + piped.err
    assert (pixels(piped.out) == pixels("a.png")).all()
    assert sorted(p.name for p in work.iterdir()) == ["a.png", "in.png"]


def test_formats_other_than_png_are_written_with_a_note(work: Path, cli: Cli) -> None:
    done = cli("edit", "in.png", *PROMPTS, *FAST, "-o", "a.JPG")
    assert done.code == 0, done.err
    assert "only PNG stores" in done.err
    assert "JPEG changes every pixel" in done.err
    with Image.open("a.JPG") as image:
        assert (image.format, image.size) == ("JPEG", (96, 72))


def test_quiet_prints_nothing(work: Path, cli: Cli) -> None:
    done = cli("edit", "in.png", *PROMPTS, *FAST, "-q")
    assert (done.code, done.out, done.err) == (0, b"", "")


def test_force_overwrites_the_target_of_a_link(work: Path, cli: Cli) -> None:
    (work / "real.png").write_bytes(b"old")
    (work / "out.png").symlink_to("real.png")
    done = cli("edit", "in.png", *PROMPTS, *FAST, "-o", "out.png", "--force")
    assert done.code == 0, done.err
    assert (work / "out.png").is_symlink()
    assert pixels("real.png").shape == (72, 96, 3)


def test_replay_gives_the_same_picture(work: Path, cli: Cli, photo: Image.Image) -> None:
    Image.linear_gradient("L").resize(photo.size).save("m.png")
    arguments = (*PROMPTS, *FAST, "--mask", "m.png", "--seed", 3, "--size", "64x128")
    assert cli("edit", "in.png", *arguments).code == 0
    (work / "m.png").unlink()
    Image.open("in.png").save("same.bmp")  # the same pixels in another file format
    done = cli("replay", "in.edited.png", "same.bmp", "--dtype", "fp32")
    assert done.code == 0, done.err
    assert "identical to in.edited.png in every pixel" in done.err
    other = cli("replay", "in.edited.png", "in.png", "--dtype", "bf16", "-o", "bf16.png")
    assert "differs from in.edited.png by at most" in other.err


def test_replay_on_another_picture_needs_any_input(work: Path, cli: Cli) -> None:
    assert cli("edit", "in.png", *PROMPTS, *FAST).code == 0
    Image.effect_noise((60, 80), 50).save("other.png")
    refused = cli("replay", "in.edited.png", "other.png")
    assert refused.code == 2
    assert "add --any-input" in refused.err
    done = cli("replay", "in.edited.png", "other.png", "--any-input", "-o", "new.png")
    assert done.code == 0, done.err
    assert pixels("new.png").shape == (80, 60)  # grey, as the input


def test_a_photograph_with_a_hole_is_a_mask(work: Path, cli: Cli, photo: Image.Image) -> None:
    with_hole, box = photo.convert("RGBA"), Image.new("L", photo.size, 255)
    box.paste(0, (20, 20, 60, 50))
    with_hole.putalpha(box)
    with_hole.save("hole.png")
    arguments = (*PROMPTS, *FAST, "--mask", "hole.png", "--mask-out", "m.png", "--json")
    done = cli("edit", "in.png", *arguments)
    assert done.code == 0, done.err
    assert (pixels("m.png") == 255 - pixels_of(box)).all()
    assert done.line["mask_read_as"] == "alpha"


def test_a_soft_mask_is_cut_with_a_warning(work: Path, cli: Cli, photo: Image.Image) -> None:
    Image.linear_gradient("L").resize(photo.size).save("soft.png")
    done = cli("edit", "in.png", *PROMPTS, *FAST, "--mask", "soft.png", "-q")
    assert done.code == 0
    assert done.err.startswith("warning: ")
    assert "are grey" in done.err


def test_mask_equals_the_mask_of_edit(work: Path, cli: Cli) -> None:
    files = ("-o", "m.png", "--heatmap-out", "h.png")
    done = cli("mask", "in.png", *PROMPTS, *FAST, *files, "--json")
    assert done.code == 0 and "wrote m.png, h.png: " in done.err, done.err
    assert cli("edit", "in.png", *PROMPTS, *FAST, "--mask-out", "m2.png").code == 0
    assert set(np.unique(pixels("m.png"))) == {0, 255}
    assert (pixels("m.png") == pixels("m2.png")).all()
    assert pixels("h.png").shape == (72, 96, 3)


def test_the_record_contains_no_local_path(work: Path, cli: Cli, tiny: Path) -> None:
    assert cli("edit", "in.png", *PROMPTS, *FAST).code == 0
    record = read_record(work / "in.edited.png")
    assert record.model == f"{tiny.parent.name}/{tiny.name}"
    assert str(work.parent) not in str(record)


def test_the_default_model_is_the_demo_model_of_a_clone(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "model").symlink_to(tiny)
    assert default_model(tmp_path) == str(tmp_path / "demo" / "model")
    with pytest.raises(UsageError, match="No model is given"):
        default_model(tmp_path / "demo")
