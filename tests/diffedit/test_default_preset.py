"""The default preset with every kind of model and method: rows, and whose options are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffedit import EditRequest
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import Schedule
from diffedit.presets import DEFAULT_PRESET, PRESETS, PresetName, default_text, preset_help, resolve
from diffedit.request import parameters
from engine.models import FEW_STEPS, Defaults
from engine.models.family import LCM
from engine.models.flux import FLOWEDIT, FLOWEDIT_SCHNELL
from tests.algorithm.flow_tools import SD_CONFIG

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROWS: dict[str, tuple[Defaults, tuple[int, int, int]]] = {
    "Stable Diffusion 1 and 2, SDXL (50 steps)": (Defaults(), (140, 34, 18)),
    "Stable Diffusion 3 and 3.5 large (28 steps)": (Defaults(28, 7.0), (86, 22, 18)),
    "FLUX.1 dev (28 steps, guidance is an input)": (Defaults(28, 3.5, "embedded"), (64, 18, 13)),
    "Turbo, Lightning, schnell (4 steps, no guidance)": (FEW_STEPS, (26, 12, 8)),
    "LCM (4 steps, guidance is an input)": (LCM, (26, 12, 8)),
}
"""Rows of an edit under paper, balanced and draft."""


def request(**options: Any) -> EditRequest:
    return EditRequest(b"", "a pear", **options)


def rows(family: Defaults, preset: PresetName) -> int:
    """Denoiser rows of an edit, at most."""
    chosen = resolve(request(preset=preset), family)
    schedule = Schedule.from_config(SD_CONFIG, chosen.num_inference_steps)
    embedded = family.guidance == "embedded"
    return EditPlan.for_edit(chosen, schedule, embeds_guidance=embedded).rows


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_every_kind_of_model_are_those_of_the_documentation(name: str) -> None:
    family, wanted = ROWS[name]
    assert (rows(family, "paper"), rows(family, "balanced"), rows(family, "draft")) == wanted
    assert f"| {name} | {' | '.join(map(str, wanted))} |" in (DOCS / "presets.md").read_text()


def test_the_documents_name_the_default() -> None:
    assert f"The default is `{DEFAULT_PRESET}`" in (DOCS / "presets.md").read_text()
    (row,) = [r for r in (DOCS / "server.md").read_text().splitlines() if r[:10] == "| `preset`"]
    assert row.endswith(f"| `{DEFAULT_PRESET}` |")


def test_distilled_models_keep_their_steps() -> None:
    used = resolve(request(), FEW_STEPS)
    assert (used.num_inference_steps, used.guidance_scale, used.inversion_stride) == (4, 1, 1)
    assert (used.num_maps_per_mask, used.mask_cleaning) == (3, "edges")


@pytest.mark.parametrize("published", [FLOWEDIT, FLOWEDIT_SCHNELL], ids=["dev", "schnell"])
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "instant"])
def test_flowedit_is_as_published_in_every_preset(published: Any, preset: PresetName) -> None:
    """A preset decides its mask only: fewer steps of FlowEdit were never measured."""
    family = Defaults(28, 3.5, "embedded", published)
    used = resolve(request(preset=preset, method="flowedit"), family)
    assert (used.num_inference_steps, used.n_max) == (published.steps, published.n_max)
    assert used.num_maps_per_mask == PRESETS[preset].options["num_maps_per_mask"]
    assert used.mask_cleaning == PRESETS[preset].options["mask_cleaning"]


def test_chordedit_has_its_own_steps() -> None:
    by_method = parameters(resolve(request(method="chordedit"), FEW_STEPS))
    instant = parameters(resolve(request(preset="instant"), FEW_STEPS))
    different = {name for name in instant if instant[name] != by_method[name]}
    assert different == {"preset", "mask_tolerance"}
    assert by_method["num_maps_per_mask"] == 1  # one noise: a tolerance changes nothing


@pytest.mark.parametrize("method", ["encode-decode", "masked-sdedit", "sdedit"])
def test_the_ablations_have_the_steps_of_the_preset(method: Any) -> None:
    used, plain = (resolve(request(method=m), Defaults()) for m in (method, "diffedit"))
    assert parameters(used) == parameters(plain) | {"method": method}


def test_help_says_what_the_default_saves() -> None:
    assert default_text("num_inference_steps").endswith("paper 1, balanced 0.4, draft 0.2")
    assert "balanced: a quarter of the paper's rows" in preset_help()
    assert default_text("num_maps_per_mask") == (
        "the preset's: paper 10, balanced 3, draft 1, instant 1"
    )
