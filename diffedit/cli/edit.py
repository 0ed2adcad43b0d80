"""`edit` and `mask`: one photograph, one answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from diffedit.cli import options as o
from diffedit.cli import output
from diffedit.cli.errors import UsageError, say
from diffedit.cli.options import ModelOptions, request_parameters
from diffedit.cli.progress import STAGES, Progress
from diffedit.cli.runner import Targets, edited_share, encoded_heatmap, run
from diffedit.cli.session import default_output, overlay, pipeline, read_mask, read_picture
from diffedit.request import EditRequest


def edit(
    image: o.Image,
    prompt: o.Prompt,
    source_prompt: o.Source = "",
    negative_prompt: o.Negative = "",
    num_inference_steps: o.Steps = EditRequest.num_inference_steps,
    strength: o.Strength = EditRequest.strength,
    guidance_scale: o.Guidance = EditRequest.guidance_scale,
    method: o.Method = EditRequest.method,
    seed: o.Seed = EditRequest.seed,
    composite: o.Composite = EditRequest.composite,
    mask_image: o.Mask = None,
    num_maps_per_mask: o.Maps = EditRequest.num_maps_per_mask,
    mask_encode_strength: o.MaskStrength = EditRequest.mask_encode_strength,
    mask_thresholding_ratio: o.MaskRatio = EditRequest.mask_thresholding_ratio,
    mask_dilation: o.Dilation = EditRequest.mask_dilation,
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
    out: o.Out = None,
    mask_out: o.MaskOut = None,
    heatmap_out: o.HeatmapOut = None,
    panel: o.Panel = None,
    force: o.Force = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Edit a photograph; what to change is found by itself unless --mask says it.

    Writes IMAGE's name with .edited.png beside it unless -o names another file; a PNG keeps every
    parameter, so that `replay` can repeat it.
    """
    given = dict(locals())
    targets = Targets.of(given, out or default_output(image, "edited"))
    wanted = EditRequest.from_parameters(b"", request_parameters(given))
    if image == "-" == mask_image:
        raise UsageError("The picture and the mask cannot both be standard input; name a file.")
    photo = read_picture(image)
    if mask_image is not None:
        wanted = replace(wanted, mask_image=read_mask(mask_image, photo))
    run(replace(wanted, image=photo), photo, ModelOptions.of(given), targets)


def mask(
    image: o.Image,
    prompt: o.Prompt,
    source_prompt: o.Source = "",
    num_inference_steps: o.Steps = EditRequest.num_inference_steps,
    seed: o.Seed = EditRequest.seed,
    num_maps_per_mask: o.Maps = EditRequest.num_maps_per_mask,
    mask_encode_strength: o.MaskStrength = EditRequest.mask_encode_strength,
    mask_thresholding_ratio: o.MaskRatio = EditRequest.mask_thresholding_ratio,
    mask_dilation: o.Dilation = EditRequest.mask_dilation,
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
    out: o.Out = None,
    heatmap_out: o.HeatmapOut = None,
    force: o.Force = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Find only the mask: where the two texts disagree about the picture (white = edit).

    Writes IMAGE's name with .mask.png beside it unless -o names another file.
    """
    given = dict(locals())
    targets = Targets.of(given, out or default_output(image, "mask"))
    wanted = request_parameters(given)
    EditRequest.from_parameters(b"", wanted)
    photo = read_picture(image)
    options = ModelOptions.of(given)
    with output.Outputs(force=force) as files:
        for path in targets.files:
            files.reserve(path)
        with Progress(quiet=quiet) as progress, pipeline(options, progress, quiet=quiet) as pipe:
            progress.stage(STAGES["mask"])
            found = pipe.generate_mask(photo, callback=progress.rows, **wanted)
            if targets.out != "-":
                path = Path(targets.out)
                files.write(path, output.encode(found.mask, path))
            if heatmap_out is not None:
                heat = overlay(pipe, photo, found.heatmap)
                files.write(heatmap_out, encoded_heatmap(heat, found.heatmap, heatmap_out))
            described = pipe.networks.describe()
            files.commit()
    if targets.out == "-":
        output.to_stdout(output.encode(found.mask))
    share = edited_share(found.mask)
    if as_json:
        line = {"out": targets.out, "mask_share": round(share, 6), "backend": described}
        print(json.dumps({**line, "parameters": wanted}))  # noqa: T201
    if not quiet:
        say(f"wrote {targets.out}: {share:.1%} of the picture is white")
