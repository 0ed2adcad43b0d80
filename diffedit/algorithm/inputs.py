"""The inputs and outputs of an edit's flow: tensors and token ids instead of pictures and texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from diffedit.algorithm.cache import Conditioning, TextIds
from diffedit.request import EditRequest
from engine.models import NetworkNames
from engine.rows import Answer

Condition = Callable[[TextIds, Sequence[Answer]], Conditioning]


@dataclass(frozen=True)
class EditInputs:
    """A preprocessed request: pictures are tensors on the device, texts are token ids.

    Attributes:
        request: the options, already checked.
        networks: the names of the model's networks.
        image: float32 [3, H, W] in [-1, 1].
        region: bool [h, w], true where a latent cell shows the photograph.
        source, target, negative, empty: token ids.
        more: (source, target) of each further edit of the same pass.
        condition: the outputs of the text networks for one text -> its conditioning.
        unguided, guided: the denoiser's inputs after the conditioning; `guided` while decoding.
        source_guided: the same as `guided` at the guidance of the source text; FlowEdit's.
        embeds_guidance: the denoiser takes the guidance scale as an input.
        user_mask: bool [h, w] or None.
        user_levels: float32 [h, w] in [0, 1]: how much each cell of a soft user mask may change; 0
            outside `user_mask`. None if the mask is black and white.
        image_key: identifies `image`, for the trajectory cache.
        focus: the found mask, bool [h, w] -> the inputs of a window around it, with the mask as
            `user_mask`, or None to go on with the whole picture. Called on the engine thread.
        on_stage: called with "mask", "encode" or "decode" when a stage begins.
        on_preview: called after each decoding step with the result's latent if decoding ended
            here, and with x_0; both float32 [C, h, w] on the device. Copy them to keep them.
    """

    request: EditRequest
    networks: NetworkNames
    image: Tensor
    region: Tensor
    source: TextIds
    target: TextIds
    negative: TextIds
    empty: TextIds
    condition: Condition
    user_mask: Tensor | None
    image_key: str
    more: tuple[tuple[TextIds, TextIds], ...] = ()
    user_levels: Tensor | None = None
    unguided: tuple[Tensor, ...] = ()
    guided: tuple[Tensor, ...] = ()
    source_guided: tuple[Tensor, ...] = ()
    embeds_guidance: bool = False
    focus: Callable[[Tensor], EditInputs | None] | None = None
    on_stage: Callable[[str], None] = lambda stage: None
    on_preview: Callable[[Tensor, Tensor], None] | None = None

    @property
    def pairs(self) -> tuple[tuple[TextIds, TextIds], ...]:
        """(source, target) of every edit."""
        return ((self.source, self.target), *self.more)

    def texts(self, name: str) -> list[TextIds]:
        """The token ids of a name of `EditPlan.texts`, for every edit."""
        if name in ("source", "target"):
            return [pair[name == "target"] for pair in self.pairs]
        return [getattr(self, name)]


@dataclass(frozen=True)
class EditOutputs:
    """The result of a flow, on the device.

    Attributes:
        latents: y_0, float32 [C, h, w]; with focus, of the window, as `image`.
        heatmap: float32 [h, w] in [0, 1]; of several edits the maximum.
        mask: bool [h, w]; of several edits, the cells of any.
        image: float32 [3, H, W]; None if the mask is empty and the input is the result.
        parts: (heatmap, mask) of each of several edits; the masks do not overlap. Else empty.
    """

    latents: Tensor
    heatmap: Tensor
    mask: Tensor
    image: Tensor | None
    parts: tuple[tuple[Tensor, Tensor], ...] = ()
