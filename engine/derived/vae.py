"""A checkpoint with another VAE: a folder in the cache that links to both."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoint import Checkpoint
from engine.derived.additions import Report
from engine.derived.cached_folder import known_digest
from engine.derived.linked import linked_folder
from engine.errors import CheckpointError
from engine.models import Part
from engine.models.reading import read_json, whole
from engine.origin import SourceFile
from engine.safetensors_header import read_header
from engine.weight_files import WeightFiles, missing_weights

log = logging.getLogger(__name__)
PREFIXES = ("first_stage_model.", "vae.")


@dataclass(frozen=True)
class _Vae:
    """Another VAE.

    Attributes:
        path: the folder, or the single file.
        config: its config; for a single file, the config of the model's VAE.
        digest: sha256 of its weights.
    """

    path: Path
    config: Mapping[str, Any]
    digest: str


def with_vae(checkpoint: Checkpoint, path: Path, report: Report) -> Checkpoint:
    """Return the checkpoint with the VAE in `path` instead of its own.

    Args:
        checkpoint: the model.
        path: a folder with `config.json` and weights, a checkpoint folder with such a part, or a
            single .safetensors file.

    Raises CheckpointError if there is no VAE, or it does not fit the model.
    """
    part = checkpoint.part(checkpoint.network(checkpoint.names.image_encoder).part)
    vae = _read(path, part, checkpoint)
    _check(vae, part, checkpoint)

    def replace(folder: Path) -> None:
        if vae.path.is_dir():
            (folder / part.name).symlink_to(vae.path.resolve(), target_is_directory=True)
        else:
            _convert(vae, part, folder, report)

    return linked_folder(
        checkpoint,
        {part.name: replace},
        f"{checkpoint.folder.name}+{vae.path.stem}",
        (SourceFile("vae", str(vae.path.resolve()), vae.digest),),
        vae.path.stat().st_size,
        [] if vae.path.is_dir() else [dict(vae.config)],
    )


def _read(path: Path, part: Part, checkpoint: Checkpoint) -> _Vae:
    if path.is_dir():
        inner = path / part.name
        folder = inner if (inner / "config.json").is_file() else path
        return _folder(folder, part, checkpoint.variant)
    if not path.is_file():
        raise CheckpointError(f"There is no VAE at {path}; pass a folder or a .safetensors file.")
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(
            f"The VAE {path} is not a .safetensors file; other formats can run code when they are "
            "opened, so convert it first."
        )
    if not any(name.endswith("decoder.conv_in.weight") for name in read_header(path)):
        raise CheckpointError(
            f"{path} is not a VAE (it has no decoder.conv_in.weight); pass the file of a VAE."
        )
    config = path.with_name("config.json")
    own = read_json(config, "") if config.is_file() else {}
    if own.get("_class_name") != part.class_name:
        own = dict(checkpoint.family.configs[part.name])
    return _Vae(path, own, known_digest(path))


def _folder(folder: Path, part: Part, variant: str | None) -> _Vae:
    """The VAE in a folder: its weights of the variant, or the plain ones."""
    config = read_json(folder / "config.json", "pass the folder of a VAE, with its config.json")
    files = WeightFiles.find(folder, part, variant) or WeightFiles.find(folder, part, None)
    if files is None:
        raise missing_weights(folder, part, variant, [path.name for path in folder.glob("*")])
    files.headers()
    digests = [known_digest(file) for file in files.files]
    text = json.dumps([config, digests], sort_keys=True)
    return _Vae(folder, config, hashlib.sha256(text.encode()).hexdigest())


def _check(vae: _Vae, part: Part, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the VAE has the latents of the model's own."""
    own, other = checkpoint.family.configs[part.name], vae.config
    found = other.get("_class_name", part.class_name)
    if found != part.class_name:
        raise CheckpointError(
            f"The VAE {vae.path} is a {found}, but this model needs a {part.class_name}; use a VAE "
            "of the same family."
        )
    try:
        channels = [whole(config, "latent_channels", 4) for config in (other, own)]
        levels = [len(config["block_out_channels"]) for config in (other, own)]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"The config of the VAE {vae.path} is damaged ({error}); copy it again."
        ) from None
    if channels[0] != channels[1]:
        raise CheckpointError(
            f"The VAE {vae.path} has {channels[0]} latent channels, but this model has "
            f"{channels[1]}; use a VAE of the same family."
        )
    if levels[0] != levels[1]:
        raise CheckpointError(
            f"The VAE {vae.path} has latent cells of {2 ** (levels[0] - 1)} pixels a side, but "
            f"this model has {2 ** (levels[1] - 1)}; use a VAE of the same family."
        )
    for name in ("scaling_factor", "shift_factor"):
        if other.get(name) != own.get(name):
            log.warning(
                "The VAE %s has the %s %s instead of %s, so it may be of another family, for whose "
                "latents this model was not trained.",
                *(vae.path, name, other.get(name), own.get(name)),
            )


def _convert(vae: _Vae, part: Part, folder: Path, report: Report) -> None:
    from engine.derived.convert import convert_part

    report("converting the VAE", 0, 1)
    (folder / part.name).mkdir()
    (folder / part.name / "config.json").write_text(json.dumps(dict(vae.config), indent=1))
    names = read_header(vae.path)
    prefix = next((p for p in PREFIXES if any(n.startswith(p) for n in names)), "")
    convert_part(vae.path, prefix, part.name, (part.package, part.class_name), folder)
