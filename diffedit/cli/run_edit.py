"""Run one edit from a decoded picture to its output files, for `edit` and `replay`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffedit
from diffedit.cli import output_files
from diffedit.cli.errors import UsageError, say
from diffedit.cli.inputs import STDOUT
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.open_pipeline import open_pipeline
from diffedit.cli.output_files import OutputFiles, encode, encode_heatmap, write_stdout
from diffedit.cli.output_options import EditOutputOptions, OutputOptions
from diffedit.cli.progress import STAGES, Progress
from diffedit.imaging.metadata import EditRecord, pack_mask, pixel_digest
from diffedit.notices import warning_facts
from diffedit.request import MASKED_METHODS, EditRequest
from diffedit.result import EditResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffedit.imaging.photograph import Photograph
    from diffedit.pipeline import DiffEditPipeline


@dataclass(frozen=True)
class OutputPaths:
    """The files of one edit or mask, checked for their extensions.

    Attributes:
        out: path of the result, or "-" for standard output.
        mask, heatmap, panel, blend: None if not requested.
    """

    out: str
    mask: Path | None
    heatmap: Path | None
    panel: Path | None
    blend: Path | None = None

    @classmethod
    def from_options(cls, options: OutputOptions, default: str) -> OutputPaths:
        """Raises UsageError for an unsupported extension, or two outputs on standard output."""
        if options.out is not None and not options.out.strip():
            raise UsageError("--out is empty; pass a file, or leave it out.")
        out = options.out or default
        if out == STDOUT and options.as_json:
            raise UsageError(
                "--json and the picture would both be written to standard output; pass a file with "
                "--out."
            )
        if out == STDOUT and sys.stdout.isatty():
            raise UsageError(
                "Standard output is a terminal, which cannot show a picture; pass a file with "
                "--out, or send standard output to a file or a program."
            )
        extra = options if isinstance(options, EditOutputOptions) else EditOutputOptions()
        paths = cls(out, extra.mask_out, options.heatmap_out, extra.panel, extra.blend_out)
        for path in paths.files:
            if not (path == paths.heatmap and path.suffix == ".npy"):
                output_files.check_extension(path)
        return paths

    @property
    def files(self) -> list[Path]:
        main = [] if self.out == STDOUT else [Path(self.out)]
        extra = (self.mask, self.heatmap, self.panel, self.blend)
        return [*main, *(path for path in extra if path is not None)]

    @property
    def names(self) -> str:
        """The files in words, for a message."""
        return ", ".join(map(str, self.files)) or "standard output"

    def by_name(self) -> dict[str, str]:
        """Return the requested outputs as JSON fields."""
        return {name: str(path) for name, path in asdict(self).items() if path is not None}


def run_edit(
    request: EditRequest,
    photo: Photograph,
    model: ModelOptions,
    paths: OutputPaths,
    options: OutputOptions,
) -> EditResult:
    """Edit a photograph, write every output file and print the summary.

    Args:
        request: the edit; its mask is an `EditMask`.
        photo: the decoded photograph.
        model: model and backend.
        paths: files to write.
        options: `force`, `as_json` and `quiet` are used.
    """
    request = replace(request, image=photo)
    with OutputFiles(force=options.force) as files:
        for path in paths.files:
            files.reserve(path)
        with Progress(quiet=options.quiet) as progress:
            with open_pipeline(model, progress, quiet=options.quiet) as pipeline:
                progress.start_stage(STAGES[_first_stage(request)])
                result = pipeline.submit(request, callback=progress.update).result()
                record = record_of(request, photo, result, pipeline, model)
                contents = _encoded_files(paths, photo, result, record, pipeline)
            progress.start_stage("writing the files")
            for path, data in contents.items():
                files.write(path, data)
            files.commit()
        if paths.out == STDOUT:
            write_stdout(encode(result.photo, record=record))
    opened = pipeline.warnings  # printed when it was opened
    new = tuple(warning for warning in result.warnings if warning not in opened)
    _print_outcome(replace(result, warnings=new), record, paths, options)
    return result


def record_of(
    request: EditRequest,
    photo: Photograph,
    result: EditResult,
    pipeline: DiffEditPipeline,
    model: ModelOptions,
) -> EditRecord:
    """Return the record for a PNG: everything to repeat the edit, without local paths."""
    factor = pipeline.checkpoint.family.factor
    height, width = result.heatmap.shape
    is_local = Path(model.model).exists()
    mask: Any = request.mask_image
    return EditRecord(
        parameters=dict(result.parameters),
        input=pixel_digest(photo.rgb),
        mask=pack_mask(mask) if mask is not None else None,
        mask_read_as=result.mask_read_as,
        version=diffedit.__version__,
        model=pipeline.provenance.model if is_local else model.model,
        size=(height * factor, width * factor),
        backend=pipeline.networks.describe(),
        provenance=pipeline.provenance,
    )


def summary(result: EditResult, record: EditRecord) -> dict[str, Any]:
    """Return the JSON fields that describe a finished edit."""
    return {
        "parameters": record.parameters,
        "model": record.model,
        "backend": record.backend,
        "provenance": asdict(record.provenance) if record.provenance else None,
        "size": record.size,
        "mask_share": round(white_share(result.mask), 6),
        **_several(result),
        "mask_read_as": result.mask_read_as,
        "stats": asdict(result.stats),
        **warning_facts(result.warnings),
    }


def _several(result: EditResult) -> dict[str, Any]:
    """The share of each of several edits, as a JSON field."""
    shares = [round(white_share(edit.mask), 6) for edit in result.edits]
    return {"edits": [{"mask_share": share} for share in shares]} if shares else {}


def white_share(mask: Image) -> float:
    """Return the share of a black and white mask that is white, in [0, 1]."""
    return mask.histogram()[255] / (mask.width * mask.height)


def heatmap_overlay(pipeline: DiffEditPipeline, photo: Image, heatmap: Any) -> Image:
    """Draw a heatmap, float32 [h, w] on the latent grid, over the photograph in RGB."""
    from diffedit.imaging import compose, geometry

    factor = pipeline.checkpoint.family.factor
    height, width = heatmap.shape
    _, placement = geometry.fit(photo, (height * factor, width * factor))
    return compose.heatmap_overlay(photo, heatmap, placement, factor)


def _first_stage(request: EditRequest) -> str:
    computes_mask = request.mask_image is None and request.method in MASKED_METHODS
    return "mask" if computes_mask else "encode"


def _encoded_files(
    paths: OutputPaths,
    photo: Photograph,
    result: EditResult,
    record: EditRecord,
    pipeline: DiffEditPipeline,
) -> dict[Path, bytes]:
    """Return the contents of every output file."""
    contents: dict[Path, bytes] = {}
    if paths.out != STDOUT:
        contents[Path(paths.out)] = encode(result.photo, Path(paths.out), record)
    if paths.mask is not None:
        contents[paths.mask] = encode(result.mask, paths.mask)
    if paths.blend is not None:
        contents[paths.blend] = encode(result.blend_mask, paths.blend)
    if paths.heatmap is None and paths.panel is None:
        return contents
    overlay = heatmap_overlay(pipeline, photo.rgb, result.heatmap)
    if paths.heatmap is not None:
        contents[paths.heatmap] = encode_heatmap(overlay, result.heatmap, paths.heatmap)
    if paths.panel is not None:
        from diffedit.imaging import compose

        panel = compose.panel(photo.rgb, overlay, result.blend_mask, result.photo.rgb)
        contents[paths.panel] = encode(panel, paths.panel)
    return contents


def _print_outcome(
    result: EditResult, record: EditRecord, paths: OutputPaths, options: OutputOptions
) -> None:
    lost = [] if paths.out == STDOUT else output_files.losses(result.photo, Path(paths.out))
    for warning in (*result.warnings, *lost):
        say(f"warning: {warning}")
    if options.as_json:
        print(json.dumps({**paths.by_name(), **summary(result, record)}))  # noqa: T201
    if options.quiet:
        return
    denoiser = result.stats.denoiser
    rows, calls = result.stats.rows.get(denoiser, 0), result.stats.calls.get(denoiser, 0)
    say(
        f"wrote {paths.names}: {white_share(result.mask):.1%} of the picture edited, "
        f"{rows} denoiser rows in {calls} calls, {result.stats.seconds['total']:.1f} s"
    )
    if paths.out != STDOUT and (note := output_files.format_note(Path(paths.out))):
        say(f"note: {note}")
