"""`batch`: run many edits from a file of JSON lines. They share network calls."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import closing
from typing import Annotated, Any

import typer

from diffedit.cli import options
from diffedit.cli.batch_file import FileNames, Line, LineEdit, check_line, read_lines
from diffedit.cli.batch_run import BUG, BatchOptions, Run, failure, record_to_compare
from diffedit.cli.errors import say
from diffedit.cli.extras import extra
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.open_pipeline import open_pipeline
from diffedit.cli.output_options import Force, Quiet
from diffedit.cli.progress import Progress
from diffedit.cli.ray_options import RayOptions

EditsFile = Annotated[
    str,
    typer.Argument(
        metavar="EDITS", help="File with one JSON object per line; - reads standard input."
    ),
]
InFlight = Annotated[
    int,
    options.option(
        options.EDIT,
        "Number of edits that run at the same time (with --ray: in each worker).",
        "--in-flight",
        min=1,
        max=256,
    ),
]


def batch(
    edits: EditsFile,
    *,
    in_flight: InFlight = 8,
    ray_options: RayOptions,
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
    others; the exit code is that of the first line that failed.

    With --ray, worker processes with one engine each run the edits, on this machine or on a Ray
    cluster, and print the lines in the order in which they finish. An edit whose worker is lost
    runs again on another one. Every machine needs the pictures and the model under the same paths.
    """
    ray_options.check(model_options)
    if ray_options.ray:
        with extra("ray"):
            import diffedit.cli.ray_batch  # noqa: F401
    lines = read_lines(edits)
    out = sys.stdout  # Ray prints messages of its own, which go elsewhere
    failures: dict[int, int] = {}
    outcomes = run_batch(
        lines, model_options, ray_options, in_flight=in_flight, force=force, quiet=quiet
    )
    with closing(outcomes):
        for outcome in outcomes:
            if outcome["status"] == "failed":
                failures[outcome["line"]] = outcome["error"]["exit_code"]
                _report_bug(outcome)
            print(json.dumps(outcome), file=out, flush=True)
    if not quiet:
        say(f"{len(lines) - len(failures)} of {len(lines)} edits done, {len(failures)} failed")
    if failures:
        raise typer.Exit(failures[min(failures)])


def run_batch(
    lines: list[Line],
    model_options: ModelOptions,
    ray_options: RayOptions,
    *,
    in_flight: int,
    force: bool,
    quiet: bool,
) -> Generator[dict[str, Any], None, None]:
    """Yield the JSON fields of one outcome per line, as soon as each is known.

    Every line and its target are checked first. The model is loaded, or Ray started, if any line is
    valid.
    """
    names = FileNames.of(lines)
    edits: list[LineEdit] = []
    for line in lines:
        try:
            edit = check_line(line, names)
            record_to_compare(edit, force=force)
            edits.append(edit)
        except Exception as error:  # whatever is in a line, the others are edited
            yield failure(line.number, error)
    if not edits:
        return
    failed = len(lines) - len(edits)
    options = BatchOptions(model_options, in_flight, force, quiet)
    with Progress(quiet=quiet) as progress:
        if ray_options.ray:
            from diffedit.cli.ray_batch import run_on_ray

            outcomes = run_on_ray(edits, options, ray_options, progress)
        else:
            outcomes = _run_here(edits, options, progress)
        with closing(outcomes):
            for count, outcome in enumerate(outcomes, failed + 1):
                progress.update("edits", count, len(lines))
                yield outcome


def _run_here(
    edits: list[LineEdit], options: BatchOptions, progress: Progress
) -> Generator[dict[str, Any], None, None]:
    """Run the edits in this process; yield their outcomes in order."""
    with open_pipeline(options.model, progress, quiet=options.quiet) as pipeline:
        yield from Run(pipeline, options).outcomes(edits, options.in_flight)


def _report_bug(outcome: dict[str, Any]) -> None:
    """Print the stack trace of an unexpected error, and take it out of the outcome."""
    if trace := outcome["error"].pop(BUG, ""):
        say(trace)
        say(f"Line {outcome['line']} met a bug in diffedit-trt; please report it with the above.")
