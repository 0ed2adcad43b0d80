"""--mask-format says how a mask is read that could be read in two ways, or is black on white."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import FAST, PROMPTS, Cli, check_refused

BOX = (20, 10, 60, 50)
SHARE = 40 * 40 / (96 * 72)


def drawn(name: str, mode: str, background: object, color: object) -> None:
    mask = Image.new(mode, (96, 72), background)  # type: ignore[arg-type]
    mask.paste(color, BOX)  # type: ignore[arg-type]
    mask.save(name)


@pytest.mark.parametrize(
    ("mask_format", "share"), [("white", SHARE), ("alpha", 1 - SHARE), ("black", SHARE)]
)
def test_the_format_decides(mask_format: str, share: float, work: Path, cli: Cli) -> None:
    if mask_format == "black":
        drawn("mask.png", "L", 255, 0)
    else:
        drawn("mask.png", "RGBA", (0, 0, 0, 0), (255, 255, 255, 255))
        check_refused(cli("edit", "in.png", *PROMPTS, "--mask", "mask.png"), 2, "--mask-format")
    done = cli(
        *("edit", "in.png", *PROMPTS, *FAST, "--mask", "mask.png", "--json"),
        *("--mask-format", mask_format),
    )
    assert done.code == 0, done.err
    assert done.line["mask_read_as"] == mask_format
    assert done.line["mask_share"] == pytest.approx(share, abs=1e-5)


def test_a_format_without_a_mask_is_refused(work: Path, cli: Cli) -> None:
    check_refused(cli("edit", "in.png", *PROMPTS, "--mask-format", "white"), 2, "pass a mask")


@pytest.mark.parametrize("command", ["edit", "mask"])
def test_an_empty_name_is_not_the_default(command: str, work: Path, cli: Cli) -> None:
    """Such as that of a variable that is not set."""
    check_refused(cli(command, "in.png", *PROMPTS, "--out", ""), 2, "--out is empty")
    assert [path.name for path in work.iterdir()] == ["in.png"]


@pytest.mark.parametrize(
    "url", ["https://example.com/cup.png", "https:/example.com/cup.png", "data:image/png;base64,A"]
)
def test_an_address_is_no_file(url: str, work: Path, cli: Cli) -> None:
    """A batch file's folder is put before it, which makes one slash of two."""
    check_refused(cli("edit", url, *PROMPTS, "--out", "o.png"), 2, "download it")
