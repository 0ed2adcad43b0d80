"""`batch`: run many edits from a file of JSON lines. They share network calls."""

from __future__ import annotations

import json
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffedit.cli import options
from diffedit.cli.batch_file import FileNames, Line, LineEdit, check_line, read_lines
from diffedit.cli.errors import error_fields, exit_code_of, say
from diffedit.cli.inputs import read_mask, read_photo
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.open_pipeline import open_pipeline
from diffedit.cli.output_files import OutputFiles, encode
from diffedit.cli.output_options import Force, Quiet
from diffedit.cli.progress import Progress
from diffedit.cli.resume import (
    canvas_size,
    check_options,
    check_rest,
    stored_record,
)
from diffedit.cli.run_edit import record_of, summary
from diffedit.imaging.metadata import EditRecord
from diffedit.request import EditRequest
from diffedit.result import EditResult

if TYPE_CHECKING:
    from diffedit.imaging.photograph import Photograph
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


@dataclass(frozen=True, eq=False)
class RunningEdit:
    """A line whose edit was submitted: its request now has the decoded pictures."""

    line: LineEdit
    photo: Photograph
    request: EditRequest


def batch(
    edits: EditsFile,
    *,
    in_flight: InFlight = 8,
    model_options: ModelOptions,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run many edits that share network calls, and print one line of JSON for each.

    A line of the file is {"image": "in.jpg", "out": "out.png", "prompt": "..."} with any other
    option of the Python API, such as "source_prompt", "mask_image" or "seed". Relative paths start
    from the file's folder.

    An edit whose output already exists, made from the same pictures with the same options, model,
    size and precision, is skipped: run the command again to continue after an interruption. Outputs
    that differ in any of these are replaced with --force only. A failed line does not stop the
    others; the exit code is that of the first failure.
    """
    lines = read_lines(edits)
    failures: list[int] = []
    with closing(
        run_batch(lines, model_options, in_flight=in_flight, force=force, quiet=quiet)
    ) as outcomes:
        for outcome in outcomes:
            if outcome["status"] == "failed":
                failures.append(outcome["error"]["exit_code"])
            print(json.dumps(outcome), flush=True)  # noqa: T201
    if not quiet:
        say(f"{len(lines) - len(failures)} of {len(lines)} edits done, {len(failures)} failed")
    if failures:
        raise typer.Exit(failures[0])


def run_batch(
    lines: list[Line], model_options: ModelOptions, *, in_flight: int, force: bool, quiet: bool
) -> Generator[dict[str, Any], None, None]:
    """Yield the JSON fields of one outcome per line, as soon as each is known.

    Every line and its target are checked first. The model is loaded if any line is valid.
    """
    names = FileNames.of(lines)
    edits: list[tuple[LineEdit, EditRecord | None]] = []
    for line in lines:
        try:
            edit = check_line(line, names)
            record = None if force else stored_record(edit.out)
            if record is not None:
                check_options(record, edit.out, edit.request)
            edits.append((edit, record))
        except Exception as error:  # whatever is in a line, the others are edited
            yield failure(line.number, error)
    if not edits:
        return
    failed = len(lines) - len(edits)
    with (
        Progress(quiet=quiet) as progress,
        open_pipeline(model_options, progress, quiet=quiet) as pipeline,
    ):
        run = Run(pipeline, model_options, force)
        for count, outcome in enumerate(run.outcomes(edits, in_flight), failed + 1):
            progress.update("edits", count, len(lines))
            yield outcome


@dataclass(frozen=True)
class Run:
    """The second half of a batch: the checked lines on an open pipeline.

    Attributes:
        pipeline, model_options: what edits.
        force: overwrite existing files.
    """

    pipeline: DiffEditPipeline
    model_options: ModelOptions
    force: bool

    def outcomes(
        self, edits: list[tuple[LineEdit, EditRecord | None]], in_flight: int
    ) -> Iterator[dict[str, Any]]:
        """Run the edits, `in_flight` at the same time; yield an outcome for each."""
        running: deque[RunningEdit] = deque()
        known: deque[dict[str, Any]] = deque()  # of lines that need no edit

        def requests() -> Iterator[EditRequest]:
            for line, record in edits:
                try:
                    edit = self.read_pictures(line)
                    if record is not None:
                        self.check_done(edit, record)
                        known.append(_outcome(line.number, "skipped", out=str(line.out)))
                        continue
                except Exception as error:  # whatever is in a line, the others are edited
                    known.append(failure(line.number, error))
                    continue
                running.append(edit)
                yield edit.request

        results: Iterator[Any] = self.pipeline.edit_many(
            requests(), in_flight=in_flight, return_errors=True
        )
        for result in results:
            yield from _drained(known)
            yield self.finish(running.popleft(), result)
        yield from _drained(known)

    def read_pictures(self, line: LineEdit) -> RunningEdit:
        """Decode the photograph and the mask of a line. Raises InvalidRequest."""
        photo = read_photo(line.image)
        mask = None if line.mask_image is None else read_mask(line.mask_image, photo)
        request = replace(line.request, image=photo, mask_image=mask)
        return RunningEdit(line, photo, request)

    def check_done(self, edit: RunningEdit, record: EditRecord) -> None:
        """Raise UsageError unless an existing output is the result of this edit."""
        size = self.model_options.pipeline_arguments()["size"]
        canvas = canvas_size(self.pipeline, edit.photo, size)
        check_options(record, edit.line.out, self.pipeline.resolve(edit.request))
        check_rest(record, edit.line.out, edit.request, self.pipeline.provenance, canvas)

    def finish(self, edit: RunningEdit, result: EditResult | Exception) -> dict[str, Any]:
        """Write one result and return its outcome."""
        out = edit.line.out
        try:
            if isinstance(result, Exception):
                raise result
            record = record_of(edit.request, edit.photo, result, self.pipeline, self.model_options)
            with OutputFiles(force=self.force) as files:
                files.reserve(out)
                files.write(out, encode(result.photo, out, record))
                files.commit()
        except Exception as error:  # one result that cannot be written does not lose the others
            return failure(edit.line.number, error)
        return _outcome(edit.line.number, "done", out=str(out), **summary(result, record))


def failure(number: int, error: Exception) -> dict[str, Any]:
    """Return the outcome of a line that failed; an unexpected error is also printed in full."""
    if exit_code_of(error) == 1:
        traceback.print_exception(error)
        say(f"Line {number} met a bug in diffedit-trt; please report it with the lines above.")
    return _outcome(number, "failed", error=error_fields(error))


def _outcome(number: int, status: str, **fields: Any) -> dict[str, Any]:
    return {"line": number, "status": status, **fields}


def _drained(outcomes: deque[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while outcomes:
        yield outcomes.popleft()
