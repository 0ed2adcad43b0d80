"""Report stages, progress and previews of a flow when the device has computed them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from diffedit.algorithm.plan import EditPlan
from diffedit.stage_timer import StageTimer
from engine.buffers import to_host
from engine.flow_handle import FlowHandle
from engine.rows import Flow

T = TypeVar("T")
Callback = Callable[[str, int, int], None]
"""`callback(stage, done, total)`: stage is "mask", "encode" or "decode"; `done` of `total` rows of
the denoiser are finished. The last call has done == total. It is called on the engine thread and
must not wait for an edit."""
PreviewCallback = Callable[[Tensor, Tensor], None]
"""`on_preview(latent, x0)`: called on the engine thread after each decoding step. `latent` is the
result if decoding ended at this step, `x0` the photograph's latent; both are float32 [C, h, w]
copies on the CPU."""


class Progress:
    """The progress of one flow along its plan.

    A flow runs ahead of the device. Its events, such as the start of a stage, are held back until
    the device has finished all rows that the flow yielded before them.

    Args:
        plan: has the total number of rows.
        timer: the current stage.
        denoiser: the network whose rows are counted.
        callback, preview: see `Callback` and `PreviewCallback`.
    """

    def __init__(
        self,
        plan: EditPlan,
        timer: StageTimer,
        denoiser: str,
        callback: Callback | None,
        preview: PreviewCallback | None,
    ) -> None:
        self._plan, self._timer, self._denoiser = plan, timer, denoiser
        self._callback, self._preview = callback, preview
        self._yielded = self._finished = 0
        self._announced: deque[tuple[int, Callable[[], None]]] = deque()

    def on_stage(self, stage: str) -> None:
        """The flow begins a stage."""
        self._announce(partial(self._timer.start, stage))

    def on_preview(self, latent: Tensor, x0: Tensor) -> None:
        """The flow has taken a decoding step."""
        if self._preview is not None:
            self._announce(partial(self._preview, to_host(latent), to_host(x0)))

    def around(self, flow: Flow[T], copy: Callable[[T], T]) -> Flow[T]:
        """Wrap a flow: count its rows and pass its result through `copy`.

        The last report is always 100 %, because a flow may need fewer rows than its plan: if the
        mask is empty, or another edit has extended the same trajectory.
        """
        answers: Any = None
        try:
            while True:
                rows = flow.send(answers)
                self._yielded += len(rows)
                answers = yield rows
        except StopIteration as stop:
            result: T = copy(stop.value)
        finally:
            flow.close()
        self._announce(self._end)
        return result

    def report(self, handle: FlowHandle[Any]) -> None:
        """The device has finished a call with rows of the flow."""
        self._finished = handle.rows.total()
        if self._timer.stage:
            self._call_back(min(handle.rows[self._denoiser], self._plan.rows))
        while self._announced and self._announced[0][0] <= self._finished:
            self._announced.popleft()[1]()

    def _announce(self, action: Callable[[], None]) -> None:
        if self._yielded <= self._finished:  # before the first call
            action()
        else:
            self._announced.append((self._yielded, action))

    def _end(self) -> None:
        self._timer.stop()
        self._call_back(self._plan.rows)

    def _call_back(self, done: int) -> None:
        if self._callback is not None:
            self._callback(self._timer.stage, done, self._plan.rows)
