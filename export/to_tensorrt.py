"""Compile an ONNX file to a TensorRT engine with a static profile per batch size.

`tensorrt` and `tensorrt_rtx` share this code; their features are detected with `hasattr`, because
their version numbers cannot be compared. Each build runs in a child process
(`python -m export.to_tensorrt`, JSON in, JSON out): a crash or lack of memory in the compiler does
not affect the caller, and its peak memory is exact. Polygraphy chooses the product by an
environment variable that it reads at import, so it must also be set in a new process.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import BuildError
from engine.netspec import NetSpec
from engine.products import (
    PRODUCTS,
    TensorRTFormat,
    format_compute_capability,
    parse_compute_capability,
    sm_name,
)
from export.resources import peak

FLAGS = ("STRONGLY_TYPED", "NO_TF32", "REQUIRE_USER_ALLOCATION")
"""Builder settings. The ONNX graph has the precision, so TF32 is off. The last flag exists in RTX
only: an engine that allocates no memory at run time can be captured in a CUDA graph."""


@dataclass(frozen=True)
class EngineRequest:
    """The input of one build.

    Attributes:
        onnx, engine: the file to read and the file to write.
        spec: names, shapes and batch sizes; each batch size becomes a profile.
        product: "tensorrt" or "tensorrt-rtx".
        compute_capabilities: for RTX, such as "8.9"; empty is its portable default.
        timing_cache: a file to read and update. None for RTX, which does not use one and would
            require a GPU.
    """

    onnx: Path
    engine: Path
    spec: NetSpec
    product: TensorRTFormat
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None

    def to_json(self) -> dict[str, Any]:
        paths = {"onnx": str(self.onnx), "engine": str(self.engine)}
        cache = str(self.timing_cache) if self.timing_cache else None
        return asdict(self) | paths | {"timing_cache": cache}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EngineRequest:
        cache = data["timing_cache"]
        return cls(
            Path(data["onnx"]),
            Path(data["engine"]),
            NetSpec.from_json(data["spec"]),
            data["product"],
            tuple(data["compute_capabilities"]),
            Path(cache) if cache else None,
        )


@dataclass(frozen=True)
class EngineResult:
    """The result of a build: the product's version, seconds, and peak memory in bytes."""

    version: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Prepared:
    """The builder's inputs. `parser` owns the weights and must live as long as `network`."""

    builder: Any
    network: Any
    config: Any
    parser: Any
    profiles: tuple[Any, ...]


def profile_shapes(spec: NetSpec) -> tuple[dict[str, tuple[int, ...]], ...]:
    """Return input name -> shape for each profile, in the order of `spec.batch_sizes`."""
    return tuple({t.name: (b, *t.shape) for t in spec.inputs} for b in spec.batch_sizes)


def compile_engine(request: EngineRequest) -> EngineResult:
    """Build in a child process.

    Raises:
        BuildError: with the compiler's last error.
        OSError: the disk is full.
    """
    return EngineResult(**_run_child(request.to_json(), f"the {request.spec.name} engine"))


def probe(product: TensorRTFormat, compute_capabilities: Sequence[str] = ()) -> str:
    """Start a product's builder and return its version.

    Raises BuildError if it does not start here or does not support a compute capability.
    """
    request = {"probe": product, "compute_capabilities": list(compute_capabilities)}
    return str(_run_child(request, "a first configuration")["version"])


def _run_child(request: dict[str, Any], what: str) -> dict[str, Any]:
    """Send a request to a child process and return its response; `what` is for error messages."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.Popen(
        [sys.executable, "-m", "export.to_tensorrt"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        response, errors = child.communicate(json.dumps(request))
    finally:
        child.kill()
        child.wait()
    if child.returncode == 0:
        return dict(json.loads(response))
    if child.returncode == errno.ENOSPC:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise BuildError(f"Building {what} failed: {_reason(child.returncode, errors)}.")


def _reason(code: int, stderr: str) -> str:
    """Return the cause of a failed build from the child's exit status and its output."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("[E]")] or lines
    last = errors[-1].removeprefix("[E]").strip().rstrip(".")[:300] if errors else "no message"
    if code == -9:
        return "its process was killed, most likely because memory ran out; use fewer --batches"
    return f"the compiler crashed (signal {-code}) after: {last}" if code < 0 else last


