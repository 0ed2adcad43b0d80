"""Open the pipeline that the options describe, and close it when the command ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from diffedit.cli.errors import say
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.progress import Progress

if TYPE_CHECKING:
    from diffedit.pipeline import DiffEditPipeline


@contextmanager
def open_pipeline(
    options: ModelOptions, progress: Progress, *, quiet: bool
) -> Iterator[DiffEditPipeline]:
    """Load the model. Prints the progress, the backend and the reason for it, unless `quiet`, and
    always the warnings."""
    progress.start_stage("importing PyTorch")
    from diffedit import DiffEditPipeline
    from engine.hub import quiet_downloads

    progress.start_stage("loading the model")
    with quiet_downloads() if quiet else nullcontext():
        pipeline = DiffEditPipeline.from_pretrained(
            **options.pipeline_arguments(), on_progress=progress.update
        )
    try:
        if not quiet:
            say(f"backend: {pipeline.describe()}")
        for warning in pipeline.warnings:
            say(f"warning: {warning}")
        yield pipeline
    finally:
        pipeline.close()
