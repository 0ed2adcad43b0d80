"""A server without a model, for trying out clients, loads and faults on any machine.

    python -m demo.fake_server --model demo/model [--call-ms 5] [--fault nan|oom|hang|crash]
    python -m demo.fake_server --ray 2          # two replicas behind Ray Serve

The networks are `engine.backends.fake`'s: each call takes `--call-ms`. A fault strikes edits whose
prompt holds the word "poison"; everybody else's have to go on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffedit.pipeline import DiffEditPipeline
from diffedit.server import Settings, create_app
from diffedit.server.run import log_to_stderr, run
from engine.backends.fake import FakeNetworks, Fault
from engine.checkpoint import Checkpoint

POISON = "poison"


def fault(kind: str | None, call_seconds: float, poisoned: Tensor | None) -> Fault:
    """What happens in a call: it takes its time, and rows under the poisoned text go wrong."""

    def strike(net: str, batch: Mapping[str, Tensor], output: Tensor) -> Tensor | None:
        if call_seconds:
            time.sleep(call_seconds)
        if net != "unet" or kind is None or poisoned is None:
            return None
        hit = (batch["embedding"] - poisoned).abs().amax((1, 2)) < 1e-6
        if not bool(hit.any()):
            return None
        if kind == "oom":
            raise torch.OutOfMemoryError("injected")
        if kind == "hang":
            time.sleep(3600)
        if kind == "crash":
            raise SystemExit("injected: the engine's thread ends")
        output = output.clone()
        output[hit] = torch.nan
        return output

    return strike


def open_fake(
    model: Path, *, call_seconds: float = 0.0, kind: str | None = None
) -> DiffEditPipeline:
    """A pipeline on a checkpoint's tokenizer, sizes and schedule, and on fake networks."""
    from diffedit.conditioning.tokenizer import Tokenizer

    checkpoint = Checkpoint.open(model)
    poisoned = None
    if kind is not None:
        ids = Tokenizer(checkpoint.folder / "tokenizer", checkpoint.family.tokens).encode(POISON)
        fake = FakeNetworks().find("text", (checkpoint.family.tokens,))
        poisoned = fake({"input_ids": torch.tensor(ids)[None]})[0]
    networks = FakeNetworks(
        factor=checkpoint.family.factor, fault=fault(kind, call_seconds, poisoned)
    )
    return DiffEditPipeline(checkpoint, networks)


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m demo.fake_server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", type=Path, default=Path("demo/model"))
    add("--call-ms", type=float, default=5.0, help="what every network call takes")
    add("--fault", choices=("nan", "oom", "hang", "crash"))
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add("--ray", metavar="REPLICAS", help="that many replicas behind Ray Serve, or least:most")
    args = parser.parse_args(arguments)
    settings = Settings(host=args.host, port=args.port)
    log_to_stderr(as_json=False)
    open_pipeline = partial(
        open_fake, args.model.absolute(), call_seconds=args.call_ms / 1000, kind=args.fault
    )
    if args.ray:
        from diffedit.server import ray_app
        from diffedit.server.scaling import Scaling

        scale = Scaling.parse(args.ray, cpus=0.5)
        return ray_app.run(ray_app.build(open_pipeline, "fake", settings, scale), settings)
    return run(create_app(open_pipeline, "fake", settings), settings)


if __name__ == "__main__":
    sys.exit(main())
