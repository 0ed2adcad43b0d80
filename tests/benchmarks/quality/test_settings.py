"""Which ways of editing are compared, and on which scenes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.quality import cases, settings
from benchmarks.quality.editors import request_of, texts
from benchmarks.quality.work import part_path
from demo import scenes
from demo.training.data import HELD_OUT


def every() -> list[settings.Setting]:
    fixed = settings.Fixed(10, 5.0, 0.7, 2.5)
    parts = (
        settings.table,
        settings.diffusers,
        settings.curves,
        settings.sweeps,
        settings.instant,
    )
    return [setting for part in parts for setting in part(fixed)]


def test_names_are_unique_within_a_part_and_keys_tell_settings_apart() -> None:
    fixed = settings.Fixed(10)
    for part in (settings.table(fixed), settings.curves(fixed), settings.instant(fixed)):
        names, keys = [s.name for s in part], [s.key for s in part]
        assert len(set(names)) == len(names) and len(set(keys)) == len(keys)


def test_every_setting_of_ours_is_a_valid_request() -> None:
    one = cases.case(cases.DEV)
    requests = [request_of(s, one) for s in every() if s.editor in ("ours", "mask")]
    assert len(requests) > 60
    assert {r.method for r in requests} == {*settings.METHODS, "chordedit"}


def test_only_what_a_setting_says_changes_the_texts() -> None:
    one = cases.case(cases.DEV)
    plain, blind, again = (
        settings.Setting("a"),
        settings.Setting("b", source=False),
        settings.Setting("c", repeat=True),
    )
    assert texts(plain, one) == (one.edit.source, one.edit.target)
    assert texts(blind, one) == ("", one.edit.target)
    assert texts(again, one) == (one.edit.source, one.edit.source)


def test_choosing_and_measuring_and_training_never_meet() -> None:
    measuring = set(scenes.evaluation_seeds(2000))
    choosing = set(range(cases.DEV, cases.DEV + 2000))
    training = set(scenes.training_seeds(65_536)) | set(HELD_OUT)
    assert not measuring & choosing and not measuring & training and not choosing & training


@pytest.mark.parametrize("seed", range(cases.DEV, cases.DEV + 12))
def test_the_truth_of_a_case(seed: int) -> None:
    """The ideal edit changes something inside the region and nothing outside."""
    one = cases.case(seed)
    differs = (one.image != one.ideal.image).any(-1)
    assert (differs & one.region).any() and not (differs & one.outside).any()
    assert not (one.region & one.outside).any()
    assert one.edit.change == ("recolour" if seed % 2 == 0 else "replace")
    assert cases.boxes(one).shape == (len(one.scene.objects), 4)


def test_parts_of_different_settings_or_cases_have_different_files() -> None:
    points = settings.curves(settings.Fixed())
    assert len({part_path(Path(), s, (1, 2)) for s in points}) == len(points)
    one = settings.Setting("a")
    assert part_path(Path(), one, (1, 2)) != part_path(Path(), one, (1, 2, 3))
