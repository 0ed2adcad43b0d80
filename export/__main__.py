"""`python -m export`: the command line of the export; `diffedit-trt build` is the same.

Exit codes: 0 done, 2 a bad value, 3 the model, 4 the build or the target, 5 the disk, 130 Ctrl-C.
"""

from __future__ import annotations

import inspect
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer

from engine.errors import CheckpointError, DiffEditError, ResourceError
from engine.interrupts import forget_interrupt
from engine.manifest import Manifest
from engine.model_options import MODEL_ITSELF, ModelSource
from engine.netspec import DENOISER_BATCH_SIZES, Size, parse_size
from engine.option_groups import expand_groups, set_parameters
from export.checks import Verify
from export.events import Event

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

EPILOG = """
\b
Examples:
  python -m export --model ./sd15 --out ./engines
      ONNX files, and the engines this machine can build, at the model's native size in fp16.
  python -m export --model ./sd15 --out ./engines --size 512x768 --size 768x512
      Two more sizes in the same folder; existing files are kept.
  python -m export --model ./sd15 --out ./rtx --target tensorrt-rtx --compute-capability 8.9
      Engines for GeForce RTX 40 cards, built without a GPU.
  python -m export --model ./sd15 --out ./ghibli --lora style.safetensors:0.8
      Engines with a LoRA fused into the weights.

Running the same command again builds only what is missing. Exit codes: 0 done, 2 a bad value, 3 the
model, 4 the build, 5 the disk, 130 interrupted.
"""

MODEL_HELP = "Model: a folder in diffusers format, a single .safetensors file, or a hub id."
Model = Annotated[str, typer.Option("--model", help=MODEL_HELP)]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Out = Annotated[str, typer.Option("--out", help="Folder for the engines; created if necessary.")]
Height = Annotated[int | None, typer.Option(help="Picture height in pixels [native size].")]
Width = Annotated[int | None, typer.Option(help="Picture width in pixels [native size].")]
Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="HxW", help="Height x width; repeatable."),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        metavar="PRECISION[,PART=PRECISION]",
        help="fp16, bf16 or fp32; for single parts, for example "
        "fp16,text_encoder_3=fp32. Parts that overflow in fp16 are built in bf16; a network that "
        "is too imprecise uses fp32.",
    ),
]
Batches = Annotated[str, typer.Option(help="Batch profiles of the denoiser, such as 1,2,4.")]
TargetOption = Annotated[
    Literal["auto", "onnx", "tensorrt", "tensorrt-rtx"],
    typer.Option(help="What to build in addition to ONNX; auto: what this machine can."),
]
Capabilities = Annotated[
    list[str] | None,
    typer.Option(
        "--compute-capability",
        metavar="X.Y",
        help="Compute capability of a GPU for tensorrt-rtx, such as 8.9; repeatable.",
    ),
]
VerifyOption = Annotated[
    Verify,
    typer.Option(
        help="Profiles to compare with PyTorch; default: all on a GPU, the smallest on a CPU; "
        "none: only check that PyTorch's results are finite."
    ),
]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="The same as --verify none.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Build everything again, even if OUT has another model's engines."
    ),
]
IgnoreMemory = Annotated[
    bool,
    typer.Option(
        "--ignore-memory", help="Build even if a step is expected to need more memory than is free."
    ),
]
INTERRUPTED = "Interrupted; finished files are kept. Run the same command again to continue."
BATCHES = ",".join(map(str, DENOISER_BATCH_SIZES))


def export(
    model: Model,
    out: Out,
    height: Height = None,
    width: Width = None,
    size: Sizes = None,
    precision: PrecisionOption = "fp16",
    batches: Batches = BATCHES,
    target: TargetOption = "auto",
    compute_capability: Capabilities = None,
    source: ModelSource = MODEL_ITSELF,
    verify: VerifyOption = "default",
    no_verify: NoVerify = False,
    force: Force = False,
    ignore_memory: IgnoreMemory = False,
) -> None:
    """Compile a model for fast editing.

    Writes an ONNX file for each network and, if it can, a TensorRT engine with one static profile
    per batch size, compares them with PyTorch, and records everything in OUT/manifest.json.
    """
    options = {
        "sizes": lambda: _sizes(height, width, size or []),
        "precision": precision,
        "batches": lambda: _batches(batches),
        "target": target,
        "loras": lambda: source.loras,
        "compute_capabilities": tuple(compute_capability or ()),
        "additions": lambda: source.additions,
        "variant": source.variant,
        "revision": source.revision,
        "verify": lambda: _verify(verify, no_verify),
        "force": force,
        "ignore_memory": ignore_memory,
    }
    raise typer.Exit(run(model, out, options))


