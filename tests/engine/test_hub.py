"""A model argument: folders, hub ids, and which files are downloaded; offline."""

from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects, tqdm  # type: ignore[attr-defined]

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError, ResourceError
from engine.hub import CONFIGS, UNUSED, find_checkpoint, quiet_downloads
from engine.models.stable_diffusion import PARTS
from engine.weight_files import patterns
from tests.engine.checkpoints import config, weight_file

UNET = "diffusion_pytorch_model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tiny: Path, tmp_path: Path) -> Path:
    """A hub cache that already has owner/name."""
    repository = tmp_path / "models--owner--name"
    shutil.copytree(tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path


def test_an_id_is_found_in_the_cache(cache: Path, tiny: Path) -> None:
    found = find_checkpoint("owner/name", cache_dir=cache, local_files_only=True)
    assert found.folder.name == COMMIT
    assert found.digest("unet") == Checkpoint.open(tiny).digest("unet")


def test_a_folder_needs_no_hub(tiny: Path) -> None:
    assert find_checkpoint(str(tiny)).folder == tiny


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("owner/other", "could not be downloaded"),
        ("./nothing", "There is no model folder"),
        ("/no/such/folder", "There is no model folder"),
    ],
)
def test_what_is_not_there_is_one_sentence(model: str, says: str, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        find_checkpoint(model, cache_dir=cache, local_files_only=True)
    assert "\n" not in str(caught.value)


REPOSITORY = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.safetensors",
    "v1-5-pruned.ckpt",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/model.safetensors",
    "safety_checker/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin",
]


def chosen(wanted: list[str]) -> set[str]:
    return set(filter_repo_objects(REPOSITORY, allow_patterns=wanted, ignore_patterns=[*UNUSED]))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_only_what_an_edit_needs_is_downloaded(variant: str | None) -> None:
    ending = ".fp16.safetensors" if variant else ".safetensors"
    weights = [pattern for part in PARTS for pattern in patterns(part, variant)]
    assert chosen(weights) == {
        f"text_encoder/model{ending}",
        f"unet/diffusion_pytorch_model{ending}",
    }
    assert chosen([*CONFIGS]) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
    }


def test_a_truncated_weight_file_is_found_before_loading(tiny: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    (weights,) = Checkpoint.open(model).weights("unet")
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"unet.*is damaged: it is truncated"):
        find_checkpoint(model)


class Hub:
    """A hub with one repository, in the place of huggingface_hub's two functions.

    Attributes:
        downloaded: the names of the files, in the order of the calls.
    """

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache = repository, cache
        self.downloaded: list[str] = []

    def list_repo_files(self, model: str, *, revision: str | None = None) -> list[str]:
        paths = [p for p in sorted(self.repository.rglob("*")) if p.is_file()]
        return [str(p.relative_to(self.repository)) for p in paths]

    def snapshot_download(
        self, model: str, *, allow_patterns: list[str], ignore_patterns: list[str], **_: object
    ) -> str:
        wanted = filter_repo_objects(
            self.list_repo_files(model),
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
        )
        for name in wanted:
            self.downloaded.append(name)
            (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.repository / name, self.cache / name)
        return str(self.cache)


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Its repository is a copy of the tiny model, to change."""
    hub = Hub(Path(shutil.copytree(tiny, tmp_path / "repository")), tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", hub.list_repo_files)
    return hub


def renamed(hub: Hub, part: str, new: str) -> None:
    file = weight_file(hub.repository, part)
    file.rename(file.with_name(new))


def test_a_model_of_another_family_costs_no_download_of_weights(hub: Hub) -> None:
    config("unet", in_channels=9)(hub.repository)
    with pytest.raises(CheckpointError, match="an inpainting model"):
        find_checkpoint("owner/name")
    assert [name for name in hub.downloaded if name.endswith(".safetensors")] == []


def test_a_repository_with_fp16_alone_gets_the_hint_of_a_folder(hub: Hub) -> None:
    for part, base in (("unet", UNET), ("vae", UNET), ("text_encoder", "model")):
        renamed(hub, part, f"{base}.fp16.safetensors")
    with pytest.raises(CheckpointError, match="but the variant fp16; pass --variant fp16"):
        find_checkpoint("owner/name")
    assert find_checkpoint("owner/name", variant="fp16").variant == "fp16"


def test_without_a_list_of_files_the_hint_says_what_may_be(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> list[str]:
        raise ConnectionError("no route")

    renamed(hub, "text_encoder", "model.fp16.safetensors")
    monkeypatch.setattr("huggingface_hub.list_repo_files", fail)
    with pytest.raises(CheckpointError, match=r"has no model.safetensors; the hub may .*fp16.*bin"):
        find_checkpoint("owner/name")


def test_a_repository_with_pickles_alone_gets_the_hint_of_a_folder(hub: Hub) -> None:
    renamed(hub, "unet", f"{UNET}.bin")
    with pytest.raises(CheckpointError, match="only pickle weights"):
        find_checkpoint("owner/name")
    assert f"unet/{UNET}.bin" not in hub.downloaded


def test_a_repository_that_is_no_diffusers_model_is_named(hub: Hub) -> None:
    shutil.rmtree(hub.repository)
    hub.repository.mkdir()
    (hub.repository / "v1-5-pruned.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"owner/name on the hub is not .*v1-5-pruned.safe"):
        find_checkpoint("owner/name")
    assert hub.downloaded == []


def test_a_partial_variant_downloads_plain_files_for_the_rest(hub: Hub) -> None:
    unet = weight_file(hub.repository, "unet")
    shutil.copy(unet, unet.with_name(f"{UNET}.fp16.safetensors"))
    checkpoint = find_checkpoint("owner/name", variant="fp16")
    assert [checkpoint.weight_files(p.name).variant for p in PARTS] == [None, None, "fp16"]
    assert f"unet/{UNET}.safetensors" not in hub.downloaded
    assert len(hub.downloaded) == len(set(hub.downloaded))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/c"), ResourceError, "no space left"),
        (
            PermissionError(errno.EACCES, "denied", "/c/x"),
            CheckpointError,
            "/c/x.*permission denied",
        ),
        (ImportError("no hub"), CheckpointError, "a package is missing"),
        (ConnectionError("no route"), CheckpointError, r"could not be downloaded.*no route"),
    ],
)
def test_a_failed_download_has_its_true_reason(
    error: Exception, kind: type[Exception], words: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(kind, match=words):
        find_checkpoint("owner/name")


def test_quiet_downloads_show_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    def bar() -> str:
        with tqdm(total=1, file=sys.stdout) as shown:  # type: ignore[no-untyped-call]
            shown.update()
        return capsys.readouterr().out

    assert bar() != ""
    with quiet_downloads():
        assert bar() == ""
        with quiet_downloads():
            pass
        assert bar() == ""
    assert bar() != ""
