"""A server on fake networks, to test clients, load and faults without a model.

    python -m demo.fake_server --model demo/model [--call-ms 5] [--fault nan|oom|hang|crash]
    python -m demo.fake_server --ray 2          # two replicas with Ray Serve

The networks are those of `engine.backends.fake`; each call takes `--call-ms`. A fault affects edits
whose prompt contains the word "poison". Other edits must still succeed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffedit.pipeline import DiffEditPipeline
from diffedit.server import Settings, create_app
from diffedit.server.run import log_to_stderr, run
from engine.backends.fake import FakeNetworks, Fault
from engine.checkpoint import Checkpoint

FAULTS = ("nan", "oom", "hang", "crash")
POISON = "poison"


def make_fault(kind: str | None, call_seconds: float, poisoned_embedding: Tensor | None) -> Fault:
    """Return a fault that delays every call, and fails UNet rows with the poisoned embedding."""

    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> Tensor | None:
        if call_seconds:
            time.sleep(call_seconds)
        if net != "unet" or kind is None or poisoned_embedding is None:
            return None
        poisoned = (batch["embedding"] - poisoned_embedding).abs().amax((1, 2)) < 1e-6
        if not bool(poisoned.any()):
            return None
        if kind == "oom":
            raise torch.OutOfMemoryError("injected")
        if kind == "hang":
            time.sleep(3600)
        if kind == "crash":
            raise SystemExit("injected: the engine thread stops")
        output = output.clone()
        output[poisoned] = torch.nan
        return output

    return fault


def open_fake(
    model: Path, *, call_seconds: float = 0.0, fault: str | None = None
) -> DiffEditPipeline:
    """Open a pipeline with the tokenizer, sizes and schedule of a checkpoint, and fake networks.

    Args:
        model: checkpoint folder.
        call_seconds: duration of each network call.
        fault: one of `FAULTS`, or None.
    """
    from diffedit.conditioning.conditioner import Conditioner

    checkpoint = Checkpoint.open(model)
    poisoned_embedding = None
    if fault is not None:
        (ids,) = Conditioner(checkpoint).encode(POISON)
        text_encoder = FakeNetworks().find("text", (len(ids),))
        (poisoned_embedding,) = text_encoder({"input_ids": torch.tensor(ids)[None]})
    networks = FakeNetworks(
        factor=checkpoint.family.factor, fault=make_fault(fault, call_seconds, poisoned_embedding)
    )
    return DiffEditPipeline(checkpoint, networks)


def open_on_one_thread(model: Path, **options: Any) -> DiffEditPipeline:
    """`open_fake` for a process of its own.

    The fake calls stand for those of a GPU. In several threads of PyTorch they would take the
    processors of the server, and wait for each other whenever something else runs.
    """
    torch.set_num_threads(1)
    return open_fake(model, **options)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve until a signal arrives."""
    parser = argparse.ArgumentParser(prog="python -m demo.fake_server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", type=Path, default=Path("demo/model"), help="checkpoint folder")
    add("--call-ms", type=float, default=5.0, help="duration of each network call")
    add("--fault", choices=FAULTS, help='what fails if the prompt contains "poison"')
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add("--ray", metavar="REPLICAS", help="serve with Ray: a number of replicas, or MIN:MAX")
    args = parser.parse_args(arguments)
    settings = Settings(host=args.host, port=args.port)
    log_to_stderr(as_json=False)
    open_pipeline = partial(
        open_on_one_thread,
        args.model.absolute(),
        call_seconds=args.call_ms / 1000,
        fault=args.fault,
    )
    if args.ray:
        from diffedit.server import ray_app
        from diffedit.server.scaling import Scaling

        scaling = Scaling.parse(args.ray, cpus=0.5)
        return ray_app.run(ray_app.build(open_pipeline, "fake", settings, scaling), settings)
    return run(create_app(open_pipeline, "fake", settings), settings)


if __name__ == "__main__":
    sys.exit(main())
