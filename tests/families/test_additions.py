"""Another VAE, textual inversions and clip_skip: equal to diffusers', family by family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo import random_checkpoint
from diffedit.conditioning.conditioner import Conditioner
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.derived.additions import Additions
from engine.derived.embeddings import parse_embedding
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from engine.loader import quiet
from engine.weights_check import check_weights
from tests.families.conftest import FamilyUnderTest
from tests.single_files import single_file, vae_to_ldm, weights

Folders = Callable[[str], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = random_checkpoint.make(tmp_path_factory.mktemp("additions") / kind, kind)
        return made[kind]

    return folder


def theirs(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    with quiet():
        absent = {"text_encoder_3": None, "tokenizer_3": None} if "no-t5" in folder.name else {}
        return DiffusionPipeline.from_pretrained(folder, local_files_only=True, **absent)


def condition(checkpoint: Checkpoint, text: str) -> tuple[Tensor, ...]:
    """What our denoiser is told of a text."""
    check_weights(checkpoint)
    networks = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu")
    family = FamilyUnderTest("", checkpoint, networks, Conditioner(checkpoint), None)
    return family.condition(text)


def their_condition(pipe: Any, text: str, **options: Any) -> tuple[Tensor, ...]:
    """The prompt's conditioning by `encode_prompt`."""
    values: dict[str, Any] = {"device": torch.device("cpu"), "num_images_per_prompt": 1}
    values |= {"do_classifier_free_guidance": False, **options}
    name = type(pipe).__name__
    texts = [text] + [None] * {"StableDiffusionXLPipeline": 1, "StableDiffusion3Pipeline": 2}.get(
        name, 0
    )
    found = pipe.encode_prompt(*texts, **values)
    return (found[0][0],) if name == "StableDiffusionPipeline" else (found[0][0], found[2][0])


def check_equal(ours: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert len(ours) == len(wanted)
    for mine, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


# -- clip_skip ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "skip"), [("deep", 1), ("deep-sdxl", 1), ("deep-sd3", 2)])
@torch.inference_mode()
def test_clip_skip_equals_theirs(kind: str, skip: int, tmp_path: Path) -> None:
    """With more layers than the tiny encoders have, because SDXL and SD 3 leave out one already."""
    base = kind.replace("deep", "tiny") + ("-no-t5" if kind == "deep-sd3" else "")
    configs = dict(random_checkpoint.KINDS[base])
    for part in ("text_encoder", "text_encoder_2"):
        if part in configs:
            configs[part] = {**configs[part], "num_hidden_layers": 4}
    random_checkpoint.KINDS[kind] = configs
    try:
        folder = random_checkpoint.make(tmp_path / base, kind)
    finally:
        del random_checkpoint.KINDS[kind]
    checkpoint = find_checkpoint(folder, additions=Additions(clip_skip=skip))
    pipe = theirs(folder)
    inner = getattr(
        pipe.text_encoder, "text_model", pipe.text_encoder
    )  # the level that transformers dropped
    object.__setattr__(pipe.text_encoder, "text_model", inner)
    ours = condition(checkpoint, "a red ball")
    check_equal(ours, their_condition(pipe, "a red ball", clip_skip=skip))
    plain = their_condition(pipe, "a red ball")
    assert (ours[0] - plain[0]).abs().max() > 0.01


def test_clip_skip_changes_the_digests_of_text_encoders_alone(folders: Folders) -> None:
    """So an engine folder that was built without it is another model's."""
    plain, skipping = (
        find_checkpoint(folders("tiny"), additions=Additions(clip_skip=skip)).digests()
        for skip in (0, 1)
    )
    assert [part for part in plain if plain[part] != skipping[part]] == ["text_encoder"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("tiny", "clip_skip is 9, but .* at most 1 can be left out"),
        ("tiny-flux", "takes no layer of its CLIP text encoder; leave it out"),
    ],
)
def test_clip_skip_that_cannot_be(kind: str, words: str, folders: Folders) -> None:
    with pytest.raises(CheckpointError, match=words):
        find_checkpoint(folders(kind), additions=Additions(clip_skip=9))


# -- textual inversions ---------------------------------------------------------------------------

VECTORS = {"<one>": 1, "<toy>": 3, "sks": 2}
TEXTS = ["a <toy> on the grass", "sks and <one>, a red ball", "a red ball"]


