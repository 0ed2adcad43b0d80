"""Open a model argument as a checkpoint: a local folder or file, or a hub id, downloaded once.

This is the only file that contacts a model hub.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.checkpoint import Checkpoint
from engine.derived.additions import NOTHING, Additions, Report, logged
from engine.errors import CheckpointError, ResourceError, first_line
from engine.load_errors import load_error
from engine.models import Part
from engine.models.index import lookalike_warning
from engine.weight_files import WeightFiles, missing_weights, patterns

log = logging.getLogger(__name__)
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
"""The form of a hub id: "name" or "owner/name"."""
FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
"""A name with one of these endings is a missing file, not a hub id."""
SINGLE_FILE = ".safetensors"
CONFIGS = ("model_index.json", "*/*.json", "*/*.txt")
UNUSED = ("safety_checker/*", "feature_extractor/*", "image_encoder/*")
Download = Callable[[list[str]], Path]
"""Downloads the files that match patterns; returns the folder."""


def find_checkpoint(
    model: str | Path,
    *,
    additions: Additions = NOTHING,
    report: Report = logged,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Open a local folder or single file, or download a hub id (configs, tokenizer and safetensors
    only).

    Checks every config and the header of every weight file, so that an unsupported or truncated
    model is found before it is loaded. For a hub id, the configs are checked before the weights are
    downloaded.

    Args:
        model: a folder in diffusers' format, a single .safetensors file, which is converted once
            into the cache, or an id such as "owner/name".
        additions: additions to the model, such as another VAE.
        report: called while a model is converted.
        variant: which weight files: None, or a name such as "fp16". A part that has only plain
            weights uses these, as in diffusers.
        revision, cache_dir, local_files_only: as in huggingface_hub; ignored for a folder.

    Raises:
        CheckpointError: the model is missing, incomplete, unsafe, damaged or not supported, or the
            hub cannot be reached.
        ResourceError: there is no space for the download.
    """
    source = HubSource(revision, variant, cache_dir, local_files_only)
    path = _local(model)
    if path is not None and path.is_file() and path.suffix.lower() == SINGLE_FILE:
        checkpoint = _convert(path, additions, source, report)
    else:
        _refuse_single_file_options(model, additions)
        checkpoint = _open(model, source)
    if warning := lookalike_warning(Path(model).name, checkpoint.family.name):
        log.warning(warning)
    checkpoint.check_files()
    return _with_additions(checkpoint, additions, report)


def _with_additions(checkpoint: Checkpoint, additions: Additions, report: Report) -> Checkpoint:
    """Return the checkpoint with the requested VAE, textual inversions, layers and scheduler."""
    if additions.vae is not None:
        from engine.derived.vae import with_vae

        checkpoint = with_vae(checkpoint, additions.vae, report)
    if additions.embeddings:
        from engine.derived.embeddings import with_embeddings

        checkpoint = with_embeddings(checkpoint, additions.embeddings, report)
    if additions.clip_skip:
        checkpoint = checkpoint.with_clip_skip(additions.clip_skip)
    return checkpoint.with_scheduler(additions.scheduler) if additions.scheduler else checkpoint


@dataclass(frozen=True)
class HubSource:
    """Which files of a hub id to use; see `find_checkpoint`."""

    revision: str | None
    variant: str | None
    cache_dir: str | Path | None
    local_files_only: bool


def _convert(path: Path, additions: Additions, source: HubSource, report: Report) -> Checkpoint:
    from engine.derived.single_file import from_single_file

    base = additions.base
    local = None if base is None else _local(base)
    if local is not None and local.is_file():
        raise CheckpointError(
            f"The base {base} is a file, but must have the parts that {path} lacks; pass a "
            "checkpoint folder or a hub id."
        )
    open_base = None if base is None else partial(_open, base, source)
    return from_single_file(path, open_base, additions.prediction_type, report)


def _refuse_single_file_options(model: str | Path, additions: Additions) -> None:
    for name in ("base", "prediction_type"):
        if getattr(additions, name) is not None:
            raise CheckpointError(
                f"{name} is for a model in a single .safetensors file, but {model} is a folder or "
                f"a hub id, which is complete; leave {name} out."
            )


