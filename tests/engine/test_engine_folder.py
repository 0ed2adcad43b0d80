"""Opening an engine folder: the sizes and files that fit, and one error for those that do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.backends.engine_folder import EngineFolder, read_verified
from engine.backends.tensor_checks import TensorInfo, check_batch, check_tensors
from engine.errors import EngineMismatch
from engine.manifest import Entry, File
from tests.engine.compiled import TOKENS, complete, entry, manifest, spec


def opened(
    folder: Path, digests: dict[str, str] | None = None, pin: int | None = None
) -> EngineFolder:
    return EngineFolder.open(folder, ["onnx"], digests=digests, pin_batch_size=pin)


def test_finds_what_was_built(tmp_path: Path) -> None:
    manifest(tmp_path, complete(tmp_path, (64, 64), (64, 96)))
    folder = opened(tmp_path)
    assert folder.sizes == ((64, 64), (64, 96))
    assert folder.entry("unet", (4, 8, 12)).spec == spec("unet", (64, 96))
    assert folder.entry("text", (TOKENS,)).spec == spec("text")
    assert folder.precisions == "fp32"


def test_says_which_network_is_in_another_precision(tmp_path: Path) -> None:
    made = complete(tmp_path, (64, 64))
    half = [
        replace(e, spec=replace(e.spec, precision="fp16")) if e.spec.name != "vae_decode" else e
        for e in made
    ]
    manifest(tmp_path, half)
    assert opened(tmp_path).precisions == "fp16 with vae_decode in fp32"


def test_a_size_counts_when_all_four_networks_are_there(tmp_path: Path) -> None:
    made = complete(tmp_path, (64, 64), (96, 96))
    manifest(tmp_path, [e for e in made if e.spec.kind != ("unet", (4, 12, 12))])
    assert opened(tmp_path).sizes == ((64, 64),)
    manifest(tmp_path, [e for e in made if e.spec.name != "text"])
    folder = opened(tmp_path)
    assert folder.sizes == ()
    with pytest.raises(EngineMismatch, match=r"not finished.*unet, vae_decode, vae_encode .*--out"):
        folder.require_complete()


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"has no engines.*diffedit-trt build MODEL --out"):
        opened(tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_another_model_is_named_by_its_part(tmp_path: Path, part: str) -> None:
    digests = {"unet": "1", "vae": "2", "text_encoder": "3"}
    manifest(tmp_path, complete(tmp_path, (64, 64)), **digests)
    assert opened(tmp_path, digests).sizes
    with pytest.raises(EngineMismatch, match=f"built from some-model, whose {part} differs"):
        opened(tmp_path, {**digests, part: "other"})


def test_a_folder_that_does_not_say_its_model_fits_none(tmp_path: Path) -> None:
    manifest(tmp_path, complete(tmp_path, (64, 64)))
    with pytest.raises(EngineMismatch, match="whose unet differs"):
        opened(tmp_path, {"unet": "1"})


def test_nothing_in_the_format_wanted(tmp_path: Path) -> None:
    manifest(tmp_path, complete(tmp_path, (64, 64)))
    with pytest.raises(
        EngineMismatch, match="has onnx files, but no tensorrt or tensorrt-rtx"
    ) as seen:
        EngineFolder.open(tmp_path, ["tensorrt", "tensorrt-rtx"])
    assert str(seen.value).endswith("--target tensorrt")


@pytest.mark.parametrize(
    ("net", "shape", "size"),
    [
        ("unet", (4, 16, 12), "128x96"),
        ("vae_decode", (4, 16, 12), "128x96"),
        ("vae_encode", (3, 128, 96), "128x96"),
    ],
)
def test_a_size_that_was_not_compiled(
    tmp_path: Path, net: str, shape: tuple[int, ...], size: str
) -> None:
    folder = tmp_path / "my engines"
    folder.mkdir()
    manifest(folder, complete(folder, (64, 64), (64, 96)))
    with pytest.raises(EngineMismatch) as seen:
        opened(folder).entry(net, shape)
    assert str(seen.value) == (
        f"{folder} has no {net} for {size} pixels (onnx); complete sizes: 64x64, 64x96; build it "
        f"with: diffedit-trt build MODEL --out '{folder}' --size {size} --target onnx"
    )


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        ("clip", (3,), "no network named 'clip'"),
        ("text", (64,), "takes rows of"),
        ("unet", (9, 8, 8), "another kind of model"),
        ("unet", (4, 8), "takes rows of"),
        ("unet", (), "takes rows of"),
    ],
)
def test_rows_no_size_would_help(
    tmp_path: Path, net: str, shape: tuple[int, ...], words: str
) -> None:
    manifest(tmp_path, complete(tmp_path, (64, 64)))
    with pytest.raises(EngineMismatch, match=words):
        opened(tmp_path).entry(net, shape)


def test_a_network_that_is_not_there_yet(tmp_path: Path) -> None:
    manifest(tmp_path, [entry(tmp_path, spec("vae_encode"))])
    with pytest.raises(EngineMismatch, match=r"no unet for 64x64 pixels .*only vae_encode.*64x64"):
        opened(tmp_path).entry("unet", (4, 8, 8))


def test_pinning_leaves_one_profile(tmp_path: Path) -> None:
    manifest(tmp_path, complete(tmp_path, (64, 64)))
    assert opened(tmp_path, pin=2).entry("unet", (4, 8, 8)).spec.batch_sizes == (2,)
    with pytest.raises(EngineMismatch, match=r"no profile for batches of 3, only for 1, 2, 4"):
        opened(tmp_path, pin=3)


def test_bytes_are_read_once_they_match(tmp_path: Path) -> None:
    made = entry(tmp_path, spec("text"), content=b"plan")
    assert read_verified(made, tmp_path) == b"plan"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.write_bytes(b"pla"), "is truncated"),
        (lambda file: file.write_bytes(b"plan+"), "was changed"),
        (lambda file: file.write_bytes(b"plaN"), "was changed"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
def test_bytes_that_differ_are_not_read(tmp_path: Path, damage: object, words: str) -> None:
    made = entry(tmp_path, spec("text"), content=b"plan")
    assert callable(damage)
    damage(tmp_path / made.files[0].name)
    with pytest.raises(EngineMismatch, match=words):
        read_verified(made, tmp_path)


def test_bytes_that_change_while_they_are_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of a file and its reading somebody may have put another in its place."""
    made = entry(tmp_path, spec("text"), content=b"plan")
    path = tmp_path / made.files[0].name
    path.write_bytes(b"evil")
    monkeypatch.setattr(Entry, "verified", lambda self, folder: path)
    with pytest.raises(EngineMismatch, match="changed while it was read"):
        read_verified(made, tmp_path)


