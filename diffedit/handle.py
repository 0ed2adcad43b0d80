"""A request under way: its end, its cancelling, and what can be seen of it before.

It knows the job and what the pictures were made ready with; it starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffedit.algorithm.inputs import EditOutputs
from diffedit.preprocessor import PreparedEdit, Preprocessor
from diffedit.result import EditResult
from engine.batcher import FlowHandle

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
Callback = Callable[[str, int, int], None]
"""`callback(stage, done, total)`: stage "mask", "encode" or "decode"; UNet rows done and in all."""


class FoundMask(NamedTuple):
    """heatmap float32 [h, w] in [0, 1]; latent_mask bool [h, w]; mask PIL L at the input's size."""

    heatmap: NDArray[np.float32]
    latent_mask: NDArray[np.bool_]
    mask: Image


@dataclass(frozen=True)
class EditHandle:
    """An edit, or a mask alone, under way."""

    _preprocessor: Preprocessor
    _ready: PreparedEdit
    _job: FlowHandle[EditOutputs]

    def result(self) -> EditResult:
        """Wait for the end. An interrupt (Ctrl-C) while waiting cancels the edit."""
        edited = wait(self._job)
        return self._preprocessor.finish(self._ready, edited, self._job)

    def cancel(self) -> None:
        """Ask for the end: within one network call, `result` raises Cancelled."""
        self._job.cancel()

    @property
    def done(self) -> bool:
        return self._job.over

    @property
    def future(self) -> Future[EditOutputs]:
        """Resolves when the networks are done; `result` then has only pictures left to make."""
        return self._job.future

    @property
    def canvas(self) -> NDArray[np.float32]:
        """The picture as the networks see it, float32 [3, H, W] in [-1, 1]."""
        return self._ready.task.image.float().cpu().numpy()

    def sketch(self, colours: NDArray[np.float32]) -> Image:
        """A preview, float32 [h, w, 3] in [-1, 1] on the latent grid, as RGB of the photograph's
        aspect and the networks' resolution."""
        return self._preprocessor.sketch(self._ready, colours)


def wait(job: FlowHandle[T]) -> T:
    """A job's result; whoever interrupts the waiting ends the job."""
    try:
        return job.future.result()
    except BaseException:
        job.cancel()  # an interrupt must not leave rows in the queue; a settled job ignores it
        raise
