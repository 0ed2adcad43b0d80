"""Rows and seconds of the edits, and the part that compares the presets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.configuration import Configuration
from benchmarks.networks import DENOISER
from benchmarks.quality import quality, settings, work
from benchmarks.quality.cases import DEV, case
from benchmarks.quality.editors import Editors
from benchmarks.quality.settings import Setting
from benchmarks.quality.summary import summarise
from diffedit.presets import PRESETS

CPU = Configuration(dtype="fp32")
SIX = {
    "preset": "paper",
    "num_inference_steps": 6,
    "num_maps_per_mask": 3,
    "mask_thresholding_ratio": 1.5,
}


def test_an_edit_alone_runs_its_rows_in_the_modules_and_finds_nothing_cached(tiny: Path) -> None:
    editors, one = Editors(tiny, CPU), case(DEV, 64)
    ours = Setting("ours", options={**SIX, "strength": 0.5, "guidance_interval": (0.2, 1.0)})
    list(editors.run(ours, [one]))  # the trajectory is now in the first pipeline's cache
    seen: list[int] = []
    networks: Any = editors.pipeline.networks
    hook = networks.modules[DENOISER].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(args[0] if args else kwargs["sample"])),
        with_kwargs=True,
    )
    rows, seconds = editors.alone(ours, one)
    hook.remove()
    assert rows == sum(seen) == 6 + 3 + (2 + 2 + 1)
    assert seconds > 0
    shared = editors.alone(Setting("s", options=ours.options, mask="shared"), one)
    assert shared[0] == rows  # an edit of its own finds its own mask
    assert editors.alone(Setting("m", "mask", options=SIX), one)[0] == 6
    assert np.isnan(editors.alone(Setting("vae", "vae"), one)).all()
    list(editors.run(ours, [one]))  # the shared networks are still open
    editors.close()


def test_the_first_edit_of_a_part_has_rows_and_the_others_take_no_part(
    tiny: Path, tmp_path: Path
) -> None:
    chosen = [Setting("ours", options=SIX), Setting("input", "none")]
    found = [
        work.measure(
            tiny, CPU, chosen, range(DEV, DEV + 2), root=tmp_path, workers=1, resume=True, chunk=n
        )
        for n in (2, 1)
    ]
    rows = found[0]["ours"]["rows"]
    assert rows[0] > 6 and np.isnan(rows[1])
    assert (found[1]["ours"]["rows"] == rows[0]).all()
    assert summarise(found[0]["ours"])["rows"].mean == rows[0]
    assert "rows" not in summarise(found[0]["input"])


def test_a_part_of_another_preset_is_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting("a", options={"preset": "balanced"})
    other = Setting("b", options={"preset": "paper"})
    before, paper = setting.key, other.key
    monkeypatch.setitem(PRESETS, "balanced", PRESETS["draft"])
    assert setting.key != before and other.key == paper


@pytest.mark.slow
def test_the_presets_are_compared_with_the_papers_setting(tiny: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": "fp32", "workers": 1, "ratio": 1.9, "steps": 12}
    result = quality(tiny, out=tmp_path, parts=("presets", "speed"), count=2, **options)

    def value(part: str, setting: str, figure: str = "rows") -> float:
        number = result.find(figure, part=part, setting=setting).value
        assert number is not None
        return number

    names = {setting.name for setting in settings.presets(settings.Fixed())}
    for name in names:
        assert value("presets", name) == value("speed", name)
    assert value("presets", "balanced") < value("presets", settings.PAPER_ROW)
    assert value("presets", "instant") <= 8
    compared = {r.labels["setting"] for r in result.measurements if "ahead" in r.labels["part"]}
    assert compared == names - {settings.PAPER_ROW}
    assert len(result.checks) == 4
    assert (tmp_path / "presets.png").stat().st_size > 10_000
    assert "| rows" in (tmp_path / "tables.md").read_text()


@pytest.mark.slow
def test_sigterm_ends_the_processes_of_a_run(tiny: Path, tmp_path: Path) -> None:
    options = ["--parts", "presets", "--count", "40", "--workers", "2", "--steps", "4"]
    command = [sys.executable, "-m", "benchmarks", "quality", "--model", str(tiny), *options]
    run = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(1200):
            if any(tmp_path.rglob("*.npz")):
                break
            time.sleep(0.1)
        assert any(tmp_path.rglob("*.npz"))
        run.terminate()
        assert run.wait(30) == 143
        for _ in range(100):
            if not group_has_processes(run.pid):
                return
            time.sleep(0.1)
        raise AssertionError("a worker has outlived the run")
    finally:
        if group_has_processes(run.pid):
            os.killpg(run.pid, signal.SIGKILL)


def group_has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
