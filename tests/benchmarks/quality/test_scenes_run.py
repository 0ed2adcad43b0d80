"""The whole run on the demo's scenes, with a tiny random model and the judge that ships."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import app, schema
from benchmarks.configuration import Configuration
from benchmarks.networks import DENOISER
from benchmarks.quality import plots, quality, settings, sheets, work, workers_for
from benchmarks.quality.cases import case
from benchmarks.quality.editors import Editors
from benchmarks.quality.settings import Fixed, Setting
from benchmarks.schema import Result
from engine.checkpoint import Checkpoint
from engine.errors import DiffEditError


def run(model: Path, out: Path, **more: Any) -> Result:
    fixed: dict[str, Any] = {"dtype": "fp32", "workers": 1, "ratio": 1.9}
    return quality(model, out=out, **(fixed | more))


def value(result: Result, setting: str, figure: str, part: str = "table") -> float:
    found = result.find(figure, part=part, setting=setting).value
    assert found is not None
    return found


CPU = Configuration(dtype="fp32")
SHOW = (1_000_004, 1_000_001)


@pytest.fixture(scope="module")
def table(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("quality")
    return run(tiny, out, parts=("table",), count=6, sample=4, steps=4, show=SHOW), out


@pytest.mark.slow
def test_the_table_has_every_editor_and_its_references(table: tuple[Result, Path]) -> None:
    result, out = table
    rows = [row for row in result.measurements if row.labels["part"] == "table"]
    every = (*settings.table(Fixed()), *settings.diffusers(Fixed()))
    assert {row.labels["setting"] for row in rows} == {s.name for s in every}
    counts = {row.labels["setting"]: row.repeats for row in rows if row.name == "success"}
    assert (counts["balanced"], counts["diffusers, its defaults"]) == (6, 4)
    assert value(result, "ideal edit", "success") >= 0.8  # the judge on a perfect edit
    assert value(result, "input, untouched", "success") == 0
    assert value(result, "input, untouched", "equal") == 1
    assert value(result, "ideal edit", "background_db") == 99
    assert value(result, "VAE round trip", "background_db") < 40
    (written,) = schema.load(out / "table.json")
    assert written.measurements == Result.from_json(result.to_json()).measurements
    page = (out / "tables.md").read_text()
    assert re.search(r"\| SDEdit +\| ", page) and re.search("MISSED +edit success", page)


@pytest.mark.slow
def test_compositing_keeps_every_pixel_outside_the_mask(table: tuple[Result, Path]) -> None:
    changed = {
        name: value(table[0], name, "changed_outside_mask")
        for name in ("balanced", "balanced, true mask", settings.BARE_ROW)
    }
    assert changed["balanced"] == changed["balanced, true mask"] == 0
    assert changed[settings.BARE_ROW] > 0
    assert value(table[0], "diffusers, its defaults", "changed_outside_mask") > 0


@pytest.mark.slow
def test_the_true_mask_has_an_iou_of_one(table: tuple[Result, Path]) -> None:
    assert value(table[0], "balanced, true mask", "iou") > 0.9  # its blend fades inwards
    assert value(table[0], "DiffEdit", "iou") < 0.9  # random weights find nothing


@pytest.mark.slow
def test_every_target_is_checked_and_random_weights_miss(table: tuple[Result, Path]) -> None:
    checks = table[0].checks
    assert len(checks) == 10 and {check.met for check in checks} == {True, False}
    assert [check.met for check in checks if "edit success" in check.text] == [False]
    assert [check.met for check in checks if "changed outside" in check.text] == [True]


@pytest.mark.slow
def test_sheets_are_drawn(table: tuple[Result, Path]) -> None:
    from PIL import Image

    for name in ("best-and-worst.png", "side-by-side.png"):
        with Image.open(table[1] / name) as page:
            assert page.width > 700 and len(page.convert("RGB").getcolors(1 << 20) or ()) > 50
    with Image.open(table[1] / "shown.png") as page:
        assert page.height == 2 * 132
        first = np.array(page.convert("RGB"))[:128, :128].astype(int)
        assert np.abs(first - case(1_000_004).image).mean() < 6  # 256 colours for the whole sheet
    with pytest.raises(DiffEditError, match=r"--show has seed 7, but .* 1000000 to 1000001"):
        sheets.chosen({"seed": np.array([1_000_000, 1_000_001])}, [1_000_001, 7], table[1])


@pytest.mark.slow
def test_a_resumed_run_keeps_what_is_there(table: tuple[Result, Path], tiny: Path) -> None:
    found, out = table
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
    # The paper's: elsewhere a rounding can end the search for the mask a noise earlier.
    paper = settings.presets(replace(settings.DEMO, steps=4, ratio=1.9))[0]
    name = work.part_path(Path(), paper, range(1_000_000, 1_000_006)).name
    (first,) = out.rglob(name)
    first.unlink()
    again = run(tiny, out, parts=("table",), count=6, sample=4, steps=4, resume=True)
    for one, other in zip(again.measurements, found.measurements, strict=True):
        assert (one.name, one.labels) == (other.name, other.labels)
        if one.name != "seconds":  # other batches round in another way
            assert one.value == pytest.approx(other.value, 1e-3, 1e-3, nan_ok=True), one
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
    assert set(after) == set(before)
    assert {p for p in after if after[p] != before[p]} == {first}


@pytest.mark.slow
def test_curves_and_sweeps_are_drawn(tiny: Path, tmp_path: Path) -> None:
    result = run(tiny, tmp_path, parts=("curves", "sweeps"), count=2, curve_steps=2)
    rows = {(row.labels["part"], row.labels["setting"]) for row in result.measurements}
    points = [part for part, _ in rows]
    assert points.count("curves") == 6 * (3 + 3 + 1) and len(result.checks) == 5
    assert value(result, "reconstruct 0.5", "picture_db", "curves") < 99
    swept = settings.SWEPT
    blind = len(swept["mask_thresholding_ratio"])  # once more without a source text
    assert points.count("sweeps") == sum(map(len, swept.values())) + blind
    assert all(
        (tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("trade-off", "sweeps")
    )


def test_what_fails_leaves_the_finished_parts(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Editors, image: Any) -> Any:
        raise DiffEditError("the disk is full")

    monkeypatch.setattr(Editors, "round_trip", fail)
    chosen = [Setting("input", "none"), Setting("vae", "vae")]
    with pytest.raises(DiffEditError, match="disk is full"):
        work.measure(
            tiny,
            CPU,
            chosen,
            range(970_000, 970_004),
            root=tmp_path,
            workers=1,
            resume=False,
        )
    assert len(list(tmp_path.rglob("*.npz"))) == 1 and not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_two_processes_find_the_same(tiny: Path, tmp_path: Path) -> None:
    fixed = {"preset": "paper", "num_inference_steps": 3, "num_maps_per_mask": 2}
    chosen = [Setting("ideal", "ideal"), Setting("ours", options=fixed)]
    found = [
        work.measure(
            tiny,
            CPU,
            chosen,
            range(970_000, 970_000 + work.CHUNK + 2),
            root=tmp_path / str(workers),
            workers=workers,
            resume=False,
        )
        for workers in (1, 2)
    ]
    for name in ("ideal", "ours"):
        for figure in found[0][name].keys() - {"seconds"}:
            values = found[0][name][figure]
            other = found[1][name][figure]
            assert np.allclose(values, other, rtol=0.02, atol=0.02, equal_nan=True), figure


def test_a_shared_mask_changes_nothing_but_the_work(tiny: Path) -> None:
    options = {"preset": "paper", "num_inference_steps": 4, "num_maps_per_mask": 3}
    options["mask_thresholding_ratio"] = 1.5
    found, shared, true = (Setting(m, options=options, mask=m) for m in ("found", "shared", "true"))
    editors = Editors(tiny, CPU)
    some = [case(seed, 64) for seed in range(970_000, 970_003)]
    for one, a, b, c in zip(
        some, *(editors.run(s, some) for s in (found, shared, true)), strict=True
    ):
        assert a.mask is not None and a.mask.any() and not a.mask.all()
        assert (a.mask == b.mask).all() and abs(a.after.astype(int) - b.after).max() <= 1
        assert (c.mask == one.region).all()
    rows = editors.pipeline.batcher.calls[DENOISER]
    list(editors.run(replace(shared, options={**options, "strength": 0.5}), some))
    again = editors.pipeline.batcher.calls[DENOISER] - rows
    assert 0 < again <= 2 * len(some)  # two steps of decoding each, and nothing else
    editors.close()


def test_models_do_not_share_parts(tiny: Path, tiny_v: Path, tmp_path: Path) -> None:
    folders = {
        work.work_folder(tmp_path, model, configuration)
        for model, configuration in (
            (tiny, Configuration()),
            (tiny_v, Configuration()),
            (tiny, CPU),
            (tiny, Configuration("onnxruntime", Path("engines"))),
        )
    }
    assert len(folders) == 4


def test_the_best_edits_come_first() -> None:
    columns = {
        "success": np.array([0.0, 1.0, 1.0, 0.0]),
        "confidence": np.array([0.99, 0.6, 0.9, 0.2]),
        "kind_right": np.array([0.0, 1.0, 1.0, 1.0]),
        "colour_right": np.array([0.0, 1.0, 1.0, 0.0]),
        "others_right": np.array([1.0, 1.0, 1.0, 1.0]),
        "iou": np.array([0.5, 0.5, 0.5, 0.5]),
    }
    assert sheets.ranked(columns).tolist() == [2, 1, 3, 0]


def test_labels_exist_for_every_method_and_sweep() -> None:
    assert set(plots.LABELS) == set(plots.COLOURS) == set(settings.METHODS)
    assert set(plots.SWEEP_LABELS) == set(settings.SWEPT)


def test_large_networks_and_gpus_get_one_process(tiny: Path, monkeypatch: Any) -> None:
    checkpoint = Checkpoint.open(tiny)
    assert workers_for(checkpoint, "cpu") >= 1
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert workers_for(checkpoint, "cpu") == 6
    monkeypatch.setattr("benchmarks.quality.SMALL", 10)
    assert workers_for(checkpoint, "cpu") == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--parts", "tabel"), "use some of presets,table,curves,sweeps"),
        (("--strengths", "0.5;0.7"), "is not a comma-separated list"),
    ],
)
def test_options_that_make_no_sense(
    more: tuple[str, ...], sentence: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        app.main(["quality", "--model", str(tiny), *more])
    text = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert sentence in text


def test_one_edit_has_no_interval(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(DiffEditError, match="--count is 1"):
        run(tiny, tmp_path, count=1)
