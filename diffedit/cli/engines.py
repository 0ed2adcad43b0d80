"""`engines list` and `engines explain`: what an engine folder contains, and where it can run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffedit.cli import examples, options
from diffedit.cli.command import add_command
from diffedit.cli.errors import UsageError, say
from diffedit.cli.model_options import MODEL, Device
from diffedit.cli.output_options import Json
from diffedit.cli.tables import print_table
from engine.errors import EngineMismatch
from engine.manifest import Entry, Manifest
from engine.model_options import MODEL_ITSELF, ModelSource
from engine.netspec import format_size
from engine.verification import unverified, verdict

if TYPE_CHECKING:
    from engine.lora.file import Lora

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that `build` wrote.")]
ComparedModel = Annotated[
    str | None,
    options.option(
        MODEL,
        "Also check that the engines were built from this model: a folder, a single file or a Hub "
        "id, with the options below.",
        "--model",
        envvar="DIFFEDIT_MODEL",
    ),
]
COLUMNS = ("network", "picture", "format", "precision", "profiles", "MB", "built with", "verified")


def list_engines(folder: Folder, as_json: Json = False) -> None:
    """List the compiled networks in a folder, with their sizes, precisions and verification."""
    manifest = Manifest.load(folder)
    if as_json:
        rows = [{**asdict(entry), "bytes": entry.bytes} for entry in manifest.entries]
        model = asdict(manifest.model) if manifest.model else None
        print(json.dumps({"model": model, "entries": rows}))  # noqa: T201
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    for entry in sorted(manifest.entries, key=lambda e: (e.format, e.spec.name, e.spec.kind[1])):
        table.add_row(*_cells(entry))
    title = f"{folder}: {manifest.source}"
    fused = manifest.model.loras if manifest.model else ()
    loras = [f"with {lora.path} at {lora.scale:g}" for lora in fused]
    notes = [f"{entry.spec.name}: {note}" for entry in manifest.entries for note in entry.notes]
    print_table(table, before=[title, *loras], after=[*notes, *_unverified(manifest)])


def explain(
    folder: Folder,
    model: ComparedModel = None,
    source: ModelSource = MODEL_ITSELF,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Explain which backends can use the engines in a folder on this machine, and why.

    Every file is read once and compared with its sha256. With --model, the engines are also
    compared with that model, its LoRAs and other additions. The exit code is 4 if no backend can
    use the folder.
    """
    if model is None and source.given:
        raise UsageError(f"{source.given[0]} belongs to a model, but none is given; add --model.")
    manifest = Manifest.load(folder)
    damage = [message for entry in manifest.entries if (message := _damage(entry, folder))]
    digests, loras = _compared(model, source)
    other = _other_loras(folder, manifest, loras)
    backends = {
        name: (False, other) if other else _try_open(name, folder, digests, device)
        for name in _backend_classes()
    }
    usable = [name for name, (opened, _) in backends.items() if opened and not damage]
    auto, auto_why = _auto(folder, device, digests, loras, usable)
    if as_json:
        reasons = {
            name: {"usable": name in usable, "why": why} for name, (_, why) in backends.items()
        }
        line: dict[str, Any] = {"files": damage or "as built"}
        line["model_compared"] = digests is not None
        verified = {entry.files[0].name: verdict(entry) for entry in manifest.entries}
        line |= {"verified": verified, "auto": {"backend": auto, "why": auto_why}}
        print(json.dumps({**line, "backends": reasons}))  # noqa: T201
    else:
        file_count = sum(len(entry.files) for entry in manifest.entries)
        _print("files", *(damage or [f"all {file_count} are as they were built"]))
        _print("verified", *(f"{e.files[0].name}: {verdict(e)}" for e in manifest.entries))
        if not any("differs from the model" in why for _, why in backends.values()):
            built_from = f"built from {manifest.source}; pass --model to compare"
            same = "the same as the engines were built from"
            _print("model", built_from if digests is None else same)
        if fused := manifest.fused:
            does = "applies it, too" if loras and not other else "does not apply it"
            _print("fused", f"{fused}; the torch backend {does}")
        for name, (_, why) in backends.items():
            _print(name, f"{'usable' if name in usable else 'not usable'}: {why}")
        _print("torch", "needs no engines; `--backend torch` runs the model's own weights")
        _print("auto", f"uses {auto}: {auto_why}" if auto else f"refuses: {auto_why}")
    if not usable:
        say(f"{folder} cannot be used on this machine; see the reasons above.")
        raise typer.Exit(4)


