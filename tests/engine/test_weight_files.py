"""Variants and shards: the files that diffusers would load, or a sentence with the right hint."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from engine.loader import load_module, quiet
from engine.weights_check import check_weights
from tests.engine.checkpoints import Change, both, data

Saved = Callable[..., Path]


@pytest.fixture(scope="module")
def saved(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The tiny model as diffusers saves it: `saved(variant="fp16", max_shard_size="200KB")`."""
    with quiet():
        pipe: Any = StableDiffusionPipeline.from_pretrained(tiny)

    def save(**options: Any) -> Path:
        folder = tmp_path_factory.mktemp("saved") / "model"
        with quiet():
            pipe.save_pretrained(folder, **options)
        return folder

    return save


def rename(part: str, old: str, new: str) -> Change:
    return lambda folder: (folder / part / old).rename(folder / part / new)


def same_weights(folder: Path, tiny: Path, variant: str | None) -> bool:
    checkpoint, plain = find_checkpoint(folder, variant=variant), find_checkpoint(tiny)
    check_weights(checkpoint)
    return all(
        torch.equal(a, b)
        for part in plain.family.parts
        for a, b in zip(
            load_module(checkpoint, part.name, torch.float32).state_dict().values(),
            load_module(plain, part.name, torch.float32).state_dict().values(),
            strict=True,
        )
    )


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shard", ["10GB", "200KB"])
def test_what_diffusers_saves_opens(
    variant: str | None, shard: str, saved: Saved, tiny: Path
) -> None:
    folder = saved(variant=variant, max_shard_size=shard)
    files = find_checkpoint(folder, variant=variant).weights("unet")
    assert (len(files) > 1) == (shard == "200KB")
    assert same_weights(folder, tiny, variant)


def test_a_partial_variant_uses_plain_files_for_the_rest_and_says_so(
    saved: Saved, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    unet, other = folder / "unet", saved(variant="fp16") / "unet"
    shutil.rmtree(unet)
    shutil.copytree(other, unet)
    with caplog.at_level(logging.WARNING):
        checkpoint = find_checkpoint(folder, variant="fp16")
    assert "no fp16 weights of its text_encoder and vae; the plain ones are used" in caplog.text
    assert [f.name for f in checkpoint.weights("vae")] == ["diffusion_pytorch_model.safetensors"]
    assert [f.name for f in checkpoint.weights("unet")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    assert same_weights(folder, tiny, "fp16")


def test_plain_and_variant_side_by_side_are_kept_apart(saved: Saved, tiny: Path) -> None:
    folder = saved(variant="fp16", max_shard_size="200KB")
    shutil.copytree(saved(), folder, dirs_exist_ok=True)
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"unused")
    for variant in (None, "fp16"):
        names = [f.name for f in find_checkpoint(folder, variant=variant).weights("unet")]
        assert all(("fp16" in name) == bool(variant) for name in names)
        assert same_weights(folder, tiny, variant)


SINGLE = "diffusion_pytorch_model.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
SHARD = "diffusion_pytorch_model-00001-of-{}.safetensors"


def first_shard(folder: Path) -> Path:
    return min((folder / "unet").glob("*-00001-of-*.safetensors"))


def listed(change: Callable[[dict[str, str]], object]) -> Change:
    """Change the weight map of the U-Net's index."""

    def apply(folder: Path) -> None:
        path = folder / "unet" / INDEX
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))

    return apply


def outside(folder: Path) -> None:
    """A shard beside the checkpoint, which the index reaches by "..", is never read."""
    shard = first_shard(folder)
    shutil.move(shard, folder.parent / shard.name)
    redirect = {shard.name: f"../../{shard.name}"}
    listed(lambda m: m.update({k: redirect.get(v, v) for k, v in m.items()}))(folder)


