"""Checks of one model: its family, its memory use, and whether this machine has enough memory.

Only headers and configs are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffedit.doctor.check import Check
from diffedit.doctor.single_file import check_single_file
from engine.build_forecast import BuildForecast, forecast_build
from engine.checkpoint import Checkpoint
from engine.errors import DiffEditError
from engine.forecast import PROGRAM_BYTES, RunForecast, forecast_run, weights_of
from engine.hub import find_checkpoint
from engine.lora.file import Lora
from engine.memory import amount, available
from engine.models.distilling_lora import distilling_warning
from engine.netspec import Precision, format_size
from engine.precisions import build_precision
from engine.products import PRODUCTS

if TYPE_CHECKING:
    from engine.model_options import ModelSource

WAYS = "use another --dtype, --offload-text, a smaller --size, or a machine with more memory"


def check_model(model: str, source: ModelSource | None = None) -> list[Check]:
    """Check a checkpoint on this machine. A hub id is not downloaded, and a single file is not
    converted. Another VAE and embeddings are added to the cache, as an edit does."""
    path = Path(model).expanduser()
    if path.is_file():
        return [check_single_file(path), *_unchecked(source)]
    try:
        checkpoint = (
            source.open(model, local_files_only=True)
            if source
            else find_checkpoint(model, local_files_only=True)
        )
        checkpoint.check_files()
        found = [_family(checkpoint), *_parts(checkpoint), *_edits(checkpoint), *_build(checkpoint)]
        return [*found, *_loras(checkpoint, source.loras if source else ())]
    except (DiffEditError, ValueError) as error:
        return [Check("model", "problem", str(error), "pass a complete model folder or hub id")]


def _unchecked(source: ModelSource | None) -> list[Check]:
    """Report the options that are checked when the file is converted."""
    if source is None or not source.given:
        return []
    what = f"{', '.join(source.given)}: checked when the file is converted, at its first use"
    return [Check("additions", "ok", what)]


def _loras(checkpoint: Checkpoint, loras: Sequence[tuple[Path, float]]) -> list[Check]:
    """Whether each LoRA fits the model, by the headers of the files."""
    found = []
    for path, scale in loras:
        name = f"lora {path.name}"
        try:
            targets = Lora.open(path, scale).targets(checkpoint)
        except (DiffEditError, ValueError) as error:
            found.append(Check(name, "problem", str(error), "choose a LoRA for this model"))
            continue
        layers = ", ".join(f"{len(each)} of the {part}" for part, each in targets.items() if each)
        hint = distilling_warning([path], checkpoint.family) or ""
        found.append(Check(name, "ok", f"changes layers: {layers}. {hint}".strip(". ")))
    return found


def _family(checkpoint: Checkpoint) -> Check:
    family = checkpoint.family
    size = format_size((family.native_size,) * 2)
    return Check("model", "ok", f"{family.name}, native size {size}, {len(family.parts)} parts")


def _parts(checkpoint: Checkpoint) -> list[Check]:
    """The weights of each part in every precision."""
    found = []
    for part in checkpoint.family.parts:
        wide, half = (weights_of(checkpoint, part, p) for p in ("fp32", "bf16"))
        numbers = checkpoint.parameters(part.name) / 1e6
        what = f"{numbers:.1f} M parameters: {amount(wide.weights)} in fp32, "
        found.append(Check(part.name, "ok", f"{what}{amount(half.weights)} in bf16 and fp16"))
    return found


def _edits(checkpoint: Checkpoint) -> list[Check]:
    """The memory of edits in PyTorch on the device that it would use."""
    import torch

    from engine.backends.torch.weights import Weights, default_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = Weights(checkpoint, device, default_precision(device), {})
    precisions: dict[str, Precision] = {
        part.name: weights.precision_of(part.name) for part in checkpoint.family.parts
    }
    gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if gpu else available()
    size = (checkpoint.family.native_size,) * 2
    found = []
    for offload in (False, True):
        run = forecast_run(checkpoint, size, precisions, offload_text=offload)
        name = "edits, text offloaded" if offload else "edits"
        found.append(_run(name, run, weights.precision, free, 0 if gpu else PROGRAM_BYTES))
    return found


def _run(name: str, run: RunForecast, precision: Precision, free: int, program: int) -> Check:
    what = (
        f"{precision} at {format_size(run.size)}: weights {amount(run.weights)}, with calls of one "
        f"row {amount(run.needed + program)}, with the largest calls {amount(run.peak + program)}"
    )
    if not free:
        return Check(name, "ok", what)
    what = f"{what}; {amount(free)} are free"
    fits = run.needed + program <= free
    return Check(name, "ok" if fits else "problem", what, "" if fits else WAYS)


def _build(checkpoint: Checkpoint) -> list[Check]:
    """The memory of a build with its defaults at the native size, by its largest step."""
    size = (checkpoint.family.native_size,) * 2
    specs = [
        checkpoint.spec(
            network.name,
            size,
            precision=build_precision(checkpoint.family, network.part, "fp16"),
        )
        for network in checkpoint.family.networks
    ]
    compiles = any(PRODUCTS[kind].installed for kind in ("tensorrt", "tensorrt-rtx"))
    found = forecast_build(
        checkpoint, specs, verifies=PRODUCTS["onnx"].installed, compiles=compiles
    )
    return [_build_check(max(found, key=lambda one: one.peak))]


def _build_check(largest: BuildForecast) -> Check:
    free = available()
    has = f"; {amount(free)} are free" if free else ""
    what = f"{largest.label}: {largest}{has}"
    needed = max(largest.export, largest.compile)
    if not free or needed <= free:
        return Check("build", "ok", what)
    return Check("build", "missing", what, "build on a machine with more memory")
