"""Draw every stage of one edit with the paper's settings, for docs/how-it-works.md.

    python -m demo.algorithm_pictures [FOLDER] [--model demo/model] [--seed 970004]

Runs the edit's own flow with the demo's model and records the rows that it yields, so the pictures
show the tensors that the algorithm works on. Writes one WebP file per stage into FOLDER (default
docs/images).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from demo.gallery import GUIDANCE, SIZE, picks
from diffedit import DiffEditPipeline, EditRequest
from diffedit.algorithm import edit as flows
from diffedit.algorithm import mask as masks
from diffedit.algorithm.cache import Caches, TensorCache
from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import Schedule
from diffedit.preprocessor import Preprocessor
from engine.rows import Flow, Row

TILE = 176
"""Side of one picture in pixels."""
_GAP, _LINE, _PAPER, _INK = 10, 22, (250, 250, 248), (20, 20, 24)


@dataclass
class Recording:
    """The intermediate results of one edit.

    Attributes:
        mask_rows: (x, prediction) of the denoiser's rows of the mask, alternating between R and Q.
        previews: after each decoding step, the clean latent that it predicts.
    """

    stage: str = "mask"
    mask_rows: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    previews: list[Tensor] = field(default_factory=list)

    def set_stage(self, stage: str) -> None:
        """Called when a stage begins."""
        self.stage = stage

    def add_preview(self, latent: Tensor, _: Tensor) -> None:
        """Called after each decoding step."""
        self.previews.append(latent.clone())

    def around(self, flow: Flow[EditOutputs], denoiser: str) -> Flow[EditOutputs]:
        """The same flow; the denoiser's rows of the mask are recorded."""
        rows = next(flow)
        while True:
            answers = yield rows
            if self.stage == "mask" and rows[0].net == denoiser:
                pairs = zip(rows, answers, strict=True)
                self.mask_rows += [(row.inputs[0].clone(), out.clone()) for row, out in pairs]
            try:
                rows = flow.send(answers)
            except StopIteration as stop:
                result: EditOutputs = stop.value
                return result


@dataclass(frozen=True)
class Stages:
    """One edit with everything in between.

    Attributes:
        trajectory: x_0 to x_d, each float32 [C, h, w].
        decode: a latent, float32 [C, h, w] -> a picture of the canvas' size.
    """

    photo: Image.Image
    inputs: EditInputs
    plan: EditPlan
    recording: Recording
    trajectory: Sequence[Tensor]
    outputs: EditOutputs
    decode: Callable[[Tensor], Image.Image]

    @property
    def schedule(self) -> Schedule:
        return self.plan.schedule


def run(pipe: DiffEditPipeline, request: EditRequest) -> Stages:
    """Run one edit of a picture, uint8 [H, W, 3], and record the results of its stages."""
    prepared = Preprocessor(pipe.checkpoint, None, pipe.networks.device).prepare(request)
    recording, names = Recording(), pipe.checkpoint.names
    inputs = replace(
        prepared.inputs, on_stage=recording.set_stage, on_preview=recording.add_preview
    )
    plan = EditPlan.for_edit(inputs.request, prepared.schedule, 0)
    caches = Caches(TensorCache(2**28), TensorCache(2**28))
    flow = recording.around(flows.edit(inputs, plan, caches), names.denoiser)
    pipe.batcher.start()
    outputs = pipe.batcher.submit(flow).future.result()

    def decode(latent: Tensor) -> Image.Image:
        def one() -> Flow[Tensor]:
            (image,) = yield [Row(names.image_decoder, (latent,))]
            result: Tensor = image.clone()
            return result

        return picture(pipe.batcher.submit(one()).future.result())

    trajectory = [*caches.trajectory(plan.trajectory_key(inputs.image_key))]
    photo = Image.fromarray(np.asarray(request.image))
    return Stages(photo, inputs, plan, recording, trajectory, outputs, decode)


