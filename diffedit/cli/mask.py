"""`mask`: compute a mask without an edit, or make another mask from its heatmap."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from diffedit.cli import options, refine_mask
from diffedit.cli.errors import UsageError, say
from diffedit.cli.inputs import STDOUT, default_output, read_photo
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.open_pipeline import open_pipeline
from diffedit.cli.output_files import OutputFiles, encode, encode_heatmap, write_stdout
from diffedit.cli.output_options import OutputOptions
from diffedit.cli.progress import STAGES, Progress
from diffedit.cli.run_edit import OutputPaths, heatmap_overlay, white_share
from diffedit.notices import warning_facts
from diffedit.request import EditRequest

if TYPE_CHECKING:
    from PIL.Image import Image

Refine = Annotated[
    Path | None,
    options.option(
        options.MASK,
        "Make the mask from this heatmap, which --heatmap-out wrote as .npy; no network runs.",
        "--refine",
        metavar="<path>",
    ),
]


def mask(
    image: options.Image,
    *,
    prompt: options.OptionalPrompt = None,
    source_prompt: options.Source = "",
    preset: options.Preset = EditRequest.preset,
    num_inference_steps: options.Steps = None,
    seed: options.Seed = EditRequest.seed,
    refine: Refine = None,
    mask_options: options.MaskOptions,
    model_options: ModelOptions,
    output_options: OutputOptions,
) -> None:
    """Compute only the mask: white where the predictions under the two texts differ.

    The mask is written next to IMAGE with the ending .mask.png, unless --out is another file. With
    --refine, the mask is made from the heatmap of an earlier run, with other options for the
    threshold, dilation and cleaning. No network runs.
    """
    paths = OutputPaths.from_options(output_options, default_output(image, "mask"))
    if refine is not None:
        unused = {"prompt": prompt, "source_prompt": source_prompt, "steps": num_inference_steps}
        refine_mask.check_unused(unused, mask_options)
        options_of_mask = {"prompt": "-", "preset": preset, **asdict(mask_options)}
        request = EditRequest.from_parameters(b"", options_of_mask)
        _refine(image, refine, request, model_options, paths, output_options)
        return
    if prompt is None:
        raise UsageError("No prompt is given; add --prompt, or --refine with a heatmap.")
    parameters: dict[str, Any] = {
        "prompt": prompt,
        "source_prompt": source_prompt,
        "preset": preset,
        "num_inference_steps": num_inference_steps,
        "seed": seed,
        **asdict(mask_options),
    }
    request = EditRequest.from_parameters(b"", parameters)
    photo = read_photo(image)
    request = replace(request, image=photo)
    quiet = output_options.quiet
    with OutputFiles(force=output_options.force) as files:
        for path in paths.files:
            files.reserve(path)
        with (
            Progress(quiet=quiet) as progress,
            open_pipeline(model_options, progress, quiet=quiet) as pipeline,
        ):
            progress.start_stage(STAGES["mask"])
            handle = pipeline.submit(request, callback=progress.update, mask_only=True)
            result = handle.result()
            if paths.out != STDOUT:
                files.write(Path(paths.out), encode(result.mask, Path(paths.out)))
            if paths.heatmap is not None:
                overlay = heatmap_overlay(pipeline, photo.rgb, result.heatmap)
                files.write(paths.heatmap, encode_heatmap(overlay, result.heatmap, paths.heatmap))
            backend = pipeline.networks.describe()
            files.commit()
    used = {name: result.parameters[name] for name in parameters}
    facts = {"backend": backend, "parameters": used, **warning_facts(result.warnings)}
    _report(result.mask, paths, output_options, facts)


def _refine(
    image: str,
    heatmap: Path,
    request: EditRequest,
    model_options: ModelOptions,
    paths: OutputPaths,
    output_options: OutputOptions,
) -> None:
    if paths.heatmap is not None:
        raise UsageError("--heatmap-out would write the heatmap of --refine again; leave it out.")
    soft = refine_mask.soft_map(heatmap, read_photo(image), request, model_options)
    picture = soft.mask()
    with OutputFiles(force=output_options.force) as files:
        for path in paths.files:
            files.reserve(path)
            files.write(path, encode(picture, path))
        files.commit()
    used = {
        "mask_threshold": request.mask_threshold,
        "mask_dilation": request.mask_dilation,
        "mask_cleaning": soft.options.cleaning,
    }
    _report(picture, paths, output_options, {"parameters": used, **warning_facts(())})


def _report(mask: Image, paths: OutputPaths, options: OutputOptions, facts: dict[str, Any]) -> None:
    """Print the JSON or the mask on standard output, and the warnings and the summary."""
    if paths.out == STDOUT:
        write_stdout(encode(mask))
    share = white_share(mask)
    for warning in facts["warnings"]:
        say(f"warning: {warning}")
    if options.as_json:
        line = {"out": paths.out, "mask_share": round(share, 6)}
        print(json.dumps({**line, **facts}))  # noqa: T201
    if not options.quiet:
        say(f"wrote {paths.names}: {share:.1%} of the picture is white")
