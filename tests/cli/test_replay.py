"""`replay` says exactly what was different, and its errors name the record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo import random_checkpoint
from diffedit.imaging import png
from diffedit.imaging.mask_reader import EditMask
from diffedit.imaging.metadata import EditRecord, pack_mask, read_record, record_chunks
from diffedit.method_options import has_option
from diffedit.provenance import Fused
from diffedit.request import PARAMETERS, EditRequest
from tests.cli.conftest import FAST, PROMPTS, Cli, check_refused

EDITED = "in.edited.png"


@pytest.fixture(scope="module")
def the_edit() -> list[bytes]:
    """The bytes of one edit, made by the first test that needs it."""
    return []


@pytest.fixture
def edited(work: Path, cli: Cli, the_edit: list[bytes]) -> Path:
    """An edit in fp32 at 64x96."""
    if not the_edit:
        done = cli("edit", "in.png", *PROMPTS, *FAST, "--size", "64x96", "--seed", 3)
        assert done.code == 0, done.err
        the_edit.append((work / EDITED).read_bytes())
    (work / EDITED).write_bytes(the_edit[0])
    return work / EDITED


def rewritten(edited: Path, change: Callable[[EditRecord], EditRecord]) -> None:
    """Change the record in a PNG."""
    record = change(read_record(edited))
    edited.write_bytes(png.encode(Image.open(edited).convert("RGB"), record_chunks(record)))


def test_an_equal_replay_has_no_warning(edited: Path, cli: Cli, tiny: Path) -> None:
    record = read_record(edited)
    assert record.provenance is not None
    assert record.model == record.provenance.model == f"{tiny.parent.name}/{tiny.name}"
    assert str(tiny) not in str(record)
    done = cli("replay", EDITED, "in.png", "--dtype", "fp32", "--json")
    assert "identical to" in done.err and "warning" not in done.err
    assert done.line["provenance"]["precision"] == "fp32"


def test_a_record_states_every_option(edited: Path) -> None:
    """So that a replay does not depend on defaults, which later versions may change."""
    stored = read_record(edited).parameters
    used = {name for name in PARAMETERS if has_option("diffedit", name)} - {"edits"}
    assert set(stored) == used and None not in stored.values()
    assert (stored["strength"], stored["num_maps_per_mask"]) == (0.8, 10)


def test_a_record_of_a_version_with_another_default_preset_is_replayed(
    edited: Path, cli: Cli
) -> None:
    """Records from before there were presets, too: they state the paper's options only."""
    newer = ("preset", "guidance_interval", "inversion_stride", "mask_tolerance", "mask_cleaning")
    before = read_record(edited).parameters
    assert before["preset"] == "paper" != EditRequest.preset

    def without_presets(record: EditRecord) -> EditRecord:
        kept = {n: v for n, v in record.parameters.items() if n not in (*newer, "focus")}
        return replace(record, parameters=kept)

    rewritten(edited, without_presets)
    done = cli("replay", EDITED, "in.png", "--dtype", "fp32", "--json")
    assert "identical to" in done.err and done.line["parameters"] == before


def test_what_is_different_is_named(edited: Path, cli: Cli, work: Path) -> None:
    other = random_checkpoint.make(work / "other" / "model", "tiny", seed=5)
    done = cli("replay", EDITED, "in.png", "--dtype", "bf16", "--model", other)
    assert done.code == 0, done.err
    (warning,) = [line for line in done.err.splitlines() if line.startswith("warning: in.edited")]
    assert "the model is other/model, not " in warning
    assert "the precision is bf16, not fp32" in warning
    assert "see the warning above" in done.err


def test_a_missing_lora_and_other_kernels_are_named(edited: Path, cli: Cli) -> None:
    def with_a_lora(record: EditRecord) -> EditRecord:
        assert record.provenance is not None
        loras = (Fused("style.safetensors", "0" * 64, 0.8),)
        made = replace(record.provenance, loras=loras, kernels=("attention",), backend="tensorrt")
        return replace(record, provenance=made)

    rewritten(edited, with_a_lora)
    done = cli("replay", EDITED, "in.png", "--dtype", "fp32", "-q")
    assert done.code == 0, done.err
    for words in ("style.safetensors (at 0.8) is missing", "CPU kernels", "not tensorrt"):
        assert words in done.err


