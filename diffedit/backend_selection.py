"""Open the requested backend, or with "auto" the fastest one that this machine can use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from diffedit.auto_backend import AutoPlan, check_loras, plan_auto, same_loras
from diffedit.checks import InvalidRequest
from diffedit.dtypes import DTypes, split
from diffedit.notices import Notice
from engine.backends import Networks
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.lora.effect import warn_without_effect
from engine.lora.file import Lora
from engine.manifest import Manifest
from engine.precisions import denoiser_precision

T = TypeVar("T")
TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class Choice:
    """Why a backend was opened.

    Attributes:
        reason: one clause.
        warning: a sentence for the user if the engine folder or an option is not used, or None.
    """

    reason: str
    warning: Notice | None = None


def open_backend(
    checkpoint: Checkpoint,
    ready: Callable[[Networks, Choice], T],
    *,
    backend: str = "auto",
    engines: Path | None = None,
    device: str | None = None,
    dtype: DTypes | None = None,
    offload_text: bool = False,
    ignore_memory: bool = False,
    compile: bool = False,
    pin_batch_size: int | None = None,
    allow_tf32: bool = False,
    lora: Sequence[tuple[Path, float]] = (),
) -> T:
    """Open a backend and return `ready(networks, choice)`.

    `ready` gets the networks and the reason for the choice. If it raises EngineMismatch because the
    engines do not run here, "auto" tries the next backend of its plan.

    PyTorch applies `lora` to the weights; engines must have been built with the same LoRAs.
    `diffedit.arguments` has checked the arguments.

    Raises:
        EngineMismatch: the engines do not fit, or "auto" could only replace them by other weights.
        InvalidRequest: `compile` is used with a backend that has engines.
    """
    loras = [Lora.open(path, scale) for path, scale in lora]
    warn_without_effect(loras, checkpoint)  # and check them, before the weights are loaded
    if compile and backend in TITLES:
        raise InvalidRequest(
            f"compile is for the torch backend, but backend is {backend}, whose networks are "
            "compiled already; leave compile out.",
            field="compile",
        )
    opened = partial(
        _open,
        checkpoint,
        loras=loras,
        device=device,
        dtype=dtype,
        offload_text=offload_text,
        ignore_memory=ignore_memory,
        compile=compile,
        pin_batch_size=pin_batch_size,
        allow_tf32=allow_tf32,
    )
    if backend != "auto":
        warning = _dropped(engines, loras) if backend == "torch" and engines else None
        return ready(opened(backend, engines), Choice("requested", warning))
    if engines is None:
        return ready(opened("torch", None), Choice("no engines folder was given"))
    plan = plan_auto(engines, device, checkpoint.digests(), loras)
    return _first_that_opens(plan, engines, opened, ready, compiling=compile)


def _first_that_opens(
    plan: AutoPlan,
    engines: Path,
    opened: Callable[[str, Path | None], Networks],
    ready: Callable[[Networks, Choice], T],
    *,
    compiling: bool,
) -> T:
    """Try the backends of a plan. Raises EngineMismatch if no backend runs the engines' weights."""
    failures: list[str] = []
    for name, reason in plan.tries:
        try:
            if name == "torch":
                reason = "; ".join([*failures, reason])
                sentence = f"The engines in {engines} are not used: {reason}."
                warning = Notice("engines_unused", sentence)
                return ready(opened("torch", None), Choice(reason, warning))
            sentence = f"compile has no effect, because {TITLES[name]} runs the edits."
            unused = Notice("compile_unused", sentence) if compiling else None
            return ready(opened(name, engines), Choice(reason, unused))
        except EngineMismatch as error:
            if name == "torch":
                raise
            failures.append(f"{TITLES[name]} cannot use them ({error})")
    raise EngineMismatch(" ".join([plan.refusal, *(f"{failure}." for failure in failures)]))


def _open(
    checkpoint: Checkpoint,
    name: str,
    engines: Path | None,
    *,
    device: str | None,
    dtype: DTypes | None,
    offload_text: bool,
    ignore_memory: bool,
    compile: bool,
    pin_batch_size: int | None,
    allow_tf32: bool,
    loras: Sequence[Lora],
) -> Networks:
    """Open one backend by its name."""
    main, own = split(dtype)
    if name == "torch":
        from engine.backends.torch.networks import TorchNetworks

        return TorchNetworks.open(
            checkpoint,
            device=device,
            dtype=main,
            own_dtypes=own,
            offload_text=offload_text,
            ignore_memory=ignore_memory,
            compile=compile,
            pin_batch_size=pin_batch_size,
            allow_tf32=allow_tf32,
            loras=loras,
        )
    if own or offload_text:
        option = "A dtype for a single part" if own else "offload_text"
        raise EngineMismatch(
            f"{option} is for the torch backend, not for {TITLES[name]}, whose engines are loaded "
            "as they were built; leave it out, or use the torch backend."
        )
    if engines is not None and loras:
        check_loras(engines, Manifest.load(engines), loras)
    networks = _open_compiled(
        checkpoint, name, engines, device, pin_batch_size, allow_tf32=allow_tf32
    )
    built = networks.details().precision
    if main is not None and built.split()[0] not in (main, denoiser_precision(checkpoint, main)):
        networks.close()
        raise EngineMismatch(
            f"The engines in {engines} are {built}, but dtype is {main}; leave it out, or build "
            f"engines of that precision with: diffedit-trt build {checkpoint.source} "
            f"--out NEW_FOLDER --precision {main}"
        )
    return networks


def _open_compiled(
    checkpoint: Checkpoint,
    name: str,
    engines: Path | None,
    device: str | None,
    pin_batch_size: int | None,
    *,
    allow_tf32: bool,
) -> Networks:
    """Open ONNX Runtime or TensorRT on an engine folder."""
    if engines is None:
        raise EngineMismatch(
            f"The {name} backend needs an engine folder, and none was given; build one with: "
            f"diffedit-trt build {checkpoint.source} --out engines"
        )
    digests = checkpoint.digests()
    if name == "onnxruntime":
        from engine.backends.onnxruntime.networks import OnnxNetworks

        return OnnxNetworks.open(
            engines,
            digests=digests,
            device=device,
            pin_batch_size=pin_batch_size,
            allow_tf32=allow_tf32,
        )
    from engine.backends.tensorrt.networks import TensorRTNetworks

    return TensorRTNetworks.open(
        engines, digests=digests, device=device, pin_batch_size=pin_batch_size
    )


def _dropped(engines: Path, loras: Sequence[Lora]) -> Notice | None:
    """The warning for an engine folder that is passed together with the torch backend."""
    try:
        manifest = Manifest.load(engines)
    except EngineMismatch:
        return None
    fused = "" if loras and same_loras(manifest, loras) else manifest.fused
    if not fused:
        return None
    unused = f"The engines in {engines} are not used, because backend is torch: "
    return Notice("engines_unused", f"{unused}this edits without {fused}.")
