"""One .onnx + NetSpec -> one engine with a static profile (min = opt = max) per batch size.

`tensorrt` and `tensorrt_rtx` share every line; what differs is asked of the objects (`hasattr`),
for version numbers cannot be compared across the two. A build runs in a process of its own
(`python -m export.to_tensorrt`, json in, json out): a crash or a lack of memory inside the
compiler stays there, its peak memory is exact, and the switch that makes Polygraphy choose a
product, which is read once at import, never reaches the caller.
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
from typing import Any, Literal

from engine.errors import BuildError
from engine.netspec import NetSpec
from export.resources import peak

Product = Literal["tensorrt", "tensorrt-rtx"]
MODULES: dict[Product, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
FLAGS = ("STRONGLY_TYPED", "NO_TF32", "REQUIRE_USER_ALLOCATION")
"""Precision stands in the ONNX graph, and fp32 there means fp32. The last one exists in RTX alone:
an engine that allocates nothing of its own at run time can be captured into a CUDA graph."""


@dataclass(frozen=True)
class EngineRequest:
    """What to compile.

    Attributes:
        onnx, engine: the file to read and the file to write.
        spec: names, shapes and batch sizes: one profile each.
        product: "tensorrt" or "tensorrt-rtx".
        compute_capabilities: for RTX, such as "8.9"; none means its portable default.
        timing_cache: a file that is read and written; never with RTX, where it does nothing but
            ask for a GPU.
    """

    onnx: Path
    engine: Path
    spec: NetSpec
    product: Product
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
    """What the compiler's process reported: its product's version, seconds, and peak memory."""

    version: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Prepared:
    """Everything the builder is given, before it builds. `parser` owns the weights: keep it."""

    builder: Any
    network: Any
    config: Any
    parser: Any
    profiles: tuple[Any, ...]


def profile_shapes(spec: NetSpec) -> tuple[dict[str, tuple[int, ...]], ...]:
    """The shapes of every input, one mapping per profile, in the order of `spec.batch_sizes`."""
    return tuple({t.name: (b, *t.shape) for t in spec.inputs} for b in spec.batch_sizes)


def capability_name(text: str) -> str:
    """SM89 for "8.9"; raises ValueError with a sentence."""
    major, dot, minor = text.partition(".")
    if not (dot and major.isdigit() and minor.isdigit()):
        raise ValueError(f"a compute capability is a number such as 8.9, not {text!r}")
    return f"SM{major}{minor}"


def compile_engine(request: EngineRequest) -> EngineResult:
    """Build in a child process.

    Raises:
        BuildError: with the compiler's own last words.
        OSError: the disk is full.
    """
    return EngineResult(**_ask(request.to_json(), f"the {request.spec.name} engine"))


def probe(product: Product, compute_capabilities: Sequence[str] = ()) -> str:
    """The version of a product whose builder really starts here and knows these capabilities;
    raises BuildError where one does not."""
    question = {"probe": product, "compute_capabilities": list(compute_capabilities)}
    return str(_ask(question, "a first configuration")["version"])


def _ask(question: dict[str, Any], what: str) -> dict[str, Any]:
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
        answer, words = child.communicate(json.dumps(question))
    finally:
        child.kill()
        child.wait()
    if child.returncode == 0:
        return dict(json.loads(answer))
    if child.returncode == errno.ENOSPC:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise BuildError(f"Building {what} failed: {_reason(child.returncode, words)}.")


def _reason(code: int, words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("[E]")] or lines
    last = errors[-1].removeprefix("[E]").strip().rstrip(".")[:300] if errors else "no message"
    if code == -9:
        return "its process was killed, most likely because memory ran out; use fewer --batches"
    return f"the compiler crashed (signal {-code}) after: {last}" if code < 0 else last


# Everything below runs in the child process.


def prepare(request: EngineRequest) -> Prepared:
    """Parse the ONNX file and configure the builder. Loads the product, so: in the child."""
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(request.product == "tensorrt-rtx"))
    trt = _load(request.product)
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

    owned = (prepared.builder, prepared.network, prepared.parser)
    plan = EngineBytesFromNetwork(owned, config=prepared.config)()
    request.engine.write_bytes(plan)
    if request.timing_cache:
        _write_timing_cache(prepared.config, request.timing_cache)
    version = str(_load(request.product).__version__)
    return EngineResult(version, time.perf_counter() - start, peak())


def _load(product: Product) -> Any:
    import importlib

    trt = importlib.import_module(MODULES[product])
    if not (hasattr(trt, "Builder") and hasattr(trt, "OnnxParser")):
        raise BuildError(f"the installed {MODULES[product]} has no builder")
    return trt


def _set_capabilities(trt: Any, config: Any, wanted: tuple[str, ...]) -> None:
    if not wanted:
        return
    if not hasattr(config, "set_compute_capability"):
        raise BuildError("only TensorRT for RTX builds for other GPUs' compute capabilities")
    known = [n for n in trt.ComputeCapability.__members__ if n.startswith("SM")]
    names = [capability_name(text) for text in wanted]
    unknown = [text for text, name in zip(wanted, names, strict=True) if name not in known]
    if unknown:
        offered = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in known)
        raise BuildError(f"compute capability {unknown[0]} is not one of its {offered}")
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _read_timing_cache(config: Any, path: Path) -> None:
    blob = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(blob), False):
        # It is another GPU's or version's.
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _write_timing_cache(config: Any, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    os.replace(temporary, path)


def _die_with_parent() -> None:
    """Linux: a builder whose parent was killed must not go on writing for minutes."""
    import ctypes
    import signal

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> int:
    """The child: one question on stdin, one answer on stdout; chatter goes to stderr."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    question = json.load(sys.stdin)
    try:
        if "probe" in question:
            trt = _load(question["probe"])
            config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
            _set_capabilities(trt, config, tuple(question["compute_capabilities"]))
            answer: dict[str, Any] = {"version": str(trt.__version__)}
        else:
            answer = asdict(build_here(EngineRequest.from_json(question)))
    except BaseException as error:
        kind = "" if isinstance(error, BuildError) else f"{type(error).__name__}: "
        sys.stderr.write(f"[E] {kind}{error}\n")
        return errno.ENOSPC if getattr(error, "errno", 0) == errno.ENOSPC else 1
    answers.write(json.dumps(answer))
    answers.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