def picture(image: Tensor) -> Image.Image:
    """float32 [3, H, W] in [-1, 1] -> RGB."""
    values = (image.clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(values.round().byte().permute(1, 2, 0).cpu().numpy())


def latent_picture(latent: Tensor) -> Image.Image:
    """The first three channels of a latent, float32 [C, h, w], as colors."""
    return picture(latent[:3] / 3)


def grey(values: Tensor) -> Image.Image:
    """float32 or bool [h, w] from 0 to its largest value -> L."""
    values = values.float() / values.float().max().clamp(min=1e-12)
    return Image.fromarray((values * 255).round().byte().cpu().numpy())


def strip(tiles: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures in a row, each below its title. Small ones are enlarged without smoothing."""
    width = len(tiles) * (TILE + _GAP) + _GAP
    page = Image.new("RGB", (width, TILE + _LINE + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for n, (title, tile) in enumerate(tiles):
        left = _GAP + n * (TILE + _GAP)
        draw.text((left, _LINE // 2 + 1), title, fill=_INK, font=font, anchor="lm")
        smooth = tile.width >= SIZE
        how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
        page.paste(tile.convert("RGB").resize((TILE, TILE), how), (left, _LINE))
    return page


def pictures(stages: Stages) -> dict[str, Image.Image]:
    """One strip for every stage, by its name."""
    return {
        "algorithm-noising": _noising(stages),
        "algorithm-differences": _differences(stages),
        "algorithm-encoding": _encoding(stages),
        "algorithm-decoding": _decoding(stages),
    }


def _split(stages: Stages, row: int) -> tuple[Tensor, Tensor]:
    """(x_0, eps) that a row of the mask predicts."""
    x, out = stages.recording.mask_rows[row]
    return stages.schedule.split(out, x, stages.plan.mask_level)


def _noising(stages: Stages) -> Image.Image:
    noised = stages.recording.mask_rows[0][0]
    under_source, under_target = (_split(stages, row)[0] for row in (0, 1))
    return strip(
        [
            ("the photograph", stages.photo),
            ("x_0, its latent", latent_picture(stages.trajectory[0])),
            (f"noised to level {stages.plan.mask_level}", latent_picture(noised)),
            ("predicted under R", stages.decode(under_source)),
            ("predicted under Q", stages.decode(under_target)),
        ]
    )


def _differences(stages: Stages) -> Image.Image:
    eps = [_split(stages, row)[1] for row in range(len(stages.recording.mask_rows))]
    source, target = eps[0::2], eps[1::2]
    first, mean = masks.difference_map(target[:1], source[:1]), masks.difference_map(target, source)
    return strip(
        [
            ("difference, 1 noise", grey(first)),
            (f"mean of {len(source)} noises", grey(mean)),
            ("heatmap: clipped", grey(stages.outputs.heatmap)),
            ("mask: above one half", grey(stages.outputs.mask)),
            ("on the photograph", _outlined(stages)),
        ]
    )


def _outlined(stages: Stages) -> Image.Image:
    """The photograph, dark outside the mask."""
    size = stages.photo.size
    mask = grey(stages.outputs.mask).resize(size, Image.Resampling.NEAREST)
    dark = stages.photo.point([value // 4 for value in range(256)] * 3)
    return Image.composite(stages.photo, dark, mask)


def _encoding(stages: Stages) -> Image.Image:
    depth = stages.plan.depth
    levels = [round(depth * share) for share in (0, 0.25, 0.5, 0.75, 1)]
    return strip([(f"x_{i}", latent_picture(stages.trajectory[i])) for i in levels])


def _decoding(stages: Stages) -> Image.Image:
    previews, last = stages.recording.previews, len(stages.recording.previews)
    steps = [1, round(last / 8), round(last / 3), round(last * 2 / 3)]
    tiles = [(f"after step {n}", stages.decode(previews[n - 1])) for n in steps]
    assert stages.outputs.image is not None, "the mask of this edit is empty"
    return strip([*tiles, (f"result, step {last}", picture(stages.outputs.image))])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/images"))
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--seed", type=int, default=970_004, help="of the scene")
    args = parser.parse_args(arguments)
    ((scene, change),) = picks([args.seed])
    options: dict[str, Any] = {"preset": "paper", "guidance_scale": GUIDANCE, "seed": args.seed}
    request = EditRequest(scene.image, change.target, change.source, **options)
    with DiffEditPipeline.from_pretrained(args.model, backend="torch") as pipe:
        drawn = pictures(run(pipe, request))
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, page in drawn.items():
        page.save(args.folder / f"{name}.webp", quality=85, method=6)
    print(f"wrote {len(drawn)} pictures of {change.source!r} -> {change.target!r} to {args.folder}")


if __name__ == "__main__":
    main()
