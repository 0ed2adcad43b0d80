"""What is printed while a benchmark runs."""

from __future__ import annotations

import pytest

from benchmarks import report


def test_a_long_run_prints_the_remaining_time_into_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard error is not a terminal here: a line now and then, not one for every part."""
    with report.remaining("quality: edits", 100) as show:
        for done in range(1, 101):
            show(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].endswith("quality: edits: 100 of 100")
    monkeypatch.setattr(report, "LINE_SECONDS", 0.0)
    with report.remaining("quality: edits", 4) as show:
        for done in range(1, 5):
            show(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and "1 of 4" in lines[0] and "min left" in lines[2]
    assert lines[-1].endswith("quality: edits: 4 of 4")


def test_a_terminal_shows_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with report.remaining("quality: edits", 2) as show:
        show(1)
        show(2)
    text = capsys.readouterr().err
    assert "quality: edits" in text and "2/2" in text
