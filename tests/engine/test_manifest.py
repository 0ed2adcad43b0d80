"""`manifest.json`: written and read back, and the errors for manifests that cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import EngineMismatch
from engine.manifest import Check, FusedFile, Manifest, ModelIdentity
from tests.engine.compiled import BUILT_RTX, FAMILY, NETWORKS, complete, entry, spec

MODEL = ModelIdentity(
    source="some-model",
    family=FAMILY.name,
    networks=NETWORKS,
    digests={"unet": "1"},
    loras=(FusedFile("style.safetensors", "2", 0.5),),
    embeddings=(FusedFile("word.safetensors", "3"),),
)


def test_everything_is_read_back(tmp_path: Path) -> None:
    checks = (
        Check("torch", 1, "passed", 1e-6, 1e-7),
        Check("onnxruntime", 2, "too imprecise", 1.0, 0.5, "relative error 5.0e-01"),
        Check("onnxruntime", 4, "failed", reason="no kernel"),
        Check("tensorrt-rtx", 1, "not run", reason="there is no NVIDIA GPU"),
    )
    entries = complete(tmp_path, (64, 64), kind="tensorrt-rtx", **BUILT_RTX)
    entries[0] = replace(entries[0], checks=checks, notes=("a note",), seconds=1.5, peak_bytes=7)
    manifest = Manifest(MODEL, tuple(entries), extra={"later": [1]})
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert manifest.source == "some-model"


def test_an_entry_replaces_the_one_of_its_network_size_and_format(tmp_path: Path) -> None:
    manifest = Manifest(MODEL, tuple(complete(tmp_path, (64, 64), (64, 96))))
    newer = replace(entry(tmp_path, spec("unet", (64, 96))), key="newer")
    changed = manifest.with_entry(newer)
    assert len(changed.entries) == len(manifest.entries)
    assert [e.key for e in changed.entries if e.spec == newer.spec] == ["newer"]


def test_a_folder_of_the_first_version_says_how_to_build_it_again(tmp_path: Path) -> None:
    model = {"source": "/models/sd15", "digests": {}, "lora": []}
    old = {"model": model, "entries": [], "schema": 1, "extra": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(EngineMismatch) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/manifest.json was written by an older version of this program (schema 1, this "
        f"version reads 2); build again with: diffedit-trt build /models/sd15 --out {tmp_path}"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(schema=99), "another version of this program"),
        (lambda data: data["entries"][0].pop("key"), "is damaged"),
        (lambda data: data["entries"][0]["spec"].update(size=[64]), "is damaged"),
        (lambda data: data["entries"][0].update(format="other"), "unknown format"),
        (lambda data: data["entries"][0]["spec"].update(precision="fp8"), "is damaged.*'fp8'"),
        (lambda data: data["entries"][0]["spec"].update(role="other"), "is damaged.*'other'"),
        (lambda data: data["entries"][0]["spec"].update(batch_sizes=[10**6]), "at most 256"),
        (lambda data: data["entries"][0]["built_with"].update(more=1), "is damaged"),
        (lambda data: data.update(model=[]), "is damaged"),
        (lambda data: data["entries"][0].update(checks=[{"status": "fine"}]), "unknown status"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, change: object, words: str) -> None:
    Manifest(MODEL, (entry(tmp_path, spec("unet")),)).save(tmp_path)
    path = tmp_path / "manifest.json"
    data = json.loads(path.read_text())
    assert callable(change)
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(EngineMismatch, match=words) as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value) and "build again" in str(caught.value)


def test_a_manifest_that_is_nested_too_deep_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(EngineMismatch, match="build again"):
        Manifest.load(tmp_path)
