"""Blocks for diffusers' modular pipelines: find a mask, and edit inside it.

`DiffEditMaskStep` turns a photograph and two texts into the `mask_image` that the inpainting blocks
of diffusers read. `DiffEditEditStep` is the whole edit, and reads such a mask if there is one.
`DiffEditBlocks` is one after the other.

diffusers loads this file by itself (`ModularPipelineBlocks.from_pretrained`), so it imports nothing
from its own folder. Their blocks are subclasses of one class; there is no other way to make one.
"""

from __future__ import annotations

from typing import Any

from diffusers.modular_pipelines import (
    ComponentSpec,
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    SequentialPipelineBlocks,
)
from PIL import Image

from diffedit import DiffEditPipeline, InvalidRequest

COMPONENT = "diffedit"
MISSING = (
    "The pipeline has no component `diffedit`; add it with "
    "update_components(diffedit=DiffEditPipeline.from_pretrained(...))."
)


def _inputs(options: str) -> list[Any]:
    """The inputs that both steps read."""
    return [
        InputParam("image", type_hint=Image.Image, required=True, description="The photograph."),
        InputParam("prompt", type_hint=str, required=True, description="What it should show."),
        InputParam("source_prompt", type_hint=str, default="", description="What it shows now."),
        InputParam(
            options,
            type_hint=dict,
            description="Further options of `diffedit.EditRequest`, by name.",
        ),
    ]


def _component() -> list[Any]:
    return [ComponentSpec(COMPONENT, DiffEditPipeline, description="The model and what runs it.")]


def _pipeline(components: Any) -> DiffEditPipeline:
    """The component. Raises InvalidRequest without one."""
    pipeline = getattr(components, COMPONENT, None)
    if not isinstance(pipeline, DiffEditPipeline):
        raise InvalidRequest(MISSING)
    return pipeline


def _photograph(image: Any) -> Any:
    """The only image. Raises InvalidRequest for several."""
    if isinstance(image, list | tuple):
        if len(image) != 1:
            raise InvalidRequest(
                f"image is a list of {len(image)} pictures, but a step edits one; run it for each."
            )
        return image[0]
    return image


class DiffEditMaskStep(ModularPipelineBlocks):  # type: ignore[misc]
    """Compute the mask of the region where two texts differ.

    Outputs: `mask_image`, a PIL image in mode L of the photograph's size, 255 where to edit;
    `heatmap`, float32 [h, w] on the latent grid, in [0, 1].
    """

    model_name = None

    @property
    def description(self) -> str:
        """What the step does."""
        return "Computes DiffEdit's mask: the region where the two texts differ."

    @property
    def expected_components(self) -> list[Any]:
        return _component()

    @property
    def inputs(self) -> list[Any]:
        return _inputs("mask_options")

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [
            OutputParam("mask_image", type_hint=Image.Image, description="255 where to edit."),
            OutputParam("heatmap", description="float32 [h, w] on the latent grid, in [0, 1]."),
        ]

    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        """Run the step. Raises InvalidRequest."""
        block = self.get_block_state(state)
        found = _pipeline(components).generate_mask(
            _photograph(block.image),
            block.prompt,
            block.source_prompt or "",
            **(block.mask_options or {}),
        )
        block.mask_image, block.heatmap = found.mask, found.heatmap
        self.set_block_state(state, block)
        return components, state


class DiffEditEditStep(ModularPipelineBlocks):  # type: ignore[misc]
    """Edit a photograph inside a mask, which is computed if none is given.

    Outputs: `images`, a list of one PIL image of the photograph's size, whose pixels outside the
    mask are those of the photograph; `edit_result`, the `diffedit.EditResult` with mask, heatmap,
    parameters and timings.
    """

    model_name = None

    @property
    def description(self) -> str:
        """What the step does."""
        return "DiffEdit: repaint the photograph inside the mask, and keep every other pixel."

    @property
    def expected_components(self) -> list[Any]:
        return _component()

    @property
    def inputs(self) -> list[Any]:
        return [
            *_inputs("edit_options"),
            InputParam("negative_prompt", type_hint=str, default="", description="What to avoid."),
            InputParam("mask_image", type_hint=Image.Image, description="White is edited."),
        ]

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [
            OutputParam("images", type_hint=list, description="The edited photograph."),
            OutputParam("edit_result", description="`diffedit.EditResult`."),
        ]

    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        """Run the step. Raises InvalidRequest."""
        block = self.get_block_state(state)
        mask = {} if block.mask_image is None else {"mask_image": block.mask_image}
        result = _pipeline(components)(
            _photograph(block.image),
            block.prompt,
            block.source_prompt or "",
            block.negative_prompt or "",
            **mask,
            **(block.edit_options or {}),
        )
        block.images, block.edit_result = [result.image], result
        self.set_block_state(state, block)
        return components, state


class DiffEditBlocks(SequentialPipelineBlocks):  # type: ignore[misc]
    """Find the mask, then edit inside it."""

    model_name = None
    block_classes = (DiffEditMaskStep, DiffEditEditStep)
    block_names = ("mask", "edit")

    @property
    def description(self) -> str:
        """What the blocks do."""
        return "DiffEdit: computes the mask, and edits the region inside it."