def vectors(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def files(folder: Path, kind: str) -> tuple[tuple[Path, str | None], ...]:
    """One file per token, in the layouts that people have."""
    found: list[tuple[Path, str | None]] = []
    for seed, (token, count) in enumerate(VECTORS.items()):
        first, second = vectors(count, 32, seed), vectors(count, 32, seed + 50)
        path = folder / f"{token.strip('<>')}.safetensors"
        if kind == "tiny-sdxl":
            save_file({"clip_l": first, "clip_g": second}, path)
            found.append((path, token))
        elif token == "sks":  # as stable-diffusion-webui: the name is that of the file
            save_file({"emb_params": first}, path)
            found.append((path, None))
        else:  # as diffusers: the name is that of the tensor
            save_file({token: first if count > 1 else first[0]}, path)
            found.append((path, None))
    return tuple(found)


@pytest.mark.parametrize("kind", ["tiny", "tiny-sdxl"])
@torch.inference_mode()
def test_textual_inversions_equal_theirs(kind: str, folders: Folders, tmp_path: Path) -> None:
    folder = folders(kind)
    pipe = theirs(folder)
    for seed, (token, count) in enumerate(VECTORS.items()):
        pipe.load_textual_inversion({token: vectors(count, 32, seed)}, token=token)
        if kind == "tiny-sdxl":
            pipe.load_textual_inversion(
                {token: vectors(count, 32, seed + 50)},
                token=token,
                text_encoder=pipe.text_encoder_2,
                tokenizer=pipe.tokenizer_2,
            )
    checkpoint = find_checkpoint(folder, additions=Additions(embeddings=files(tmp_path, kind)))
    for text in TEXTS:
        check_equal(condition(checkpoint, text), their_condition(pipe, text))
    origin = checkpoint.origin
    assert origin is not None
    assert [file.name for file in origin.of("embedding")] == [
        *("one.safetensors", "toy.safetensors", "sks.safetensors")
    ]
    assert checkpoint.source == str(folder)


@torch.inference_mode()
def test_a_text_without_the_token_stays_as_it_is(folders: Folders, tmp_path: Path) -> None:
    folder = folders("tiny")
    more = find_checkpoint(folder, additions=Additions(embeddings=files(tmp_path, "tiny")))
    check_equal(condition(more, "a cat"), condition(find_checkpoint(folder), "a cat"))


def saved(path: Path, **tensors: Tensor) -> Path:
    save_file(tensors, path)
    return path


BAD: dict[str, tuple[str, dict[str, Tensor], str | None, str]] = {
    "other width": ("tiny", {"emb_params": torch.zeros(1, 768)}, None, "has 768 .* model has 32"),
    "SDXL's on SD": (
        "tiny",
        {"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(1, 32)},
        None,
        "holds clip_g, clip_l, but this model needs one tensor",
    ),
    "SD's on SDXL": (
        "tiny-sdxl",
        {"emb_params": torch.zeros(1, 32)},
        None,
        "needs clip_l and clip_g",
    ),
    "unequal": (
        "tiny-sdxl",
        {"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(2, 32)},
        None,
        "has 1 and 2 vectors",
    ),
    "too many": ("tiny", {"emb_params": torch.zeros(99, 32)}, None, "99 vectors; at most 75"),
    "a known word": ("tiny", {"emb_params": torch.zeros(1, 32)}, "cat</w>", "already one of"),
    "two words": ("tiny", {"emb_params": torch.zeros(1, 32)}, "a toy", "must be one word"),
    "not a list": ("tiny", {"emb_params": torch.zeros(1, 1, 32)}, None, "not a list of vectors"),
    "damaged": ("tiny", {"emb_params": torch.full((1, 32), float("nan"))}, None, "NaN"),
    "FLUX": ("tiny-flux", {"clip_l": torch.zeros(1, 32)}, None, "for Stable Diffusion 1, 2 and XL"),
}


@pytest.mark.parametrize("case", BAD)
def test_embeddings_that_do_not_fit(case: str, folders: Folders, tmp_path: Path) -> None:
    kind, tensors, token, words = BAD[case]
    path = saved(tmp_path / "toy9.safetensors", **tensors)
    with pytest.raises(CheckpointError, match=words) as caught:
        find_checkpoint(folders(kind), additions=Additions(embeddings=((path, token),)))
    assert "\n" not in str(caught.value)


def test_embeddings_that_are_not_there(folders: Folders, tmp_path: Path) -> None:
    pickle = tmp_path / "e.pt"
    pickle.write_bytes(b"PK\x03\x04")
    for path, words in ((tmp_path / "no", "There is no embedding"), (pickle, "can run code")):
        with pytest.raises(CheckpointError, match=words):
            find_checkpoint(folders("tiny"), additions=Additions(embeddings=((path, None),)))


def test_two_files_with_one_token(folders: Folders, tmp_path: Path) -> None:
    path = saved(tmp_path / "e.safetensors", emb_params=torch.zeros(1, 32))
    with pytest.raises(CheckpointError, match=r"'<x>' of .* already one of .*e\.safetensors; give"):
        find_checkpoint(
            folders("tiny"), additions=Additions(embeddings=((path, "<x>"), (path, "<x>")))
        )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a.safetensors:<toy>", ("a.safetensors", "<toy>")),
        ("a.safetensors", ("a.safetensors", None)),
    ],
)
def test_file_and_token(text: str, wanted: tuple[str, str | None]) -> None:
    assert parse_embedding(text) == (Path(wanted[0]), wanted[1])


# -- VAE ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with other weights."""
    return random_checkpoint.make(tmp_path_factory.mktemp("other") / "m", "tiny", seed=5)


@pytest.mark.parametrize("form", ["checkpoint", "folder", "single file", "file in its folder"])
def test_another_vae(form: str, folders: Folders, other: Path, tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    config = {"block_out_channels": (16, 32, 32)}
    save_file(
        {n: t.contiguous() for n, t in vae_to_ldm(weights(other, "vae"), config, "").items()}, file
    )
    (inside,) = (other / "vae").glob("*.safetensors")
    path = {
        "checkpoint": other,
        "folder": other / "vae",
        "single file": file,
        "file in its folder": inside,
    }[form]
    checkpoint = find_checkpoint(folders("tiny"), additions=Additions(vae=path))
    check_weights(checkpoint)
    wanted = weights(other, "vae")
    found = weights(checkpoint.folder, "vae")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    unet = weights(checkpoint.folder, "unet")
    assert torch.equal(unet["conv_in.weight"], weights(folders("tiny"), "unet")["conv_in.weight"])
    plain = find_checkpoint(folders("tiny")).digests()
    digests = checkpoint.digests()
    assert [part for part in plain if plain[part] != digests[part]] == ["vae"]


def test_a_vae_keeps_its_own_scaling(folders: Folders, tmp_path: Path) -> None:
    kinds = random_checkpoint.KINDS
    vae = {**kinds["tiny"]["vae"], "scaling_factor": 0.5}
    kinds["scaled"] = {**kinds["tiny"], "vae": vae}
    try:
        folder = random_checkpoint.make(tmp_path / "m", "scaled")
    finally:
        del kinds["scaled"]
    checkpoint = find_checkpoint(folders("tiny"), additions=Additions(vae=folder / "vae"))
    assert checkpoint.family.configs["vae"]["scaling_factor"] == 0.5


@pytest.mark.parametrize(
    ("kind", "words"), [("tiny-flux", "has 16 latent channels, but this model has 4")]
)
def test_a_vae_of_another_family(kind: str, words: str, folders: Folders) -> None:
    with pytest.raises(CheckpointError, match=words):
        find_checkpoint(folders("tiny"), additions=Additions(vae=folders(kind) / "vae"))


def test_a_vae_of_another_size(folders: Folders, tmp_path: Path) -> None:
    kinds = random_checkpoint.KINDS
    vae = {**kinds["tiny"]["vae"], "block_out_channels": (16, 32)}
    vae |= {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    kinds["small"] = {**kinds["tiny"], "vae": vae}
    try:
        folder = random_checkpoint.make(tmp_path / "m", "small")
    finally:
        del kinds["small"]
    with pytest.raises(CheckpointError, match=r"one latent cell of 2 pixels a side.* of 4"):
        find_checkpoint(folders("tiny"), additions=Additions(vae=folder))


def test_vaes_that_are_none(folders: Folders, tmp_path: Path) -> None:
    pickle = tmp_path / "v.ckpt"
    pickle.write_bytes(b"PK\x03\x04")
    lora = saved(tmp_path / "lora.safetensors", **{"x.lora_A.weight": torch.zeros(1)})
    for path, words in (
        (tmp_path / "no", "There is no VAE"),
        (pickle, "can run code"),
        (lora, "holds no VAE"),
        (folders("tiny") / "unet", "is a UNet2DConditionModel|no diffusion_pytorch_model"),
        (tmp_path, r"config\.json does not exist"),
    ):
        with pytest.raises(CheckpointError, match=words):
            find_checkpoint(folders("tiny"), additions=Additions(vae=path))


def test_everything_at_once(folders: Folders, other: Path, tmp_path: Path) -> None:
    """A single file with another VAE, a textual inversion and a layer left out."""
    file = single_file(folders("tiny"), tmp_path / "one.safetensors")
    embedding = saved(tmp_path / "toy.safetensors", emb_params=vectors(2, 32, 1))
    additions = Additions(folders("tiny"), None, other / "vae", ((embedding, "<t>"),), 1)
    checkpoint = find_checkpoint(file, additions=additions)
    check_weights(checkpoint)
    origin = checkpoint.origin
    assert origin is not None
    assert [source.role for source in origin.files] == ["checkpoint", "base", "vae", "embedding"]
    assert checkpoint.source == str(file)
    assert checkpoint.clip_skip == 1
    table = load_file(next((checkpoint.folder / "text_encoder").glob("*.safetensors")))
    assert any(len(t) == checkpoint.family.text_inputs[0].vocabulary for t in table.values())
