"""What a shell offers when Tab is pressed: commands, options, and the values of choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

import pytest

from diffedit import arguments
from diffedit.cli import main, model_options
from diffedit.presets import PRESETS
from diffedit.request import CLEANINGS, METHODS
from engine.netspec import Precision
from tests.cli.commands import COMMANDS

Offer = Callable[[str], list[str]]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offer:
    """A function: the completions that bash gets for a line whose last word is incomplete."""

    def offer(line: str) -> list[str]:
        monkeypatch.setenv("_DIFFEDIT_TRT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        with pytest.raises(SystemExit) as stop:
            main([])
        assert stop.value.code == 0
        return capsys.readouterr().out.split()

    return offer


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("edit --preset", PRESETS),
        ("mask --preset", PRESETS),
        ("edit --method", METHODS),
        ("edit --mask-cleaning", CLEANINGS),
        ("edit --focus", ("auto", "on", "off")),
        ("edit --mask-format", ("auto", "alpha", "white", "black")),
        ("serve --backend", arguments.BACKENDS),
        ("batch --dtype", get_args(Precision)),
        ("replay --device", ("cpu", "cuda")),
        ("edit --prediction-type", ("epsilon", "v_prediction")),
        ("build --target", ("auto", "onnx", "tensorrt", "tensorrt-rtx")),
        ("build sd15 --verify", ("default", "all", "none")),
    ],
)
def test_the_values_of_an_option(offered: Offer, option: str, values: Iterable[str]) -> None:
    assert set(offered(f"diffedit-trt {option} ")) == set(values)


def test_values_that_begin_with_the_typed_text(offered: Offer) -> None:
    assert offered("diffedit-trt edit --preset ba") == ["balanced"]
    assert offered("diffedit-trt edit --preset x") == []


def test_commands_and_options(offered: Offer) -> None:
    assert "restore" in offered("diffedit-trt ") and offered("diffedit-trt en") == ["engines"]
    assert set(offered("diffedit-trt edit --pre")) == {"--preset", "--prediction-type"}
    assert set(offered("diffedit-trt build --com")) == {"--compute-capability"}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_offers_its_options(offered: Offer, path: tuple[str, ...]) -> None:
    assert "--help" in offered(f"diffedit-trt {' '.join(path)} --")


def test_the_backends_are_those_of_the_python_api() -> None:
    assert model_options.BACKENDS == arguments.BACKENDS
