"""The published results are of clean commits and name their settings correctly."""

from __future__ import annotations

import inspect
import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import app, machine, overhead, schema
from benchmarks.diffusers_baseline import EditOptions
from benchmarks.quality import edit_set, quality
from benchmarks.quality.settings import DEMO, PAPER
from benchmarks.schema import Machine, Result, ResultError
from benchmarks.workload import Workload
from diffedit import EditRequest
from diffedit.presets import resolve
from engine.checkpoint import Checkpoint

ALL = sorted(schema.COMMITTED.rglob("*.json"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_published_result_is_of_a_clean_commit_or_says_that_it_is_not(path: Path) -> None:
    for result in schema.load(path):
        assert result.machine.commit
        assert result.machine.clean == (path.parent != schema.UNCOMMITTED), result.machine
    text = (schema.COMMITTED.parent / "README.md").read_text()
    assert path.stem.removeprefix("cpu-amd-epyc-2-") in text


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of published results."""
    monkeypatch.setattr(schema, "COMMITTED", tmp_path)
    monkeypatch.setattr(schema, "UNCOMMITTED", tmp_path / "uncommitted")
    return tmp_path


@pytest.mark.parametrize("tree", [("abc", True), ("abc", None), (None, None)])
def test_a_result_of_uncommitted_changes_is_not_published(
    tree: tuple[str | None, bool | None], published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, dirty = tree
    result = Result("overhead", Machine("one", commit=commit, dirty=dirty))
    for name in ("a.json", "deep/a.json"):
        with pytest.raises(ResultError, match="commit first"):
            schema.save(published / name, [result])
    schema.save(published / "uncommitted" / "a.json", [result])
    clean = Result("overhead", Machine("one", commit="abc", dirty=False))
    schema.save(published / "a.json", [clean])

    def never(**options: Any) -> Result:
        raise AssertionError("nothing is measured for a result that would be refused")

    monkeypatch.setattr(app, "source", lambda: tree)
    monkeypatch.setattr(overhead, "_cost", never)
    with pytest.raises(SystemExit, match="commit first"):
        app.main(["overhead", "--json", str(published / "b.json")])


def test_new_and_changed_sources_are_uncommitted_changes_and_documents_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    folder = tmp_path / "benchmarks"
    (folder / "results").mkdir(parents=True)
    source = folder / "machine.py"
    source.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    monkeypatch.setattr(machine, "__file__", str(source))

    def dirty() -> bool | None:
        machine.source.cache_clear()
        commit, found = machine.source()
        assert commit is not None and len(commit) == 12
        return found

    assert dirty() is False
    (folder / "results" / "new.json").write_text("{}")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "plot.png").write_text("")
    (folder / "README.md").write_text("")
    assert dirty() is False
    (tmp_path / "new.py").write_text("")
    assert dirty() is True
    (tmp_path / "new.py").unlink()
    source.write_text("2")
    assert dirty() is True
    machine.source.cache_clear()


@pytest.mark.parametrize(
    ("given", "tree"),
    [("1a2b", ("1a2b", False)), ("1a2b-dirty", ("1a2b", True)), ("", (None, None))],
)
def test_a_copy_without_git_names_its_commit(
    given: str, tree: tuple[object, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    monkeypatch.setenv("DIFFEDIT_COMMIT", given)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    machine.source.cache_clear()
    assert machine.source() == tree
    machine.source.cache_clear()


def test_results_say_when_they_were_measured() -> None:
    result = Result("overhead", Machine("one"))
    assert result.date is not None and result.date.startswith("20") and "+00:00" in result.date
    data = json.loads(json.dumps(result.to_json()))
    assert Result.from_json(data) == result
    del data["date"]
    assert Result.from_json(data) == replace(result, date=None)


# -- settings that follow something else ---------------------------------------------------------


def test_an_edit_set_runs_at_the_papers_settings_and_the_scenes_at_the_chosen_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper: N = 50, n = 10, clip ratio 3, mask at noise 0.5, strengths 0.5 to 0.9."""
    seen: list[Any] = []
    monkeypatch.setattr(edit_set.SetRun, "run", lambda self: seen.append(self))
    monkeypatch.setattr("benchmarks.quality.SceneRun.run", lambda self: seen.append(self))
    quality(edits=tmp_path / "edits.jsonl")
    quality(edits=tmp_path / "edits.jsonl", guidance=5.0, ratio=2.0)
    quality()
    quality(noise=0.5)
    paper, changed, scenes, other = seen
    assert paper.strengths == (0.5, 0.6, 0.7, 0.8, 0.9)
    assert paper._options(0.7) == {
        "method": "diffedit",
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "strength": 0.7,
        "mask_thresholding_ratio": 3.0,
        "mask_encode_strength": 0.5,
        "num_maps_per_mask": 10,
        "mask_dilation": 0,
    }
    assert changed.fixed == replace(PAPER, guidance=5.0, ratio=2.0)
    assert scenes.fixed == DEMO and other.fixed == replace(DEMO, noise=0.5)


def test_diffusers_defaults_are_diffusers_own() -> None:
    from diffusers import StableDiffusionDiffEditPipeline as Pipeline

    mask, invert, decode = (
        {name: one.default for name, one in inspect.signature(call).parameters.items()}
        for call in (Pipeline.generate_mask, Pipeline.invert, Pipeline.__call__)
    )
    ours = asdict(EditOptions())
    assert ours["maps"] == mask["num_maps_per_mask"]
    assert {mask["guidance_scale"], decode["guidance_scale"]} == {ours["guidance"]}
    assert invert["guidance_scale"] == ours["invert_guidance"]
    assert {invert["inpaint_strength"], decode["inpaint_strength"]} == {ours["strength"]}
    steps = {call["num_inference_steps"] for call in (mask, invert, decode)}
    assert steps == {ours["steps"]} and decode["negative_prompt"] is None


def test_the_speed_benchmarks_run_the_papers_edit(tiny: Path) -> None:
    load = Workload(tiny)
    assert (load.steps, load.strength, load.guidance, load.maps) == (50, 0.8, 7.5, 10)
    request = resolve(load.request(), Checkpoint.open(tiny).family.defaults)
    assert isinstance(request, EditRequest)
    assert (request.mask_thresholding_ratio, request.mask_encode_strength) == (3.0, 0.5)
    assert request.mask_dilation == 0 and request.method == "diffedit"