def build_command() -> Callable[..., None]:
    """The same command with the model as an argument instead of an option."""
    command = expand_groups(export)
    parameters = inspect.signature(command).parameters.values()
    set_parameters(
        command,
        [p.replace(annotation=ModelArgument) if p.name == "model" else p for p in parameters],
    )
    return command


app.command(epilog=EPILOG)(expand_groups(export))


class Interrupts:
    """A context manager that records Ctrl-C, because some libraries ignore it while they load."""

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *reason: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def before(self, show: Callable[[Event], None]) -> Callable[[Event], None]:
        """Wrap `show` to raise KeyboardInterrupt if a library ignored one since the last event."""

        def checked(event: Event) -> None:
            if self.came:
                raise KeyboardInterrupt
            show(event)

        return checked

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt


def run(model: str, out: str | Path, options: dict[str, Any]) -> int:
    """Build with a progress display; returns the exit code.

    Callables among the options are called first, so bad values are reported in one place.
    """
    from rich.console import Console

    from export.build import StorageError, build, out_folder
    from export.console import Display, table

    console, errors = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=110)

    def fail(code: int, text: object) -> int:
        forget_interrupt()
        errors.print(f"Error: {text}", highlight=False, markup=False, soft_wrap=True)
        return code

    display = Display(console)
    try:
        with Interrupts() as interrupts, display as show:
            values = {n: v() if callable(v) else v for n, v in options.items()}
            manifest = build(model, out_folder(out), **values, progress=interrupts.before(show))
    except KeyboardInterrupt:
        return fail(130, INTERRUPTED)
    except (DiffEditError, ValueError) as error:
        if interrupts.came:  # a library turned Ctrl-C into an error of its own
            return fail(130, INTERRUPTED)
        codes: list[tuple[type[Exception], int]]
        codes = [(CheckpointError, 3), (StorageError, 5), (ResourceError, 5), (ValueError, 2)]
        return fail(next((code for kind, code in codes if isinstance(error, kind)), 4), error)
    if not display.worked:
        console.print(f"Nothing to do: {out} is up to date.", highlight=False, soft_wrap=True)
    console.print(table(manifest))
    console.print(_next(model, Path(out), manifest), highlight=False, markup=False, soft_wrap=True)
    return 0


def _next(model: str, out: Path, manifest: Manifest) -> str:
    """The command to run next, here or on another machine."""
    ran = {c.backend for e in manifest.entries for c in e.checks if c.status == "passed"}
    engines = {entry.format for entry in manifest.entries} - {"onnx"}
    backend = "tensorrt" if ran & engines else "onnxruntime"
    command = f"Next: diffedit-trt edit PICTURE --prompt '...' --model {model} --engines {out}"
    there = (
        "\nThe engines did not run here: copy the folder to a machine with their GPU and use "
        "--backend tensorrt there."
    )
    bf16 = any(entry.spec.precision == "bf16" for entry in manifest.entries)
    auto = backend == "onnxruntime" and bf16  # which has no kernels for it on a CPU
    chosen = "" if auto else f" --backend {backend}"
    return command + chosen + (there if engines - ran else "")


def _sizes(height: int | None, width: int | None, texts: list[str]) -> list[Size]:
    sizes = [parse_size(text) for text in texts]
    given = height or width
    if given is not None:
        sizes.insert(0, (height or given, width or given))
    return sizes


def _verify(verify: Verify, no_verify: bool) -> Verify:
    if no_verify and verify == "all":
        raise ValueError("--verify all and --no-verify contradict each other; leave one out")
    return "none" if no_verify else verify


def _batches(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--batches is {text!r}, but must be numbers; pass for example 1,2,4"
        ) from None


if __name__ == "__main__":
    sys.exit(app())
