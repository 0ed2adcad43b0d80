"""`EditHandle`: a submitted edit, its result, cancellation and previews."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffedit.algorithm.inputs import EditOutputs
from diffedit.imaging.geometry import Placement
from diffedit.postprocessor import Postprocessor
from diffedit.prepared_edit import PreparedEdit
from diffedit.request import EditRequest
from diffedit.result import EditResult
from engine.buffers import to_host
from engine.flow_handle import FlowHandle

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


@dataclass(frozen=True)
class EditHandle:
    """A submitted edit, or a submitted search for a mask."""

    _postprocessor: Postprocessor
    _prepared: PreparedEdit
    _flow: FlowHandle[EditOutputs]

    def result(self) -> EditResult:
        """Wait for the result. An interrupt (Ctrl-C) while waiting cancels the edit.

        Every call returns new pictures and arrays.

        Raises:
            Cancelled: the edit was cancelled, or the pipeline was closed.
            NonFiniteError: a network returned NaN or infinity.
            EngineUnavailable: the pipeline has failed, or the call would block for ever: in a
                callback on the engine thread, or in a forked process.
        """
        outputs = wait(self._flow)
        return self._postprocessor.finish(self._prepared, outputs, self._flow)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Raise TypeError: the edit runs in this process."""
        raise TypeError(
            "An EditHandle cannot be pickled or copied, because the edit runs in this process: "
            "call result() and send the EditResult instead."
        )

    def cancel(self) -> None:
        """Request cancellation. `result` raises Cancelled when the running network call has ended;
        on a GPU, one more call may be queued already."""
        self._flow.cancel()

    @property
    def done(self) -> bool:
        """Whether the networks have finished, failed or were cancelled."""
        return self._flow.done

    @property
    def future(self) -> Future[EditOutputs]:
        """A future with the tensors of the edit on the CPU. It is done when the networks have
        finished; `result` then only makes the pictures."""
        return self._flow.future

    @property
    def canvas(self) -> NDArray[np.float32]:
        """The picture (or window) as the networks see it, float32 [3, H, W] in [-1, 1]."""
        if self._prepared.focus.canvas is not None:
            return self._prepared.focus.canvas.image.copy()
        return self._prepared.inputs.image.float().cpu().numpy().copy()

    @property
    def placement(self) -> Placement:
        """Where the picture is on the canvas."""
        return self._prepared.placement

    @property
    def request(self) -> EditRequest:
        """The request, with every default filled in."""
        return self._prepared.inputs.request

    def render_preview(self, colors: NDArray[np.float32]) -> Image:
        """A preview as RGB, at the networks' resolution and the photograph's aspect.

        Args:
            colors: float32 [h, w, 3] in [-1, 1] on the latent grid.
        """
        return self._postprocessor.render_preview(self._prepared, colors)


def wait(flow: FlowHandle[T]) -> T:
    """Wait for a flow's result. An interrupt cancels the flow."""
    try:
        return flow.future.result()
    except BaseException:
        flow.cancel()  # an interrupt must not leave rows in the queue; a finished flow ignores it
        raise


def outputs_to_host(outputs: EditOutputs) -> EditOutputs:
    """Copy the outputs to the CPU without waiting; `to_host` says when the copies are complete."""
    return EditOutputs(
        latents=to_host(outputs.latents),
        heatmap=to_host(outputs.heatmap),
        mask=to_host(outputs.mask),
        image=None if outputs.image is None else to_host(outputs.image),
        parts=tuple((to_host(heat), to_host(mask)) for heat, mask in outputs.parts),
    )
