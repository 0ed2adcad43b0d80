"""`mask`: compute the mask of an edit, without the edit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diffedit.cli import options
from diffedit.cli.errors import say
from diffedit.cli.inputs import STDOUT, default_output, read_photo
from diffedit.cli.open_pipeline import open_pipeline
from diffedit.cli.output_files import OutputFiles, encode, encode_heatmap, write_stdout
from diffedit.cli.progress import STAGES, Progress
from diffedit.cli.run_edit import OutputPaths, heatmap_overlay, white_share
from diffedit.request import EditRequest


def mask(
    image: options.Image,
    *,
    prompt: options.Prompt,
    source_prompt: options.Source = "",
    preset: options.Preset = EditRequest.preset,
    num_inference_steps: options.Steps = None,
    seed: options.Seed = EditRequest.seed,
    mask_options: options.MaskOptions,
    model_options: options.ModelOptions,
    output_options: options.OutputOptions,
) -> None:
    """Compute only the mask: the region where the two prompts disagree, in white.

    The mask is written next to IMAGE with the ending .mask.png, unless --out names another file.
    """
    paths = OutputPaths.from_options(output_options, default_output(image, "mask"))
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
    if paths.out == STDOUT:
        write_stdout(encode(result.mask))
    share = white_share(result.mask)
    for warning in result.warnings:
        say(f"warning: {warning}")
    if output_options.as_json:
        line = {"out": paths.out, "mask_share": round(share, 6), "backend": backend}
        used = {name: result.parameters[name] for name in parameters}
        more = {"parameters": used, "warnings": list(result.warnings)}
        print(json.dumps({**line, **more}))  # noqa: T201
    if not quiet:
        say(f"wrote {paths.out}: {share:.1%} of the picture is white")
