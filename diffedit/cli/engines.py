"""`engines list|explain`: what lies in an engine folder, and whether it can be used here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from diffedit.cli import options as o
from diffedit.cli.errors import say
from engine.errors import EngineMismatch
from engine.manifest import Entry, Manifest
from engine.netspec import format_size

app = typer.Typer(help="Look into a folder of compiled networks.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The folder that `build` wrote.")]


@app.command("list")
def list_(folder: Folder, as_json: o.Json = False) -> None:
    """List every compiled network: size, format, precision, profiles, and how it was checked."""
    manifest = Manifest.load(folder)
    if as_json:
        rows = [{**asdict(entry), "bytes": entry.bytes} for entry in manifest.entries]
        model = asdict(manifest.model) if manifest.model else None
        print(json.dumps({"model": model, "entries": rows}))  # noqa: T201
        return
    from rich.console import Console
    from rich.table import Table

    heads = ("network", "picture", "format", "precision", "profiles", "MB", "built with", "checked")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True)
    for entry in sorted(manifest.entries, key=lambda e: (e.format, e.spec.name, e.spec.kind[1])):
        spec = entry.spec
        profiles = ",".join(map(str, spec.batch_sizes))
        megabytes = f"{entry.bytes / 1e6:.1f}"
        made = _built_with(entry)
        picture = format_size(spec.size) if spec.size else "any"
        table.add_row(
            spec.name,
            picture,
            entry.format,
            spec.precision,
            profiles,
            megabytes,
            made,
            _checked(entry),
        )
    console = Console()
    if not console.is_terminal:  # a pipe has no width of its own
        console = Console(width=160)
    console.print(f"{folder}: {manifest.source}", markup=False)
    for lora in manifest.model.loras if manifest.model else ():
        console.print(f"with {lora.path} at {lora.scale:g}", markup=False)
    console.print(table)
    for entry in manifest.entries:
        for note in entry.notes:
            console.print(f"{entry.spec.name}: {note}", markup=False)


@app.command()
def explain(
    folder: Folder,
    model: o.Model = None,
    variant: o.Variant = None,
    device: o.Device = None,
    as_json: o.Json = False,
) -> None:
    """Say for each backend whether it can use these engines here, and if not, what to do.

    Reads every file once and compares it with its sha256; with --model (or DIFFEDIT_MODEL) also
    compares the model. Exits with 4 where no backend can use the folder.
    """
    manifest = Manifest.load(folder)
    damaged = [problem for entry in manifest.entries if (problem := _problem(entry, folder))]
    digests = _digests(model, variant)
    backends = {
        name: _opened(name, folder, digests, device) for name in ("onnxruntime", "tensorrt")
    }
    usable = [name for name, (ok, _) in backends.items() if ok and not damaged]
    if as_json:
        said = {name: {"usable": name in usable, "why": why} for name, (_, why) in backends.items()}
        line = {"files": damaged or "as built", "model_compared": digests is not None}
        print(json.dumps({**line, "backends": said}))  # noqa: T201
    else:
        files = sum(len(entry.files) for entry in manifest.entries)
        _print("files", damaged or [f"all {files} are as they were built"])
        compared = "the same as the engines were built from"
        built = f"built from {manifest.source}; give --model to compare"
        differs = any("differs from the model" in why for _, why in backends.values())
        if not differs:
            _print("model", [compared if digests is not None else built])
        for name, (_, why) in backends.items():
            _print(name, [("usable: " if name in usable else "not usable: ") + why])
        _print("torch", ["needs no engines; `--backend auto` falls back to it"])
    if not usable:
        say(f"{folder} cannot be used here; the lines above say what to do.")
        raise typer.Exit(4)


def _print(head: str, lines: list[str]) -> None:
    for line in lines:
        print(f"{head:<12} {line}")  # noqa: T201


def _digests(model: str | None, variant: str | None) -> dict[str, str] | None:
    if model is None:
        return None
    from engine.hub import find_checkpoint

    return find_checkpoint(model, variant=variant).digests()


def _opened(
    name: str, folder: Path, digests: Mapping[str, str] | None, device: str | None
) -> tuple[bool, str]:
    """Whether a backend opens the folder (it loads no network yet), and its own words."""
    from engine.backends.onnxruntime.networks import OnnxNetworks
    from engine.backends.tensorrt.networks import TensorRTNetworks

    kinds: dict[str, Any] = {"onnxruntime": OnnxNetworks, "tensorrt": TensorRTNetworks}
    try:
        networks = kinds[name].open(folder, digests=digests, device=device)
    except EngineMismatch as error:
        return False, str(error)
    sizes = ", ".join(f"{height}x{width}" for height, width in networks.sizes or ())
    described = f"{networks.describe()}, pictures of {sizes or 'no complete size'}"
    networks.close()
    return bool(sizes), described


def _problem(entry: Entry, folder: Path) -> str | None:
    try:
        entry.verified(folder)
    except EngineMismatch as error:
        return str(error)
    return None


def _built_with(entry: Entry) -> str:
    built = entry.built_with
    return " ".join(word for word in (built.product, built.version, built.gpu) if word)


def _checked(entry: Entry) -> str:
    """How the verification went, with the worst relative error. Profiles that could not run here
    are counted."""
    ran = [check for check in entry.checks if check.status != "not run"]
    left_out = len(entry.checks) - len(ran)
    if not ran:
        return "not run here"
    worst = max(check.relative or 0.0 for check in ran)
    wrong = next((check.status.upper() for check in ran if check.status != "passed"), "ok")
    return f"{wrong}, {worst:.1e}" + (f"; {left_out} not run" if left_out else "")
