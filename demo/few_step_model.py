"""Write the demo's model with its few-step LoRA fused, as a distilled checkpoint in itself.

    python -m demo.few_step_model OUT [--model demo/model] [--lora demo/few-steps]

The checkpoint has an LCM scheduler, as people publish such models; `benchmarks quality --model OUT`
measures it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from demo.random_checkpoint import write_index, write_json
from demo.training import TrainingError
from demo.training.distillation import WEIGHTS
from demo.training.export import refuse_foreign
from demo.training.files import atomic_folder
from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.loader import load_module, quiet
from engine.lora.file import Lora
from engine.lora.fuse import fuse
from engine.models.distilling_lora import SCHEDULERS


def write_few_step_model(out: Path, model: Path, lora: Path) -> None:
    """Write the checkpoint in fp16; TrainingError or CheckpointError if it cannot be made."""
    refuse_foreign(out)
    checkpoint = Checkpoint.open(model)
    unet: Any = load_module(checkpoint, "unet", torch.float32)
    fuse(unet, checkpoint, "unet", [Lora.open(lora / WEIGHTS, 1.0)])
    scheduler = {**checkpoint.scheduler_config, **SCHEDULERS["lcm"]}
    with atomic_folder(out) as new, quiet():
        for part in ("vae", "text_encoder", "tokenizer"):
            shutil.copytree(model / part, new / part)
        unet.half().save_pretrained(new / "unet")
        write_json(new / "scheduler" / "scheduler_config.json", scheduler)
        write_index(new, str(scheduler["_class_name"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, 0 or 1."""
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser("demo.few_step_model", description=description)
    parser.add_argument("out", type=Path, help="folder of the checkpoint")
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--lora", type=Path, default=Path("demo/few-steps"), help="folder")
    args = parser.parse_args(argv)
    try:
        write_few_step_model(args.out, args.model, args.lora)
    except (TrainingError, CheckpointError, OSError) as error:
        print(f"few_step_model: {error}", file=sys.stderr)
        return 1
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
