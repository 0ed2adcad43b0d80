"""Text encoders that are read again: never from files that changed since the model was opened."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from diffedit import CheckpointError, DiffEditPipeline
from tests.engine.lora_files import draw, saved

LAYER = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
WEIGHTS = Path("model") / "text_encoder" / "model.safetensors"
LORA = Path("style.safetensors")


def lora(path: Path, seed: int) -> Path:
    state = {
        f"{LAYER}.lora_down.weight": draw(2, 32, seed=seed),
        f"{LAYER}.lora_up.weight": draw(32, 2, seed=seed + 1),
    }
    return saved(path, state)


def retrain(folder: Path) -> None:
    state = {name: tensor + 1 for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def replace(folder: Path) -> None:
    retrain(folder)
    copy = shutil.copy(folder / WEIGHTS, folder / "copy")
    Path(copy).replace(folder / WEIGHTS)


def delete(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def change_the_lora(folder: Path) -> None:
    lora(folder / LORA, seed=7)


@pytest.mark.parametrize("change", [retrain, replace, delete, change_the_lora])
def test_files_that_changed_are_not_read(
    change: Callable[[Path], None], tiny: Path, tmp_path: Path, photo: Image.Image
) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    options: dict[str, Any] = {
        "preset": "paper",
        "num_inference_steps": 1,
        "source_prompt": "a red ball",
    }
    with DiffEditPipeline.from_pretrained(
        tmp_path / "model",
        device="cpu",
        dtype="fp32",
        offload_text=True,
        lora=[lora(tmp_path / LORA, seed=1)],
    ) as pipe:
        first = pipe(photo, "a blue ball", **options)
        change(tmp_path)
        again = pipe(photo, "a blue ball", **options)  # the texts are known
        assert again.image.tobytes() == first.image.tobytes()
        with pytest.raises(CheckpointError, match=r"changed or deleted after .* open the model"):
            pipe(photo, "a green cube", **options)


def test_other_pipelines_do_not_look(tiny: Path, tmp_path: Path, photo: Image.Image) -> None:
    """Without offloading nothing is read again."""
    shutil.copytree(tiny, tmp_path / "model")
    with DiffEditPipeline.from_pretrained(tmp_path / "model", device="cpu", dtype="fp32") as pipe:
        pipe(photo, "a blue ball", num_inference_steps=1)
        delete(tmp_path)
        pipe(photo, "a green cube", num_inference_steps=1)
