"""`batch`: run many edits from a file of JSON lines. They share network calls."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffedit.cli import options
from diffedit.cli.errors import UsageError, error_fields, exit_code_of, say
from diffedit.cli.inputs import STDIN, read_mask, read_photo
from diffedit.cli.open_pipeline import open_pipeline
from diffedit.cli.options import ModelOptions
from diffedit.cli.output_files import OutputFiles, check_extension, encode
from diffedit.cli.progress import Progress
from diffedit.cli.run_edit import record_of, summary
from diffedit.imaging.metadata import pack_mask, pixel_digest, read_record
from diffedit.request import EditRequest, InvalidRequest, parameters
from diffedit.result import EditResult
from engine.errors import DiffEditError

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffedit.pipeline import DiffEditPipeline

EditsFile = Annotated[
    str, typer.Argument(help="File with one JSON object per line; - reads standard input.")
]
InFlight = Annotated[
    int,
    options.option(
        options.EDIT, "Number of edits that run at the same time.", "--in-flight", min=1, max=256
    ),
]


@dataclass(frozen=True)
class Line:
    """One line of the file, parsed but not yet checked.

    Attributes:
        number: line number, from 1.
        fields: the JSON object; None if the line is not one.
        folder: folder that relative paths start from.
    """

    number: int
    fields: dict[str, Any] | None
    folder: Path

    def checked(self) -> dict[str, Any]:
        """Return the JSON object; raises UsageError if the line is not one."""
        if self.fields is None:
            raise UsageError(
                f"Line {self.number} is not a JSON object; write {{...}} on a single line."
            )
        return self.fields

    def path(self, name: str) -> Path | None:
        """Return the path in a field, or None; raises UsageError if it is not a string."""
        value = self.checked().get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise UsageError(f"{name} must be a path, not {value!r}; fix line {self.number}.")
        return self.folder / value

    def request(self) -> EditRequest:
        """Return the request without its pictures; raises InvalidRequest for a wrong option."""
        paths = ("image", "out", "mask_image")
        values = {name: value for name, value in self.checked().items() if name not in paths}
        return EditRequest.from_parameters(b"", values)


@dataclass(frozen=True, eq=False)
class BatchEdit:
    """A checked line: the request, its decoded photograph, and the output path."""

    line: Line
    out: Path
    photo: Image
    request: EditRequest


def batch(
    edits: EditsFile,
    *,
    in_flight: InFlight = 8,
    model_options: ModelOptions,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Run many edits that share network calls, and print one line of JSON for each.

    A line of the file is {"image": "in.jpg", "out": "out.png", "prompt": "..."} with any other
    option of the Python API, such as "source_prompt", "mask_image" or "seed". Relative paths start
    from the file's folder.

    An edit whose output already exists, made from the same input with the same options, is
    skipped: run the command again to continue after an interruption. A failed line does not stop
    the others; the exit code is that of the first failure.
    """
    lines = read_lines(edits)
    failures: list[int] = []
    with (
        Progress(quiet=quiet) as progress,
        open_pipeline(model_options, progress, quiet=quiet) as pipeline,
    ):
        outcomes = run_lines(pipeline, lines, model_options, in_flight=in_flight, force=force)
        for count, outcome in enumerate(outcomes, 1):
            progress.update(f"{count} of {len(lines)} edits", count, len(lines))
            if outcome["status"] == "failed":
                failures.append(outcome["error"]["exit_code"])
            print(json.dumps(outcome), flush=True)  # noqa: T201
    if not quiet:
        say(f"{len(lines) - len(failures)} of {len(lines)} edits done, {len(failures)} failed")
    if failures:
        raise typer.Exit(failures[0])


def read_lines(name: str) -> list[Line]:
    """Read all lines that are not blank; raises UsageError if there are none."""
    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"{name} cannot be read ({reason}); name a file of JSON lines.") from None
    folder = Path() if name == STDIN else Path(name).parent
    lines = []
    # splitlines() would also split at U+2028 and similar characters, which are valid inside JSON.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError):  # RecursionError: nested too deep
                fields = None
            lines.append(Line(number, fields if isinstance(fields, dict) else None, folder))
    if not lines:
        raise UsageError(f"{name} contains no edits; write one JSON object per line.")
    return lines