def _open(
    model: str | Path, source: HubSource, without: frozenset[str] = frozenset()
) -> Checkpoint:
    """Open a folder or a hub id, which need not have the weights of the parts `without`."""
    folder = _local(model)
    if folder is not None:
        return Checkpoint.open(folder, source.variant)
    where = (source.revision, source.cache_dir, source.local_files_only)
    download = partial(_download, str(model), *where)
    listed = partial(_listed, str(model), source.revision)
    folder = download([*CONFIGS])
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(_not_a_model(str(model), listed()))
    checkpoint = Checkpoint.open(folder, source.variant)
    _download_weights(checkpoint, download, listed, without)
    return checkpoint


@contextlib.contextmanager
def quiet_downloads() -> Iterator[None]:
    """Show no progress bars of downloads."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _local(model: str | Path) -> Path | None:
    """The path that a model argument names; None for a hub id."""
    text = str(model)
    if "://" in text:
        raise CheckpointError(
            f"{text[:200]} is an address, not a hub id; pass the id as owner/name."
        )
    try:
        folder = Path(model).expanduser()
        is_id = HUB_ID.fullmatch(text) and not text.lower().endswith(FILE_ENDINGS)
        return None if is_id and not folder.exists() else folder
    except (OSError, RuntimeError) as error:  # no permission, a name too long, no such user
        raise CheckpointError(
            f"The model {text[:200]!r} cannot be opened ({first_line(error)}); check the path."
        ) from None


def _not_a_model(model: str, names: list[str]) -> str:
    """The error message for a repository without `model_index.json`."""
    singles = [name for name in names if name.endswith(FILE_ENDINGS) and "/" not in name]
    hint = f" (it has {', '.join(singles[:3])})" if singles else ""
    return (
        f"{model} on the hub is not a checkpoint in diffusers' format: it has no model_index.json"
        f"{hint}; use a repository that has one, or download the single .safetensors file and "
        "name it."
    )


def _download_weights(
    checkpoint: Checkpoint,
    download: Download,
    listed: Callable[[], list[str]],
    without: frozenset[str],
) -> None:
    """Download the weights of every part: of the variant, or the plain ones if it has none."""
    parts = tuple(part for part in checkpoint.family.parts if part.name not in without)
    if not parts:
        return
    for variant in dict.fromkeys((checkpoint.variant, None)):
        download([pattern for part in parts for pattern in patterns(part, variant)])
        parts = tuple(p for p in parts if not _has_weights(checkpoint, p, variant))
        if not parts:
            return
    folder = checkpoint.folder / parts[0].name
    names = [Path(n).name for n in listed() if n.startswith(f"{parts[0].name}/")]
    error = missing_weights(
        folder, parts[0], checkpoint.variant, names + [path.name for path in folder.glob("*")]
    )
    if not names and "--variant" not in str(error):  # the hub did not list its files
        raise CheckpointError(
            f"{str(error).partition(';')[0]}; the hub may have them as a variant (try --variant "
            "fp16) or as pickles (.bin), which are not loaded."
        )
    raise error


def _has_weights(checkpoint: Checkpoint, part: Part, variant: str | None) -> bool:
    return WeightFiles.find(checkpoint.folder / part.name, part, variant) is not None


def _listed(model: str, revision: str | None) -> list[str]:
    """The files of a repository; none if the hub cannot be reached. For a message."""
    try:
        from huggingface_hub import list_repo_files

        return list_repo_files(model, revision=revision)
    except Exception:  # the library's errors have no common base
        return []


def _download(
    model: str,
    revision: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    wanted: list[str],
) -> Path:
    try:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            model,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=wanted,
            ignore_patterns=[*UNUSED],
        )
    except Exception as error:  # the library's errors have no common base
        known = load_error(error, f"the download of {model}")
        if isinstance(known, ResourceError) or isinstance(error, ImportError | PermissionError):
            raise known from error
        raise CheckpointError(
            f"{model} is not a folder here and could not be downloaded from the hub "
            f"({first_line(error)}); pass the path of a checkpoint, or check the id, the network "
            "and your access to it."
        ) from error
    return Path(folder)
