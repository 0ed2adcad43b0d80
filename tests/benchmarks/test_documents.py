"""Figures in the documents are those of the published results."""

from __future__ import annotations

import re

import pytest

from benchmarks import schema
from benchmarks.quality.settings import INSTANT, instant_name
from tests.benchmarks.documents import ROOT, agrees, published, rows

EDITORS = {
    "ideal edit, through the VAE": "ideal edit through the VAE",
    "the program's defaults": "the program's defaults",
    "`balanced`": "balanced",
    "mask grown by a cell (`mask_dilation=1`)": "balanced, mask grown by a cell",
    "without a source text": "balanced, no source text",
    "with the true mask": "balanced, true mask",
    'with the paper\'s mask (`mask_cleaning="none"`)': "balanced, paper's mask",
    "without compositing": "balanced, no compositing",
    "`paper`": "DiffEdit",
    '`paper` with `mask_cleaning="clean"`': "DiffEdit, cleaned mask",
    "encode-decode (no mask)": "encode-decode",
    "masked SDEdit (no encoding), without compositing": "masked SDEdit",
    "SDEdit (neither)": "SDEdit",
    "diffusers, its defaults": "diffusers, its defaults",
    "diffusers, plain inversion as in the paper": "diffusers, plain inversion",
}
"""Rows of the table in docs/quality.md -> settings."""


FIGURES = ("rows", "success", "background_db", "iou", "recall")


def test_the_quality_table_has_every_row_once() -> None:
    assert list(rows("docs/quality.md", "## 200 edits at one setting")) == list(EDITORS)


@pytest.mark.parametrize("label", EDITORS)
def test_the_quality_in_the_documents_is_the_published_one(label: str) -> None:
    cells = rows("docs/quality.md", "## 200 edits at one setting")[label]
    result = published("cpu-intel-xeon-2-quality-table")
    for figure, cell in zip(FIGURES, cells, strict=True):
        if not re.search(r"\d", cell) or (label.startswith("ideal") and cell == "1"):
            continue  # no mask is searched for an ideal edit
        assert agrees(cell, result.find(figure, setting=EDITORS[label])), (figure, cell)


def test_the_perceptual_distances_in_the_documents_are_the_published_ones() -> None:
    page = " ".join((ROOT / "docs/quality.md").read_text().split())
    sentence = page[page.index("The perceptual distance between") :].partition("`draft` and")[0]
    result = published("cpu-intel-xeon-2-quality-table")
    settings = (
        "the program's defaults",
        "balanced",
        "DiffEdit",
        "diffusers, plain inversion",
        "diffusers, its defaults",
        "input, untouched",
    )
    cells = re.findall(r"\d\.\d+ \[[^]]+\]", sentence)
    for setting, cell in zip(settings, cells, strict=True):
        assert agrees(cell, result.find("perceptual", setting=setting)), setting


def test_the_curves_in_the_documents_are_the_published_ones() -> None:
    table = rows("docs/quality.md", "## Success against background")
    result = published("cpu-intel-xeon-2-quality-options")
    methods = ("diffedit, clip ratio 4", "masked-sdedit", "encode-decode", "sdedit")
    assert list(table) == ["0.5", "0.6", "0.7", "0.8", "0.9", "1"]
    for strength, (*edits, again) in table.items():
        for method, cell in zip(methods, edits, strict=True):
            setting = f"{method} at {strength}"
            success, kept = cell.split(", ")
            assert agrees(success, result.find("success", setting=setting)), (setting, cell)
            assert agrees(kept, result.find("background_db", setting=setting)), (setting, cell)
        assert agrees(again, result.find("picture_db", setting=f"reconstruct {strength}"))


FEW_STEPS = "cpu-amd-epyc-2-quality-few-steps"