app = typer.Typer(
    help="Inspect a folder of compiled networks.",
    epilog="`diffedit-trt engines COMMAND --help` shows examples.",
    no_args_is_help=True,
)
add_command(app, list_engines, name="list", examples=examples.ENGINES_LIST)
add_command(app, explain, examples=examples.ENGINES_EXPLAIN)


def _auto(
    folder: Path,
    device: str | None,
    digests: Mapping[str, str] | None,
    loras: Sequence[Lora],
    usable: list[str],
) -> tuple[str | None, str]:
    """Return what `--backend auto` uses and why; None and the reason if it refuses."""
    from diffedit.auto_backend import plan_auto

    try:
        plan = plan_auto(folder, device, digests, loras)
    except EngineMismatch as error:
        return None, str(error)
    for name, why in plan.tries:
        if name in (*usable, "torch"):
            return name, why
    return None, plan.refusal


def _print(label: str, *lines: str) -> None:
    for line in lines:
        print(f"{label:<12} {line}")  # noqa: T201


def _compared(
    model: str | None, source: ModelSource
) -> tuple[dict[str, str] | None, tuple[Lora, ...]]:
    """Return the digest of each part of the model, or None without a model, and its LoRAs."""
    if model is None:
        return None, ()
    from engine.lora.file import Lora

    try:
        loras = tuple(Lora.open(path, scale) for path, scale in source.loras)
        return source.open(model).digests(), loras
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def _other_loras(folder: Path, manifest: Manifest, loras: Sequence[Lora]) -> str:
    """Return why engines cannot be used together with these LoRAs, or ""."""
    if not loras:
        return ""
    from diffedit.auto_backend import check_loras

    try:
        check_loras(folder, manifest, loras)
    except EngineMismatch as error:
        return str(error)
    return ""


def _backend_classes() -> dict[str, Any]:
    from engine.backends.onnxruntime.networks import OnnxNetworks
    from engine.backends.tensorrt.networks import TensorRTNetworks

    return {"onnxruntime": OnnxNetworks, "tensorrt": TensorRTNetworks}


def _try_open(
    name: str, folder: Path, digests: Mapping[str, str] | None, device: str | None
) -> tuple[bool, str]:
    """Return whether a backend can open the folder, and its description or error message.

    Opening a folder does not load a network.
    """
    try:
        networks = _backend_classes()[name].open(folder, digests=digests, device=device)
    except EngineMismatch as error:
        return False, str(error)
    sizes = ", ".join(f"{height}x{width}" for height, width in networks.sizes or ())
    description = f"{networks.describe()}, pictures of {sizes or 'no complete size'}"
    networks.close()
    return bool(sizes), description


def _damage(entry: Entry, folder: Path) -> str | None:
    """Return what is wrong with the files of an entry, or None."""
    try:
        entry.verified(folder)
    except EngineMismatch as error:
        return str(error)
    return None


def _cells(entry: Entry) -> list[str]:
    """Return one row of the table, in the order of COLUMNS."""
    spec = entry.spec
    return [
        spec.name,
        format_size(spec.size) if spec.size else "any",
        entry.format,
        spec.precision,
        ",".join(map(str, spec.batch_sizes)),
        f"{entry.bytes / 1e6:.1f}",
        _builder(entry),
        verdict(entry),
    ]


def _builder(entry: Entry) -> str:
    """Return the product, its version and the GPU that built an entry."""
    built = entry.built_with
    return " ".join(word for word in (built.product, built.version, built.gpu) if word)


def _unverified(manifest: Manifest) -> list[str]:
    """Why profiles were not verified: a line for each reason, with the files."""
    files: dict[str, list[str]] = {}
    for entry in manifest.entries:
        for sentence in unverified(entry):
            files.setdefault(sentence, []).append(entry.files[0].name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in files.items()]