def test_only_plain_files_of_the_folder_are_read(tmp_path: Path) -> None:
    inside = tmp_path / "engines"
    inside.mkdir()
    made = entry(inside, spec("text"), content=b"plan")
    outside = tmp_path / "plan"
    outside.write_bytes(b"plan")
    escaping = replace(made, files=(replace(made.files[0], name="../plan"),))
    with pytest.raises(EngineMismatch, match="not a plain file name"):
        read_verified(escaping, inside)
    link = inside / made.files[0].name
    link.unlink()
    link.symlink_to(outside)
    with pytest.raises(EngineMismatch, match="not a plain file name"):
        read_verified(made, inside)


def test_every_file_of_an_entry_is_compared(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    made: Entry = entry(tmp_path, spec("text"), content=b"plan", data="weights")
    assert read_verified(made, tmp_path) == b"plan"
    (tmp_path / "weights").write_bytes(b"x")
    assert isinstance(made.files[1], File)
    with pytest.raises(EngineMismatch, match="weights was changed"):
        read_verified(made, tmp_path)


IDS = TensorInfo("input_ids", "int64", (TOKENS,))
EMBEDDING = TensorInfo("embedding", "fp32", (TOKENS, 3))


def test_a_border_as_the_manifest_says_in_any_order() -> None:
    check_tensors(spec("text"), [IDS], [EMBEDDING], Path("file"))
    unet = spec("unet")
    found = [TensorInfo(t.name, t.dtype, (None,) * len(t.shape)) for t in reversed(unet.inputs)]
    prediction = TensorInfo("prediction", "fp32", unet.outputs[0].shape)
    check_tensors(unet, found, [prediction], Path("file"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([replace(IDS, name="ids")], [EMBEDDING], "input 'input_ids' of file is missing"),
        ([replace(IDS, dtype="INT32")], [EMBEDDING], r"is INT32 \(5,\), not int64"),
        ([replace(IDS, shape=(6,))], [EMBEDDING], r"is int64 \(6,\), not int64 \(5,\)"),
        ([replace(IDS, shape=(5, 1))], [EMBEDDING], r"is int64 \(5, 1\)"),
        (
            [IDS, replace(IDS, name="mask")],
            [EMBEDDING],
            "an input 'mask' that is not in its manifest",
        ),
        ([IDS], [], "output 'embedding' of file is missing"),
        ([IDS], [EMBEDDING, replace(EMBEDDING, name="pooled")], "an output 'pooled'"),
    ],
)
def test_a_border_that_differs(
    inputs: list[TensorInfo], outputs: list[TensorInfo], words: str
) -> None:
    with pytest.raises(EngineMismatch, match=words):
        check_tensors(spec("text"), inputs, outputs, Path("file"))


def test_a_batch_as_the_spec_says() -> None:
    inputs = [torch.zeros(2, 4, 8, 8), torch.zeros(2), torch.zeros(2, TOKENS, 3)]
    assert check_batch(spec("unet"), inputs, torch.device("cpu")) == 2


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 3, 64, 64),  # no profile for 3
        torch.zeros(2, 3, 64, 63),
        torch.zeros(2, 3, 64, 64, dtype=torch.float16),
        torch.zeros(2, 3, 64, 64).to(memory_format=torch.channels_last),
        torch.zeros(2, 3, 64, 64, device="meta"),
        torch.zeros(()),
    ],
)
def test_no_address_of_another_tensor_is_handed_on(image: Tensor) -> None:
    with pytest.raises(ValueError, match="vae_encode"):
        check_batch(spec("vae_encode"), [image], torch.device("cpu"))