def test_the_instant_edits_in_the_documents_are_the_published_ones() -> None:
    table = rows("docs/quality.md", "## The preset instant")
    plain, distilled = published("cpu-amd-epyc-2-quality-instant"), published(FEW_STEPS)
    assert len(table) == len(INSTANT)
    for label, (cost, success, success_distilled) in table.items():
        scale, refining = label.partition(":")[0].split(", ")
        setting = instant_name(float(scale), int(refining))
        for result, cell in ((plain, success), (distilled, success_distilled)):
            assert agrees(cost, result.find("rows", part="instant", setting=setting)), label
            assert agrees(cell, result.find("success", part="instant", setting=setting)), label


def test_the_page_about_instant_repeats_published_figures() -> None:
    table = rows("docs/instant.md", "## Measured")
    plain, few = "cpu-amd-epyc-2-quality-instant", FEW_STEPS
    wanted = {
        "`paper`": ("cpu-intel-xeon-2-quality-table", "table", "DiffEdit"),
        "`instant`": (plain, "instant", instant_name(1.5, 1)),
        "`instant`, distilled by the few-step LoRA": (few, "presets", "instant"),
        "`instant --refining-rows 2`, distilled": (few, "instant", instant_name(1, 2)),
        "`balanced` (4 steps), distilled": (few, "presets", "balanced"),
    }
    assert table.keys() == wanted.keys()
    for label, (name, part, setting) in wanted.items():
        for figure, cell in zip(("rows", "success"), table[label], strict=True):
            assert agrees(cell, published(name).find(figure, part=part, setting=setting)), label


@pytest.mark.parametrize("preset", ["paper", "balanced", "draft", "instant"])
def test_the_presets_of_the_distilled_model_are_the_published_ones(preset: str) -> None:
    cells = rows("docs/quality.md", "The presets with the distilled model")[f"`{preset}`"]
    result, setting = published(FEW_STEPS), "DiffEdit" if preset == "paper" else preset
    for figure, cell in zip(("rows", "success", "iou"), cells, strict=True):
        found = result.find(figure, part="presets", setting=setting)
        assert agrees(cell, found), (figure, cell)


def test_the_differences_of_the_distilled_model_are_the_published_ones() -> None:
    text = " ".join((ROOT / "docs/quality.md").read_text().split())
    said = re.search(r"ahead of `paper` by (\+.*?\]), and `balanced` is behind by (.*?\])\.", text)
    assert said is not None
    ahead, behind = said.groups()
    result = published(FEW_STEPS)
    assert agrees(ahead, result.find("success", part="ahead of the paper", setting="instant"))
    found = result.find("success", part="ahead of the paper", setting="balanced")
    assert found.value is not None and found.low is not None and found.high is not None
    assert behind == f"{-found.value:.3f} [{-found.high:.3f}, {-found.low:.3f}]"


@pytest.mark.parametrize(
    ("label", "setting"),
    [
        ("without `focus`", "balanced, without focus"),
        ("with `focus`", "balanced, with focus"),
    ],
)
def test_the_edits_of_large_photographs_are_the_published_ones(label: str, setting: str) -> None:
    cells = rows("docs/quality.md", "## Large photographs")[label]
    result = published("cpu-intel-xeon-2-quality-options")
    for figure, cell in zip(("sharpness", "success", "rows"), cells, strict=True):
        assert agrees(cell, result.find(figure, setting=setting)), (figure, cell)


def test_every_result_that_a_document_names_exists() -> None:
    """docs/speed.md may also use short names, such as `overhead.json`."""
    texts = {path.name: path.read_text() for path in ROOT.glob("docs/*.md")}
    texts["LOG.md"] = (ROOT / "benchmarks/LOG.md").read_text()
    names = [
        match
        for name, text in texts.items()
        for match in re.findall(r"`([\w/]*/)?([a-z0-9*-]+)\.json`", text)
        if name == "speed.md" or match[1].startswith("cpu-")
    ]
    assert len(names) > 12
    for folder, name in names:
        where = schema.UNCOMMITTED if "uncommitted" in folder else schema.COMMITTED
        file = name if name.startswith("cpu-") else f"cpu-amd-epyc-2-{name}"
        assert list(where.glob(f"{file}.json")), (folder, name)
