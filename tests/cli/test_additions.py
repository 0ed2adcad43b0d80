"""--vae, --embedding and --clip-skip in whole commands, and engines that were built otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from demo import random_checkpoint
from diffedit.provenance import Provenance
from engine.manifest import Manifest
from export.__main__ import run as run_build
from tests.cli.conftest import FAST, PROMPTS, Cli, check_refused
from tests.engine.lora_files import ATTENTION, pair


@pytest.fixture
def files(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder with other.vae's folder and toy.safetensors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "cache"))
    random_checkpoint.make(work / "other", "tiny", seed=3)
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    save_file({"emb_params": 3 * vectors}, work / "toy.safetensors")
    return work


def test_an_edit_and_its_replay(files: Path, cli: Cli) -> None:
    added = ("--vae", "other/vae", "--embedding", "toy.safetensors:<toy>", "--clip-skip", 1)
    prompts = ("--prompt", "a <toy> ball", "--source", "a red ball")
    done = cli("edit", "in.png", *prompts, *FAST, *added, "--json")
    provenance = Provenance.from_json(done.line["provenance"])
    assert [vae.name for vae in provenance.vaes] == ["vae"]
    assert [e.name for e in provenance.embeddings] == ["toy.safetensors"]
    assert provenance.clip_skip == 1
    same = cli("replay", "in.edited.png", "in.png", *added, "--dtype", "fp32")
    assert "identical" in same.err
    plain = cli("replay", "in.edited.png", "in.png", "--dtype", "fp32", "-o", "plain.png")
    for words in ("the embedding toy.safetensors (at 1) is missing", "VAE vae", "clip_skip is 0"):
        assert words in plain.err
    assert Image.open("plain.png").tobytes() != Image.open("in.edited.png").tobytes()


def test_the_scheduler_of_a_distilling_lora(work: Path, cli: Cli) -> None:
    save_file(pair(f"{ATTENTION}.to_q"), work / "my-lcm.safetensors")
    lora, scheduler = ("--lora", "my-lcm.safetensors"), ("--scheduler", "lcm")
    done = cli("edit", "in.png", *PROMPTS, *lora, *scheduler, "--dtype", "fp32", "--json")
    assert Provenance.from_json(done.line["provenance"]).scheduler == "lcm"
    used = done.line["parameters"]
    assert (used["num_inference_steps"], used["guidance_scale"]) == (4, 1)
    assert "looks like one for a few steps" not in done.err
    replay = ("replay", "in.edited.png", "in.png", "--dtype", "fp32", *lora)
    assert "identical" in cli(*replay, *scheduler).err
    without = cli(*replay, "-o", "other.png").err
    assert "the scheduler is the model's own, not lcm" in without
    assert "my-lcm.safetensors looks like one for a few steps" in without
    wrong = cli("edit", "in.png", *PROMPTS, "-o", "new.png", "--scheduler", "lmc")
    check_refused(wrong, 2, "'lcm'")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--vae", "nothing"), "There is no VAE at nothing"),
        (("--embedding", "nothing.safetensors"), "There is no embedding at nothing.safetensors"),
        (("--clip-skip", 7), "clip_skip is 7"),
        (("--base", "other"), "base is for a model in a single .safetensors file"),
        (("--prediction-type", "epsilon"), "prediction_type is for a model in a single"),
    ],
)
def test_bad_values(options: tuple[object, ...], words: str, files: Path, cli: Cli) -> None:
    check_refused(cli("edit", "in.png", *PROMPTS, *FAST, *options), 3, words)


@pytest.mark.slow
def test_engines_that_were_built_otherwise_are_never_used(
    files: Path, tiny: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.derived.additions import Additions
    from export import build_jobs

    every = build_jobs.build_jobs
    monkeypatch.setattr(
        "export.build.build_jobs", lambda *a: tuple(j for j in every(*a) if j.spec.name == "text")
    )
    options: dict[str, Any] = {
        "precision": "fp32",
        "batches": (1,),
        "target": "onnx",
        "verify": "none",
    }
    options["additions"] = Additions(clip_skip=1)
    assert run_build(str(tiny), files / "engines", options) == 0
    model = Manifest.load(files / "engines").model
    assert model is not None
    assert model.clip_skip == 1
    done = cli("edit", "in.png", *PROMPTS, *FAST[:4], "--engines", "engines")
    check_refused(done, 4, "with clip_skip 1, whose text_encoder differs from the model in use")


def test_a_single_file_is_served_under_its_name(files: Path, tiny: Path) -> None:
    from diffedit.cli.serve import served_name

    (files / "dreams.v1.safetensors").write_bytes(b"")
    assert served_name(str(files / "dreams.v1.safetensors")) == "dreams.v1"
    assert served_name("owner/name") == "owner/name"