def test_records_of_older_versions_are_replayed(edited: Path, cli: Cli) -> None:
    rewritten(edited, lambda record: replace(record, provenance=None))
    assert "identical to" in cli("replay", EDITED, "in.png", "--dtype", "fp32").err


@pytest.mark.parametrize("size", [(0, 64), (64, -1), (64, 10**9), (64.5, 64), ("64", "64")])
def test_impossible_sizes_are_damage(size: Any, edited: Path, cli: Cli) -> None:
    rewritten(edited, lambda record: replace(record, size=size))
    check_refused(cli("replay", EDITED, "in.png"), 2, "are damaged")


def test_a_size_of_another_model_is_explained(edited: Path, cli: Cli) -> None:
    rewritten(edited, lambda record: replace(record, size=(30, 64)))
    refused = cli("replay", EDITED, "in.png")
    check_refused(refused, 2, f"{EDITED} was made at 30x64 pixels", "pass the model")
    assert "--size" not in refused.err


def test_a_mask_for_another_picture_is_explained(edited: Path, cli: Cli) -> None:
    mask = Image.linear_gradient("L").resize((96, 72))
    rewritten(edited, lambda record: replace(record, mask=pack_mask(EditMask(mask, "white"))))
    Image.effect_noise((60, 80), 50).save("other.png")
    done = cli("replay", EDITED, "other.png", "--any-input")
    assert done.code == 2
    assert f"The mask that {EDITED} stores does not fit other.png" in done.err
    assert "--mask" not in done.err and "mask_image" not in done.err


@pytest.mark.parametrize(
    "parameters",
    [
        {"strength": 7},
        {"prompt": ""},
        {"num_inference_steps": "many"},
        {"unknown": 1},
        {"method": "sdedit", "mask_dilation": -1},
    ],
)
def test_parameters_that_cannot_be_used(parameters: dict[str, Any], edited: Path, cli: Cli) -> None:
    rewritten(edited, lambda r: replace(r, parameters={**r.parameters, **parameters}))
    check_refused(cli("replay", EDITED, "in.png"), 2, f"{EDITED} stores parameters that cannot")


@pytest.mark.parametrize("provenance", [3, "torch", [], {"model": "x"}, {"kernels": 5}])
def test_damaged_provenances_are_refused(provenance: Any, edited: Path, cli: Cli) -> None:
    record = read_record(edited)
    assert record.provenance is not None
    if isinstance(provenance, dict) and "kernels" in provenance:
        provenance = {**asdict(record.provenance), **provenance}
    values = {**asdict(record), "provenance": provenance}
    chunk = png.text_chunk("diffedit", json.dumps(values), compress=True)
    edited.write_bytes(png.encode(Image.open(edited).convert("RGB"), [chunk]))
    check_refused(cli("replay", EDITED, "in.png"), 2, "are damaged")


def test_how_the_mask_was_read_is_kept(work: Path, cli: Cli) -> None:
    hole = Image.open("in.png").convert("RGBA")
    hole.paste((0, 0, 0, 0), (20, 10, 60, 50))
    hole.save("hole.png")
    done = cli("edit", "in.png", *PROMPTS, *FAST, "--mask", "hole.png", "--json")
    assert done.line["mask_read_as"] == "alpha", done.err
    assert read_record(work / EDITED).mask_read_as == "alpha"
    again = cli("replay", EDITED, "in.png", "--dtype", "fp32", "--json")
    assert again.line["mask_read_as"] == "alpha" and "identical to" in again.err
    assert read_record(work / "in.edited.replay.png").mask_read_as == "alpha"


@pytest.mark.parametrize("value", ["grey", 7, ["alpha"]])
def test_an_unknown_way_to_read_a_mask_is_damage(edited: Path, cli: Cli, value: Any) -> None:
    rewritten(edited, lambda record: replace(record, mask_read_as=value))
    check_refused(cli("replay", EDITED, "in.png"), 2, "damaged")


def test_another_size_is_named(edited: Path, cli: Cli) -> None:
    """The sentence was "everything that it records is the same"."""
    done = cli("replay", EDITED, "in.png", "--dtype", "fp32", "--size", "32x48")
    assert "the size is 32x48, not 64x96" in done.err
    assert "everything that it records is the same" not in done.err
