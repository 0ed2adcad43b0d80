"""`build`, `engines list`, `engines explain`, and edits on compiled networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from demo import random_checkpoint
from engine.manifest import Manifest
from tests.cli.conftest import FAST, PROMPTS, Cli, check_refused, snapshot
from tests.engine.lora_files import ATTENTION, pair, saved
from tests.export.conftest import run as build
from tests.shared import Folders

pytestmark = pytest.mark.slow  # the fixture compiles a model


@pytest.fixture(scope="session")
def _engines(tiny: Path, onnx_engines: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli-engines") / "out"
    shutil.copytree(onnx_engines("tiny"), out)
    build(tiny, out, sizes=[(64, 64)], batches=(1, 2, 20))  # only profiles differ
    return out


@pytest.fixture
def engines(_engines: Path, work: Path) -> Path:
    """A copy in the work folder, which a test may damage."""
    return Path(shutil.copytree(_engines, work / "engines"))


def test_build_passes_its_arguments_to_the_compiler(
    work: Path, engines: Path, cli: Cli, tiny: Path
) -> None:
    before = snapshot(engines)
    arguments = ("--precision", "fp32", "--target", "onnx", "--batches", "1,2,20")
    done = cli("build", tiny, "--out", engines, *arguments)
    assert done.code == 0, done.err
    assert b"Nothing to do" in done.out
    assert snapshot(engines) == before
    assert b"diffedit-trt build" in cli("build", "--help").out
    check_refused(cli("build", "./nowhere", "--out", "e2"), 3, "no model folder")
    check_refused(cli("build", tiny, "--out", "e2", "--size", "63"), 2, "multiples")


def test_edit_with_engines(work: Path, engines: Path, cli: Cli) -> None:
    arguments = ("--engines", engines, "--json")
    torch = cli("edit", "in.png", *PROMPTS, *FAST, *arguments, "--backend", "torch", "-o", "t.png")
    onnx = cli("edit", "in.png", *PROMPTS, *FAST, *arguments, "--backend", "onnxruntime")
    assert (torch.code, onnx.code) == (0, 0), onnx.err
    assert onnx.line["backend"].startswith("onnxruntime")
    assert onnx.line["size"] == [64, 64]
    auto = cli("edit", "in.png", *PROMPTS, *FAST, *arguments, "-o", "auto.png")
    assert auto.line["backend"] == torch.line["backend"]
    assert "the folder has no TensorRT engines" in auto.err.splitlines()[0]


def test_list_shows_every_network(engines: Path, cli: Cli) -> None:
    done = cli("engines", "list", engines)
    text = done.out.decode()
    assert done.code == 0, done.err
    for words in ("unet", "64x64", "onnx", "fp32", "1,2,20", "ok, "):
        assert words in text
    listed = cli("engines", "list", engines, "--json").line
    assert {entry["spec"]["name"] for entry in listed["entries"]} == {
        *("text", "vae_encode", "vae_decode", "unet")
    }


def test_explain_names_the_usable_backends(engines: Path, cli: Cli, tiny: Path) -> None:
    done = cli("engines", "explain", engines)
    assert done.code == 0, done.err
    text = done.out.decode()
    assert "as they were built" in text
    assert "onnxruntime  usable: onnxruntime" in text
    assert "tensorrt     not usable: " in text
    said = cli("engines", "explain", engines, "--model", tiny, "--json").line
    assert said["model_compared"] is True
    assert said["backends"]["onnxruntime"]["usable"] is True


def test_explain_compares_the_model(engines: Path, cli: Cli, tiny_v: Path, tmp_path: Path) -> None:
    other = random_checkpoint.make(tmp_path / "other", "tiny", seed=5)
    done = cli("engines", "explain", engines, "--model", other)
    assert done.code == 4
    assert "differs from the model in use" in done.out.decode()
    refused = cli(
        "edit",
        "in.png",
        *PROMPTS,
        "--model",
        other,
        "--engines",
        engines,
        "--backend",
        "onnxruntime",
    )
    check_refused(refused, 4, "differs from the model in use", "diffedit-trt build")


def test_explain_compares_what_is_added_to_the_model(
    engines: Path, cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    """On the options that `build` and `edit` have."""
    lora = saved(tmp_path / "style.safetensors", pair(f"{ATTENTION}.to_q"))
    other = random_checkpoint.make(tmp_path / "other", "tiny", seed=5)
    done = cli("engines", "explain", engines, "--model", tiny, "--lora", f"{lora}:0.5")
    assert done.code == 4
    assert "contain no LoRA, not the requested LoRAs" in done.out.decode()
    done = cli("engines", "explain", engines, "--model", tiny, "--vae", other / "vae")
    assert done.code == 4
    assert "differs from the model in use" in done.out.decode()
    check_refused(cli("engines", "explain", engines, "--model", tiny, "--lora", "a:b"), 2, "--lora")


@pytest.mark.parametrize("damage", ["missing", "truncated", "edited"])
def test_damaged_files_are_refused(damage: str, engines: Path, cli: Cli) -> None:
    (file,) = engines.glob("unet*.onnx")
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        middle = len(data) // 2
        cut = data[:middle]
        file.write_bytes(cut if damage == "truncated" else cut + b"\0\1\2" + data[middle + 3 :])
    words = {"missing": "is missing", "truncated": "is truncated", "edited": "was changed"}[damage]
    done = cli("engines", "explain", engines)
    assert done.code == 4
    assert words in done.out.decode()
    edit = ("edit", "in.png", *PROMPTS, "--engines", engines, "--backend", "onnxruntime")
    check_refused(cli(*edit), 4, file.name, words)


def test_a_size_that_was_not_compiled(engines: Path, cli: Cli) -> None:
    arguments = ("--engines", engines, "--backend", "onnxruntime", "--size", "96x64")
    check_refused(cli("edit", "in.png", *PROMPTS, *arguments), 4, "96x64", "build it with")


def test_a_manifest_of_another_version(engines: Path, cli: Cli) -> None:
    path = engines / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    check_refused(cli("engines", "list", engines), 4, "another version of this program")
    check_refused(cli("engines", "list", "nowhere"), 4, "has no engines")


def test_an_unfinished_build_is_not_usable(engines: Path, cli: Cli) -> None:
    manifest = Manifest.load(engines)
    kept = tuple(e for e in manifest.entries if e.spec.name != "unet")
    Manifest(manifest.model, kept).save(engines)
    done = cli("engines", "explain", engines)
    assert done.code == 4
    assert "onnxruntime  not usable" in done.out.decode()
