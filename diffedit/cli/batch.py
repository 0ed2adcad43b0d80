"""`batch`: many edits from a file of json lines, sharing network calls, resumable."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffedit.cli import options as o
from diffedit.cli import output
from diffedit.cli.errors import UsageError, as_dict, code_of, say
from diffedit.cli.options import ModelOptions
from diffedit.cli.progress import Progress
from diffedit.cli.runner import record_of, summary
from diffedit.cli.session import pipeline, read_mask, read_picture
from diffedit.request import EditRequest, parameters
from diffedit.result import EditResult
from engine.errors import DiffEditError

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffedit.pipeline import DiffEditPipeline

Edits = Annotated[str, typer.Argument(help="A file with one json object a line, or -.")]
InFlight = Annotated[
    int, typer.Option("--in-flight", min=1, max=256, help="Edits under way at once.")
]


@dataclass(frozen=True)
class Line:
    """One line of the file, read but not yet checked.

    Attributes:
        number: from 1.
        fields: the json object; None where the line is none.
        folder: what relative paths start from.
    """

    number: int
    fields: dict[str, Any] | None
    folder: Path

    def path(self, name: str) -> Path | None:
        """The file that a field names."""
        value = (self.fields or {}).get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise UsageError(f"{name} must be a path, not {value!r}; mend line {self.number}.")
        return self.folder / value


@dataclass(frozen=True, eq=False)
class Item:
    """A line that is ready to be edited."""

    line: Line
    out: Path
    photo: Image
    request: EditRequest


def batch(
    edits: Edits,
    in_flight: InFlight = 8,
    model: o.Model = None,
    variant: o.Variant = None,
    revision: o.Revision = None,
    engines: o.Engines = None,
    backend: o.Backend = "auto",
    dtype: o.DType = None,
    device: o.Device = None,
    size: o.NetSize = None,
    compile: o.Compile = False,
    pin_batch_size: o.Pin = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
) -> None:
    """Run many edits that share network calls; prints one line of json for each.

    A line: {"image": "in.jpg", "out": "out.png", "prompt": "..."} and any other parameter of
    `edit` by its name in the Python API ("source_prompt", "mask_image", "seed", ...). Paths start
    from the file's folder. A line whose output is there already, made from the same input with the
    same parameters, is skipped: run again to go on after an interruption. Lines fail alone; the
    exit code is the first failure's.
    """
    options = ModelOptions.of(locals())
    lines = read_lines(edits)
    failures: list[int] = []
    with Progress(quiet=quiet) as progress, pipeline(options, progress, quiet=quiet) as pipe:
        answers = run(pipe, lines, options, in_flight=in_flight, force=force)
        for finished, answer in enumerate(answers, 1):
            progress.rows(f"{finished} of {len(lines)} edits", finished, len(lines))
            if answer["status"] == "failed":
                failures.append(answer["error"]["exit_code"])
            print(json.dumps(answer), flush=True)  # noqa: T201
    if not quiet:
        say(f"{len(lines) - len(failures)} of {len(lines)} edits are there, {len(failures)} failed")
    if failures:
        raise typer.Exit(failures[0])


def read_lines(name: str) -> list[Line]:
    """Every line that is not blank. Raises UsageError where the file cannot be read or is empty."""
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"{name} cannot be read ({why}); name a file of json lines.") from None
    folder = Path() if name == "-" else Path(name).parent
    lines = []
    # Not splitlines(): json may hold U+2028 and others of its separators inside a text.
    for number, row in enumerate(text.split("\n"), 1):
        if row.strip():
            try:
                fields = json.loads(row)
            except ValueError:
                fields = None
            lines.append(Line(number, fields if isinstance(fields, dict) else None, folder))
    if not lines:
        raise UsageError(f"{name} holds no edits; write one json object a line.")
    return lines


def run(
    pipe: DiffEditPipeline,
    lines: list[Line],
    options: ModelOptions,
    *,
    in_flight: int,
    force: bool,
) -> Iterator[dict[str, Any]]:
    """One answer for each line, as it is known; edits under way share calls."""
    waiting: deque[Item] = deque()
    answered: deque[dict[str, Any]] = deque()
    taken: dict[Path, int] = {}

    def requests() -> Iterator[EditRequest]:
        for line in lines:
            try:
                item = prepare(line, taken)
                if not force and already_there(item):
                    answered.append(_answer(line, "skipped", out=str(item.out)))
                    continue
            except (DiffEditError, OSError) as error:
                answered.append(_answer(line, "failed", error=as_dict(error)))
                continue
            waiting.append(item)
            yield item.request

    results: Iterator[Any] = pipe.edit_many(requests(), in_flight=in_flight, return_errors=True)
    for result in results:
        yield from _drained(answered)
        yield finish(waiting.popleft(), result, pipe, options, force=force)
    yield from _drained(answered)


def prepare(line: Line, taken: dict[Path, int]) -> Item:
    """Read and check one line. `taken` remembers which line writes which file.

    Raises UsageError or InvalidRequest with one sentence.
    """
    if line.fields is None:
        raise UsageError(f"Line {line.number} is no json object; write {{...}} on one line.")
    out, image, mask = line.path("out"), line.path("image"), line.path("mask_image")
    if out is None or image is None:
        missing = "image" if image is None else "out"
        raise UsageError(f"Line {line.number} has no {missing}; name a file there.")
    output.check_format(out)
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out} is no PNG, and only PNG keeps what resuming needs; take .png.")
    first = taken.setdefault(out.resolve(), line.number)
    if first != line.number:
        raise UsageError(f"{out} is the output of line {first} too; give each its own.")
    wanted = {k: v for k, v in line.fields.items() if k not in ("image", "out", "mask_image")}
    request = EditRequest.from_parameters(b"", wanted)
    photo = read_picture(str(image))
    if mask is not None:
        request = replace(request, mask_image=read_mask(str(mask), photo))
    return Item(line, out, photo, replace(request, image=photo))


def already_there(item: Item) -> bool:
    """Whether the output exists as this very edit's; UsageError where it is another file."""
    if not item.out.exists():
        return False
    mask: Any = item.request.mask_image
    wanted = {
        "parameters": parameters(item.request),
        "input": output.digest(item.photo),
        "mask": output.packed(mask) if mask is not None else None,
    }
    try:
        record = output.read_record(item.out)
    except UsageError:
        record = {}
    if {name: record.get(name) for name in wanted} == wanted:
        return True
    raise UsageError(
        f"{item.out} exists and is not this edit's; add --force to overwrite it, or name another."
    )


def finish(
    item: Item,
    result: EditResult | Exception,
    pipe: DiffEditPipeline,
    options: ModelOptions,
    *,
    force: bool,
) -> dict[str, Any]:
    """Write one result; what was not foreseen is raised."""
    try:
        if isinstance(result, Exception):
            raise result
        record = record_of(item.request, item.photo, result, pipe, options)
        with output.Outputs(force=force) as files:
            files.reserve(item.out)
            files.write(item.out, output.encode(result.image, item.out, record))
            files.commit()
    except Exception as error:
        if code_of(error) == 1:
            raise
        return _answer(item.line, "failed", error=as_dict(error))
    return _answer(item.line, "done", out=str(item.out), **summary(result, record))


def _answer(line: Line, status: str, **more: Any) -> dict[str, Any]:
    return {"line": line.number, "status": status, **more}


def _drained(answers: deque[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while answers:
        yield answers.popleft()