def run_lines(
    pipeline: DiffEditPipeline,
    lines: list[Line],
    model_options: ModelOptions,
    *,
    in_flight: int,
    force: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the JSON fields of one outcome per line, as soon as each is known."""
    running: deque[BatchEdit] = deque()
    outcomes: deque[dict[str, Any]] = deque()  # of lines that need no edit
    line_of_output: dict[Path, int] = {}

    def requests() -> Iterator[EditRequest]:
        for line in lines:
            try:
                edit = prepare(line, line_of_output)
                if not force and is_done(edit):
                    outcomes.append(_outcome(line, "skipped", out=str(edit.out)))
                    continue
            except (DiffEditError, OSError) as error:
                outcomes.append(_outcome(line, "failed", error=error_fields(error)))
                continue
            running.append(edit)
            yield edit.request

    results: Iterator[Any] = pipeline.edit_many(requests(), in_flight=in_flight, return_errors=True)
    for result in results:
        yield from _drained(outcomes)
        yield finish(running.popleft(), result, pipeline, model_options, force=force)
    yield from _drained(outcomes)


def prepare(line: Line, line_of_output: dict[Path, int]) -> BatchEdit:
    """Check one line and read its pictures.

    Args:
        line: the line.
        line_of_output: number of the line that writes each output; updated with this line.

    Raises:
        InvalidRequest: the line, an option or a picture is invalid.
    """
    out, image, mask = line.path("out"), line.path("image"), line.path("mask_image")
    if out is None or image is None:
        missing = "image" if image is None else "out"
        raise UsageError(f"Line {line.number} has no {missing}; add the path of a file.")
    check_extension(out)
    if out.suffix.lower() != ".png":
        raise UsageError(
            f"{out} is not a PNG, and only PNG stores what is needed to resume; use .png."
        )
    first = line_of_output.setdefault(out.resolve(), line.number)
    if first != line.number:
        raise UsageError(f"{out} is also the output of line {first}; use different names.")
    request = line.request()
    photo = read_photo(str(image))
    if mask is not None:
        request = replace(request, mask_image=read_mask(str(mask), photo))
    return BatchEdit(line, out, photo, replace(request, image=photo))


def is_done(edit: BatchEdit) -> bool:
    """Whether the output exists and was made by the same edit; UsageError for any other file."""
    if not edit.out.exists():
        return False
    mask: Any = edit.request.mask_image
    expected = (
        parameters(edit.request),
        pixel_digest(edit.photo),
        pack_mask(mask.image) if mask is not None else None,
    )
    try:
        record = read_record(edit.out)
        if (record.parameters, record.input, record.mask) == expected:
            return True
    except InvalidRequest:
        pass  # not a PNG of ours
    raise UsageError(
        f"{edit.out} already exists and was not made by this edit; add --force to overwrite it, or "
        "name another file."
    )


def finish(
    edit: BatchEdit,
    result: EditResult | Exception,
    pipeline: DiffEditPipeline,
    model_options: ModelOptions,
    *,
    force: bool,
) -> dict[str, Any]:
    """Write one result and return its outcome. Unexpected exceptions are raised."""
    try:
        if isinstance(result, Exception):
            raise result
        record = record_of(edit.request, edit.photo, result, pipeline, model_options)
        with OutputFiles(force=force) as files:
            files.reserve(edit.out)
            files.write(edit.out, encode(result.image, edit.out, record))
            files.commit()
    except Exception as error:
        if exit_code_of(error) == 1:
            raise
        return _outcome(edit.line, "failed", error=error_fields(error))
    return _outcome(edit.line, "done", out=str(edit.out), **summary(result, record))


def _outcome(line: Line, status: str, **fields: Any) -> dict[str, Any]:
    return {"line": line.number, "status": status, **fields}


def _drained(outcomes: deque[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while outcomes:
        yield outcomes.popleft()