# The code below runs in the child process.


def prepare(request: EngineRequest) -> Prepared:
    """Parse the ONNX file and configure the builder. Imports the product: call it in the child."""
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(request.product == "tensorrt-rtx"))
    trt = _import_product(request.product)
    from polygraphy.backend.trt import NetworkFromOnnxPath, Profile
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.ERROR
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    builder, network, parser = NetworkFromOnnxPath(
        str(request.onnx), strongly_typed=typed or None
    )()
    config = builder.create_builder_config()
    profiles = []
    for shapes in profile_shapes(request.spec):
        profile = Profile()
        for name, shape in shapes.items():
            profile.add(name, min=shape, opt=shape, max=shape)
        profiles.append(profile.fill_defaults(network).to_trt(builder, network))
        config.add_optimization_profile(profiles[-1])
    config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    _set_capabilities(trt, config, request.compute_capabilities)
    if request.timing_cache:
        _read_timing_cache(config, request.timing_cache)
    return Prepared(builder, network, config, parser, tuple(profiles))


def build_here(request: EngineRequest) -> EngineResult:
    """Build in this process and write the engine."""
    start = time.perf_counter()
    prepared = prepare(request)
    from polygraphy.backend.trt import EngineBytesFromNetwork

    network = (prepared.builder, prepared.network, prepared.parser)
    plan = EngineBytesFromNetwork(network, config=prepared.config)()
    request.engine.write_bytes(plan)
    if request.timing_cache:
        _write_timing_cache(prepared.config, request.timing_cache)
    version = str(_import_product(request.product).__version__)
    return EngineResult(version, time.perf_counter() - start, peak())


def _import_product(product: TensorRTFormat) -> Any:
    import importlib

    module = PRODUCTS[product].module
    trt = importlib.import_module(module)
    if not (hasattr(trt, "Builder") and hasattr(trt, "OnnxParser")):
        raise BuildError(f"the installed {module} has no builder")
    return trt


def _set_capabilities(trt: Any, config: Any, texts: tuple[str, ...]) -> None:
    """Build for these compute capabilities instead of the product's default."""
    if not texts:
        return
    if not hasattr(config, "set_compute_capability"):
        raise BuildError("only TensorRT for RTX builds for other GPUs' compute capabilities")
    supported = [
        parse_compute_capability(name)
        for name in trt.ComputeCapability.__members__
        if name.startswith("SM")
    ]
    capabilities = [parse_compute_capability(text) for text in texts]
    for capability in capabilities:
        if capability not in supported:
            names = ", ".join(map(format_compute_capability, supported))
            unsupported = format_compute_capability(capability)
            raise BuildError(f"compute capability {unsupported} is not one of its {names}")
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        member = getattr(trt.ComputeCapability, sm_name(capability))
        config.set_compute_capability(member, index)


def _read_timing_cache(config: Any, path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(content), False):
        # The file is of another GPU or version.
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _write_timing_cache(config: Any, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    os.replace(temporary, path)


def _die_with_parent() -> None:
    """On Linux, end this process when its parent ends; a build could continue for minutes."""
    import ctypes
    import signal

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> int:
    """Run the child: read one request from stdin and write one response to stdout.

    All other output of the compiler goes to stderr.
    """
    _die_with_parent()
    responses = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        if "probe" in request:
            response = _probe_here(request["probe"], tuple(request["compute_capabilities"]))
        else:
            response = asdict(build_here(EngineRequest.from_json(request)))
    except BaseException as error:
        prefix = "" if isinstance(error, BuildError) else f"{type(error).__name__}: "
        sys.stderr.write(f"[E] {prefix}{error}\n")
        return errno.ENOSPC if getattr(error, "errno", 0) == errno.ENOSPC else 1
    responses.write(json.dumps(response))
    responses.close()
    return 0


def _probe_here(product: TensorRTFormat, compute_capabilities: tuple[str, ...]) -> dict[str, Any]:
    trt = _import_product(product)
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    _set_capabilities(trt, config, compute_capabilities)
    return {"version": str(trt.__version__)}


if __name__ == "__main__":
    sys.exit(main())
