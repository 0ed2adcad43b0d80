"""Write a trained model as a checkpoint folder in diffusers' format, and read one to start from."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from demo.random_checkpoint import SD_SCHEDULER, write_index, write_json
from demo.training import TrainingError
from demo.training.files import atomic_folder
from demo.training.networks import SIZE_LIMIT, Denoiser, count_parameters
from engine.loader import quiet

RUNS = "training.json"
"""The file of a checkpoint that records its training runs: the figures that the card states."""

_CARD = Path(__file__).with_name("model_card.md")


def export(
    folder: Path, vae: Any, denoiser: Denoiser, tokenizer: Path, runs: list[dict[str, Any]]
) -> int:
    """Write the checkpoint in fp16 with its model card; return its size in bytes.

    `runs` are the records of all runs, oldest first. Raises TrainingError if the checkpoint is
    larger than SIZE_LIMIT or cannot be written; an existing one is unchanged then.
    """
    refuse_foreign(folder)
    networks = {"unet": denoiser.unet, "vae": vae, "text_encoder": denoiser.text_encoder}
    parameters = {name: count_parameters(network) for name, network in networks.items()}
    with atomic_folder(folder) as new:
        _write_networks(new, networks)
        shutil.copytree(tokenizer, new / "tokenizer")
        write_json(new / "scheduler" / "scheduler_config.json", SD_SCHEDULER)
        write_index(new, str(SD_SCHEDULER["_class_name"]))
        write_json(new / RUNS, {"runs": runs})
        (new / "README.md").write_text(model_card(runs, parameters))
        size = sum(f.stat().st_size for f in new.rglob("*") if f.is_file())
        if size > SIZE_LIMIT:
            raise TrainingError(f"the checkpoint has {size} bytes; the limit is {SIZE_LIMIT}")
    return size


def refuse_foreign(folder: Path) -> None:
    """Raise TrainingError if `folder` exists and is not a checkpoint; it would be replaced."""
    if folder.is_dir() and ((folder / "model_index.json").exists() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise TrainingError(f"{folder} exists and is not a checkpoint; pass another folder")


def _write_networks(folder: Path, networks: dict[str, Any]) -> None:
    with quiet():
        for name, network in networks.items():
            for key, tensor in network.state_dict().items():
                if not torch.isfinite(tensor.half()).all():
                    raise TrainingError(f"{key} of the {name} overflows in fp16; train again")
            copy.deepcopy(network).cpu().half().save_pretrained(folder / name)
    # transformers loads in the dtype of the config, diffusers in float32. Make both agree.
    config = folder / "text_encoder" / "config.json"
    write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a checkpoint's runs, oldest first; none if it has no record."""
    try:
        return list(json.loads((folder / RUNS).read_text())["runs"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def digest(folder: Path) -> str:
    """Return the sha256 of a checkpoint's weights; TrainingError if it has none."""
    sha256 = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder"):
        for path in _weight_files(folder, part):
            sha256.update(path.read_bytes())
    return sha256.hexdigest()


def read_weights(folder: Path, part: str, module: torch.nn.Module) -> None:
    """Load the weights of a part; TrainingError if they are missing or have other shapes."""
    state: dict[str, torch.Tensor] = {}
    for path in _weight_files(folder, part):
        state |= load_file(path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(
            f"the {part} in {folder} has other shapes than this program's: "
            f"{str(error).splitlines()[1].strip()}"
        ) from error


def _weight_files(folder: Path, part: str) -> list[Path]:
    files = sorted((folder / part).glob("*.safetensors"))
    if not files:
        raise TrainingError(f"{folder} has no weights in {part}; pass a checkpoint to start from")
    return files


def model_card(runs: list[dict[str, Any]], parameters: dict[str, int]) -> str:
    """Return the model card in Markdown; `parameters` are counts by network."""
    last = runs[-1]
    continued = ", then again with `--from` this model" if len(runs) > 1 else ""
    rows = "\n".join(
        f"| text encoder and UNet | {run['seed']} | {run['unet_steps']:,} | {run['unet_batch']} | "
        f"{run['unet_minutes']:.1f} | {run['unet_loss']:.4f} | loss {run['held_out']:.4f} |"
        for run in runs
    )
    millions = {f"{name}_millions": count / 1e6 for name, count in parameters.items()}
    return _CARD.read_text().format(
        **{**last, **millions, "vae_seed": runs[0]["seed"]},
        last_seed=last["scenes"] - 1,
        continued=continued,
        rows=rows,
    )
