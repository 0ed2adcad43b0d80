"""What goes into an edit's flow and what comes out: a request made ready, and its answer.

Tensors and token ids only: no picture, no text, no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from torch import Tensor

from diffedit.algorithm.cache import TensorCache
from diffedit.algorithm.schedule import Schedule
from diffedit.request import EditRequest

Ids = tuple[int, ...]


class Path(list[Tensor]):
    """A trajectory, x_0 first, that all edits of one image under way lengthen together."""


@dataclass(frozen=True)
class Caches:
    """What edits leave for one another: embeddings by token ids, trajectories by image and grid.

    `live` has the trajectories that edits are working on at this moment, for as long as they do; it
    belongs to the thread that runs the flows.
    """

    texts: TensorCache[Ids]
    paths: TensorCache[tuple[str, Schedule]]
    live: WeakValueDictionary[tuple[str, Schedule], Path] = field(
        default_factory=WeakValueDictionary
    )

    def path_of(self, task: EditInputs, schedule: Schedule) -> Path:
        """The trajectory of a task's image, as far as anybody knows it; empty at first."""
        key = task.image_key, schedule
        path = self.live.get(key)
        if path is None:
            path = self.live[key] = Path(self.paths.get(key) or ())
        return path

    def keep(
        self,
        task: EditInputs,
        schedule: Schedule,
        path: Sequence[Tensor],
        text: Mapping[Ids, Tensor] | None = None,
    ) -> None:
        """Keep the trajectory of a task's image and its texts, once they are known to be finite."""
        self.paths.put((task.image_key, schedule), path)
        for ids, embedding in (text or {}).items():
            self.texts.put(ids, [embedding])


@dataclass(frozen=True)
class EditInputs:
    """A request made ready: pictures are tensors on the device, texts are token ids.

    Attributes:
        request: the numbers, already checked.
        image: float32 [3, H, W] in [-1, 1].
        region: bool [h, w], true where a latent cell shows the photograph.
        source, target, negative, empty: token ids.
        user_mask: bool [h, w] or None.
        image_key: identifies `image`, for the trajectory cache.
        note: called with "mask", "encode" or "decode" as each stage begins.
        show: where somebody watches: called after each decoding step with what the result would be
            if it ended here, and with x_0, both float32 [C, h, w] on the device.
    """

    request: EditRequest
    image: Tensor
    region: Tensor
    source: Ids
    target: Ids
    negative: Ids
    empty: Ids
    user_mask: Tensor | None
    image_key: str
    note: Callable[[str], None] = lambda stage: None
    show: Callable[[Tensor, Tensor], None] | None = None


@dataclass(frozen=True)
class EditOutputs:
    """What a flow returns, on the device.

    Attributes:
        latents: y_0, float32 [C, h, w].
        heatmap: float32 [h, w] in [0, 1].
        mask: bool [h, w].
        image: float32 [3, H, W], or None where the mask is empty and the input is the answer.
    """

    latents: Tensor
    heatmap: Tensor
    mask: Tensor
    image: Tensor | None
