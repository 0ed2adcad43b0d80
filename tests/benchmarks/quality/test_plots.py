"""The plot of the presets: labels are readable, and a stored result can be drawn again."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="needs the bench extra")

from matplotlib.text import Text

from benchmarks.app import main
from benchmarks.quality.plots import rows_figure
from benchmarks.quality.summary import Estimate, Measured, stored
from benchmarks.schema import load

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks/results"
PRESETS = RESULTS / "cpu-intel-xeon-2-quality-presets.json"


def crowded() -> Measured:
    """Eight settings with equal rows and almost equal success, and one elsewhere."""
    found = {f"setting {k}": (140.0, 0.75 + 0.001 * k) for k in range(8)}
    found["draft"] = (20.0, 0.6)
    return {
        name: {
            "rows": Estimate(rows, rows, rows),
            "success": Estimate(done, done - 0.05, done + 0.05),
        }
        for name, (rows, done) in found.items()
    }


def presets() -> Measured:
    (result,) = load(PRESETS)
    return stored(result, "presets")


@pytest.mark.parametrize("measured", [presets, crowded])
def test_no_label_covers_another(measured: Any) -> None:
    found = measured()
    figure = rows_figure(found)
    figure.canvas.draw()
    left, _ = figure.axes
    names, numbers = left.get_yticklabels(), left.texts
    assert len(names) == len(numbers) == len(found) and "draft" in {n.get_text() for n in names}
    boxes = [Text.get_window_extent(text) for text in (*names, *numbers)]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_the_settings_with_the_fewest_rows_come_first() -> None:
    left, right = rows_figure(crowded()).axes
    assert left.get_yticklabels()[0].get_text() == "draft"
    assert [text.get_text() for text in left.texts] == [" 20", *[" 140"] * 8]
    points = [line.get_xdata()[0] for line in right.lines if len(line.get_xdata()) == 1]
    assert points == pytest.approx([0.6, *(0.75 + 0.001 * k for k in range(8))])


def test_a_stored_result_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["draw", str(PRESETS), str(tmp_path / "presets.png")])
    assert stop.value.code == 0 and "presets.png" in capsys.readouterr().out
    assert (tmp_path / "presets.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "part"),
    [("cpu-amd-epyc-2-latency", "has no plot"), ("cpu-intel-xeon-2-quality-table", "no presets")],
)
def test_a_result_without_plot_is_refused(tmp_path: Path, name: str, part: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["draw", str(RESULTS / f"{name}.json"), str(tmp_path / "x.png")])
    assert part in str(stop.value.code) and not list(tmp_path.iterdir())
