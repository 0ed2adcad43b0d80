"""Convert a single-file checkpoint to a folder in diffusers' format, once, in the cache.

The file's header identifies the model. Its parts are converted; everything that it lacks comes from
the published configs, or from a base checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.checkpoint import Checkpoint
from engine.derived.additions import Report
from engine.derived.cached_folder import cached_folder, known_digest, require_unchanged
from engine.derived.linked import link_folders
from engine.errors import CheckpointError
from engine.fingerprint import fingerprint
from engine.models.family import Configs
from engine.models.noise_schedule import PREDICTION_TYPES
from engine.models.published import published_configs, write_clip_tokenizer
from engine.models.reading import read_index
from engine.models.single_file_configs import (
    configs_without_base,
    part_config,
    scheduler_config,
)
from engine.models.single_files import SingleFile, identify
from engine.origin import Origin, SourceFile
from engine.safetensors_header import Header, read_header, read_metadata

log = logging.getLogger(__name__)

Part = tuple[str, str]
"""Package and class."""


@dataclass(frozen=True)
class _Source:
    """One single file, identified."""

    path: Path
    header: Header
    single: SingleFile
    base: Checkpoint | None


def from_single_file(
    file: Path,
    open_base: Callable[[frozenset[str]], Checkpoint] | None,
    prediction_type: str | None,
    report: Report,
) -> Checkpoint:
    """Return the checkpoint of a single file. Converts the file unless it is in the cache.

    Args:
        file: a .safetensors file.
        open_base: opens the base checkpoint, given the parts that are not needed.
        prediction_type: what the denoiser predicts; by default what the file states, or the usual
            value for its kind.

    Raises CheckpointError if the file is not a model, or something is missing.
    """
    header = read_header(file)
    try:
        single = identify(header, read_metadata(file))
    except CheckpointError as error:
        raise CheckpointError(f"{file} {error}.") from None
    base = open_base(frozenset(single.parts)) if open_base else None
    single = replace(single, prediction=_prediction(file, single, prediction_type))
    source = _Source(file, header, single, base)
    wanted = _plan(source)
    report(f"reading {file.name}", 0, 0)
    digest = known_digest(file)
    origin = _origin(source, digest)
    key = [*(f.sha256 for f in origin.files), single.prediction, *_used_of(base)]

    def make(folder: Path) -> None:
        _make(source, wanted, folder, report)
        require_unchanged(file, digest)
        origin.write(folder)

    folder = cached_folder(file.stem, key, bytes_needed(header), make)
    return Checkpoint.open(folder, base.variant if base else None)


def bytes_needed(header: Header) -> int:
    """Disk space for the converted tensors of a file; fp8 is converted to a type of two bytes."""
    sizes = (t["data_offsets"][1] - t["data_offsets"][0] for t in header.values())
    return sum(
        n * (2 if t["dtype"].startswith("F8") else 1)
        for n, t in zip(sizes, header.values(), strict=True)
    )


def _used_of(base: Checkpoint | None) -> list[Any]:
    """The files that a folder copies from its base; the others are links."""
    if base is None:
        return [""]
    return [str(base.folder.resolve()), read_index(base.folder), base.family.configs]


def _prediction(file: Path, single: SingleFile, asked: str | None) -> str | None:
    """The prediction type for the scheduler's config; None keeps the one of the configs."""
    if asked is not None and not single.is_diffusion:
        raise CheckpointError(
            f"{file} is {single.title}, which is trained by flow matching; leave prediction_type "
            "out."
        )
    if asked is None and single.prediction is None and single.kind == "stable-diffusion-2":
        log.warning(
            "%s does not state what its U-Net predicts; v_prediction is used, as for 768 pixels. "
            "If edits are noise, pass --prediction-type epsilon (models for 512 pixels).",
            file,
        )
    prediction = asked or single.prediction
    if prediction is not None and prediction not in PREDICTION_TYPES:
        raise CheckpointError(
            f"{file} has the unknown prediction type {prediction!r}; pass --prediction-type with "
            f"{', '.join(PREDICTION_TYPES)}."
        )
    return prediction


def _plan(source: _Source) -> dict[str, Part]:
    """The parts to convert, with their classes. Raises CheckpointError if others are missing."""
    single, base = source.single, source.base
    if base is not None:
        if base.family.name != single.family:
            raise CheckpointError(
                f"{source.path} is {single.title}, but the base {base.folder} is of the family "
                f"{base.family.name}; pass a base of the same model."
            )
        parts = {part.name: (part.package, part.class_name) for part in base.family.parts}
        return {name: parts[name] for name in single.parts if name in parts}
    classes = _classes(single)
    if missing := missing_parts(single):
        raise CheckpointError(
            f"{source.path} is {single.title} without its {' and '.join(missing)}; pass --base "
            f"(base= in Python) with a checkpoint folder or hub id of {single.title} that has them."
        )
    for name in single.parts:
        if name not in classes:
            log.warning(
                "The %s in %s is not used, because its tokenizer is missing; pass --base with a "
                "checkpoint that has it.",
                *(name, source.path),
            )
    return {name: classes[name] for name in single.parts if name in classes}


def _classes(single: SingleFile) -> dict[str, Part]:
    """The parts of a published checkpoint of this kind."""
    index = published_configs(single.kind)["index"]
    return {
        name: (entry[0], entry[1])
        for name, entry in index.items()
        if isinstance(entry, list) and entry[0] and not name.startswith(("scheduler", "tokenizer"))
    }


def missing_parts(single: SingleFile) -> list[str]:
    """The parts that a base must have, because the file does not."""
    return [name for name in _classes(single) if name not in single.parts]


def _origin(source: _Source, digest: str) -> Origin:
    files = [SourceFile("checkpoint", str(source.path.resolve()), digest)]
    if source.base is not None:
        digest = fingerprint(source.base, source.single.parts)
        files.append(SourceFile("base", str(source.base.folder), digest))
    return Origin(str(source.path.resolve()), tuple(files))


def _make(source: _Source, wanted: Mapping[str, Part], folder: Path, report: Report) -> None:
    """Write the whole checkpoint folder."""
    from engine.derived.convert import convert_part

    if source.base is None:
        configs = _from_published(source, folder)
    else:
        configs = _from_base(source, source.base, wanted, folder)
    _write(folder / "scheduler" / "scheduler_config.json", scheduler_config(source.single, configs))
    for number, (part, names) in enumerate(wanted.items()):
        report(f"converting the {part}", number, len(wanted))
        prefix = source.single.parts[part]
        _write(folder / part / "config.json", _part_config(source, part, configs[part]))
        convert_part(source.path, prefix, part, names, folder)
    report("converting", len(wanted), len(wanted))


def _from_published(source: _Source, folder: Path) -> Configs:
    """Write index and tokenizers; returns the configs."""
    configs = configs_without_base(source.single)
    _write(folder / "model_index.json", configs["index"])
    for name in configs:
        if name.startswith("tokenizer"):
            write_clip_tokenizer(folder / name, configs[name])
    return configs


def _from_base(
    source: _Source, base: Checkpoint, wanted: Mapping[str, Part], folder: Path
) -> Configs:
    """Write the index, and links to everything in the base that is not converted."""
    _write(folder / "model_index.json", read_index(base.folder))
    link_folders(base.folder.resolve(), folder, without=(*wanted, "scheduler"))
    return base.family.configs


def _part_config(source: _Source, part: str, config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return part_config(source.single, part, source.header, config)
    except CheckpointError as error:
        raise CheckpointError(f"The {part} of {source.path} {error}.") from None


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