SHARDED: dict[str, tuple[Change, str]] = {
    "outside": (outside, r"'\.\./\.\./diffusion.*no other file is read"),
    "absolute": (
        listed(lambda m: m.update(dict.fromkeys(m, "/etc/passwd.safetensors"))),
        "not the name of a safetensors file",
    ),
    "a pickle": (
        listed(lambda m: m.update(dict.fromkeys(m, "weights.bin"))),
        "not the name of a safetensors file",
    ),
    "missing": (lambda f: first_shard(f).unlink(), "00001-of-.* is missing, but"),
    "cut": (lambda f: first_shard(f).write_bytes(first_shard(f).read_bytes()[:-9]), "truncated"),
    "unlisted": (listed(lambda m: m.pop("conv_in.bias")), "conv_in.bias is in only one"),
    "listed only": (
        listed(lambda m: m.update({"more.weight": min(m.values())})),
        "more.weight is in only one",
    ),
    "no list": (data(f"unet/{INDEX}", '{"metadata": {}}'), "lists no shards"),
    "an empty list": (data(f"unet/{INDEX}", '{"weight_map": {}}'), "lists no shards"),
    "numbers": (data(f"unet/{INDEX}", '{"weight_map": {"a": 1}}'), "lists no shards"),
    "no JSON": (data(f"unet/{INDEX}", "{"), "cannot be read as JSON"),
    "no index": (lambda f: (f / "unet" / INDEX).unlink(), r"has no diffusion.*\(it has"),
}


@pytest.mark.parametrize("case", SHARDED)
def test_shards_that_do_not_fit(case: str, saved: Saved) -> None:
    change, words = SHARDED[case]
    folder = saved(max_shard_size="200KB")
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        find_checkpoint(folder)
    assert "\n" not in str(caught.value)


UNET = "unet"


def dangling(folder: Path) -> None:
    """As after cleaning a hub cache by hand."""
    (folder / UNET / SINGLE).unlink()
    (folder / UNET / SINGLE).symlink_to(folder / "blobs" / "0123")


HINTS: dict[str, tuple[str | None, Change, str]] = {
    "fp16 alone": (
        None,
        rename(UNET, SINGLE, "diffusion_pytorch_model.fp16.safetensors"),
        "no plain weights, but the variant fp16; pass --variant fp16",
    ),
    "another variant": (
        "bf16",
        rename(UNET, SINGLE, "diffusion_pytorch_model.fp16.safetensors"),
        "no bf16 weights and no plain ones, but the variant fp16; pass --variant fp16",
    ),
    "shards of a variant": (
        None,
        both(
            rename(UNET, SINGLE, "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"),
            data(f"unet/{INDEX.replace('.json', '.fp16.json')}", "{}"),
        ),
        "the variant fp16; pass --variant fp16",
    ),
    "two variants": (
        None,
        both(
            rename(UNET, SINGLE, "diffusion_pytorch_model.fp16.safetensors"),
            data("unet/diffusion_pytorch_model.ema.safetensors", "x"),
        ),
        "the variant ema and fp16; pass --variant ema",
    ),
    "no such variant": ("fp16", both(), "no fp16 weights in any part.*leave the variant out"),
    "pickles": (None, rename(UNET, SINGLE, "diffusion_pytorch_model.bin"), "only pickle weights"),
    "pickles of a variant": (
        "fp16",
        rename(UNET, SINGLE, "diffusion_pytorch_model.fp16.bin"),
        "only pickle weights",
    ),
    "another name": (
        None,
        rename(UNET, SINGLE, "pytorch_model.safetensors"),
        r"has no diffusion_pytorch_model.safetensors \(it has pytorch_model.safetensors\)",
    ),
    "a link to nothing": (None, dangling, "is a broken link"),
    "nothing": (None, lambda f: (f / UNET / SINGLE).unlink(), "copy or download the weights"),
}


@pytest.mark.parametrize("case", HINTS)
def test_hints_name_what_is_there(case: str, tiny: Path, tmp_path: Path) -> None:
    variant, change, words = HINTS[case]
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        find_checkpoint(folder, variant=variant)
    assert "\n" not in str(caught.value)
    assert variant is None or f"pass --variant {variant}" not in str(caught.value)
