"""The lines of a `batch` file on an open pipeline: read the pictures, edit, write the results."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffedit.cli.batch_file import LineEdit
from diffedit.cli.errors import error_fields, exit_code_of
from diffedit.cli.inputs import read_mask, read_photo
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.output_files import OutputFiles, encode
from diffedit.cli.resume import canvas_size, check_options, check_rest, stored_record
from diffedit.cli.run_edit import record_of, summary
from diffedit.imaging.metadata import EditRecord
from diffedit.request import EditRequest
from diffedit.result import EditResult

if TYPE_CHECKING:
    from diffedit.imaging.photograph import Photograph
    from diffedit.pipeline import DiffEditPipeline

BUG = "traceback"
"""Field of an error that is a fault of this program. `batch` prints it on standard error."""


@dataclass(frozen=True)
class BatchOptions:
    """How the lines of a batch are run.

    Attributes:
        model: the model and what runs it.
        in_flight: number of edits that run at the same time on one pipeline.
        force: overwrite existing files.
        quiet: print neither progress nor summary.
        prefix: beginning of the names of temporary files.
    """

    model: ModelOptions
    in_flight: int
    force: bool = False
    quiet: bool = False
    prefix: str = ""


def record_to_compare(edit: LineEdit, *, force: bool) -> EditRecord | None:
    """Return the record of an existing output; None if there is none, or it is replaced anyway.

    Raises UsageError for the output of another edit, as far as the options say.
    """
    record = None if force else stored_record(edit.out)
    if record is not None:
        check_options(record, edit.out, edit.request)
    return record


@dataclass(frozen=True, eq=False)
class RunningEdit:
    """A line whose edit was submitted: its request now has the decoded pictures."""

    line: LineEdit
    photo: Photograph
    request: EditRequest


@dataclass(frozen=True)
class Run:
    """The second half of a batch: the checked lines on an open pipeline."""

    pipeline: DiffEditPipeline
    options: BatchOptions

    def outcomes(self, edits: Iterable[LineEdit], in_flight: int) -> Iterator[dict[str, Any]]:
        """Run the edits, `in_flight` at the same time; yield an outcome for each."""
        running: deque[RunningEdit] = deque()
        known: deque[dict[str, Any]] = deque()  # of lines that need no edit

        def requests() -> Iterator[EditRequest]:
            for line in edits:
                try:
                    record = record_to_compare(line, force=self.options.force)
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
        size = self.options.model.pipeline_arguments()["size"]
        canvas = canvas_size(self.pipeline, edit.photo, size)
        check_options(record, edit.line.out, self.pipeline.resolve(edit.request))
        check_rest(record, edit.line.out, edit.request, self.pipeline.provenance, canvas)

    def finish(self, edit: RunningEdit, result: EditResult | Exception) -> dict[str, Any]:
        """Write one result and return its outcome."""
        out = edit.line.out
        try:
            if isinstance(result, Exception):
                raise result
            record = record_of(edit.request, edit.photo, result, self.pipeline, self.options.model)
            with OutputFiles(force=self.options.force, prefix=self.options.prefix) as files:
                files.reserve(out)
                files.write(out, encode(result.photo, out, record))
                files.commit()
        except Exception as error:  # one result that cannot be written does not lose the others
            return failure(edit.line.number, error)
        return _outcome(edit.line.number, "done", out=str(out), **summary(result, record))


def failure(number: int, error: Exception) -> dict[str, Any]:
    """Return the outcome of a line that failed."""
    fields = error_fields(error)
    if exit_code_of(error) == 1:
        fields[BUG] = "".join(traceback.format_exception(error))
    return _outcome(number, "failed", error=fields)


def _outcome(number: int, status: str, **fields: Any) -> dict[str, Any]:
    return {"line": number, "status": status, **fields}


def _drained(outcomes: deque[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while outcomes:
        yield outcomes.popleft()
