"""Impossible arguments of the command line: each gives an error of one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffedit.cli import main
from tests.cli.conftest import PROMPTS, Cli, check_refused, snapshot

LONG = "n" * 300


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--device", "mps"], 2, "only CPUs and NVIDIA GPUs"),
        (["--device", "xpu"], 2, "no device 'xpu'"),
        (["--device", "cuda:99"], 2, "device is cuda:99, but"),
        (["--device", "cuda:-1"], 2, "no device 'cuda:-1'"),
        (["--device", ""], 2, "no device ''"),
        (["--dtype", "float16"], 2, "it is called 'fp16' here"),
        (["--dtype", ""], 2, "no dtype ''"),
        (["--backend", "Torch"], 2, "did you mean 'torch'"),
        (["--size", "0x64"], 2, "--size is wrong"),
        (["--size", "-64"], 2, "--size is wrong"),
        (["--size", "64x64x64"], 2, "--size is wrong"),
        (["--size", "99999999x64"], 2, "size is (99999999, 64)"),
        (["--size", "9" * 5000], 2, "--size is wrong"),
        (["--pin-batch-size", "99999"], 2, "pin_batch_size is 99999"),
        (["--variant", "../x"], 2, "variant is '../x'"),
        (["--revision", ""], 2, "revision is blank"),
        (["--engines", "in.png"], 2, "engines is in.png, which is a file"),
        (["--engines", LONG], 2, "too long for a path"),
        (["--engines", "nowhere"], 4, "has no engines"),
        (["--model", "a\0b"], 2, "model is"),
        (["--model", LONG], 2, "too long for a path"),
        (["--model", "~nobody-of-this-name/x"], 2, "no such home folder"),
        (["--model", " "], 2, "model is ' '"),
        (["--seed", "9" * 30], 2, "seed is 9999"),
        (["--steps", "-5"], 2, "num_inference_steps is -5"),
        (["--guidance", "1e400"], 2, "guidance_scale is inf"),
        (["--prompt", "a\0b"], 2, "contains a NUL"),
        (["--prompt", "\ud800"], 2, "unpaired surrogate"),
        (["--out", "a\0b.png"], 2, "is not a valid file name"),
        (["--out", "\ud800.png"], 2, "is not a valid file name"),
        (["--out", LONG + ".png"], 5, "cannot be written (File name too long)"),
        (["--out", "nowhere/a.png"], 5, "there is no folder"),
        (["--out", "in.png/a.png"], 5, "cannot be written"),
        (["--out", ".png"], 2, "extension of a supported picture format"),
        (["--mask-out", "nowhere/m.png"], 5, "there is no folder"),
        (["--heatmap-out", "h.csv"], 2, "extension of a supported picture format"),
        (["--panel", LONG + ".png"], 5, "cannot be written"),
        (["--mask", "a\0b.png"], 2, "mask"),
        (["--mask", LONG + ".png"], 2, "mask"),
        (["--mask", ""], 2, "mask"),
        (["b.png", "c.png"], 2, "2 more files (b.png, c.png); run many edits with `diffedit-trt"),
        ([f"{n}.png" for n in range(50)], 2, "50 more files (0.png, 1.png, 2.png, ...)"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_edit(arguments: list[str], code: int, words: str, work: Path, cli: Cli) -> None:
    before = snapshot(work)
    check_refused(cli("edit", "in.png", *PROMPTS, *arguments), code, words)
    assert snapshot(work) == before


@pytest.mark.parametrize("image", ["a\0b.png", "\ud800.png", LONG + ".png", "", "."])
@pytest.mark.parametrize("command", ["edit", "mask"])
def test_pictures_that_no_file_can_be(command: str, image: str, work: Path, cli: Cli) -> None:
    done = cli(command, image, *PROMPTS, "-o", "o.png")
    check_refused(done, 2, "picture")


@pytest.mark.parametrize("edited", [LONG + ".png", "", ".", "in.png"])
def test_replay_of_no_result(edited: str, work: Path, cli: Cli) -> None:
    check_refused(cli("replay", edited, "in.png"), 2)


@pytest.mark.parametrize("option", ["--engines", "--mask-out", "--panel", "--heatmap-out"])
def test_a_nul_in_a_path_is_a_usage_error(option: str, work: Path, cli: Cli) -> None:
    done = cli("edit", "in.png", *PROMPTS, option, "a\0b.png")
    assert done.code == 2
    assert "Usage" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("folder", ["a\0b", "\ud800", LONG, "", "nowhere", "in.png"])
@pytest.mark.parametrize("command", ["list", "explain"])
def test_engines_of_no_folder(command: str, folder: str, work: Path, cli: Cli) -> None:
    done = cli("engines", command, folder)
    assert done.code in (2, 4), done.err
    assert "Traceback" not in done.err


@pytest.fixture
def terminal() -> Iterator[str]:
    """The path of a real terminal."""
    master, slave = os.openpty()
    yield os.ttyname(slave)
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    "arguments", [["edit", "-"], ["mask", "-"], ["edit", "in.png", "-o", "-"]], ids=" ".join
)
def test_a_picture_is_not_printed_on_a_terminal(
    arguments: list[str],
    terminal: str,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open(terminal, "w") as output, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as end:
            main([*arguments, *PROMPTS, "--model", "no-model"])
    assert end.value.code == 2
    assert "Standard output is a terminal" in capsys.readouterr().err


def test_a_picture_is_not_read_from_a_terminal(
    terminal: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(terminal) as typed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", typed)
        with pytest.raises(SystemExit) as end:
            main(["edit", "-", *PROMPTS, "-o", "o.png", "--model", "no-model"])
    assert end.value.code == 2
    assert "Standard input is a terminal" in capsys.readouterr().err
