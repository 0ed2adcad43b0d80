"""Report the progress of a flow along its plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from diffedit.algorithm.plan import EditPlan
from diffedit.stage_timer import StageTimer
from engine.flow_handle import FlowHandle
from engine.rows import Flow

T = TypeVar("T")
Callback = Callable[[str, int, int], None]
"""`callback(stage, done, total)`: stage is "mask", "encode" or "decode"; `done` of `total` rows of
the denoiser were answered. The last call has done == total. Called on the engine thread."""


@dataclass(frozen=True)
class Progress:
    """The progress of one flow.

    Attributes:
        plan: the rows in all.
        timer: the current stage.
        denoiser: the network whose rows are counted.
        callback: see `Callback`.
    """

    plan: EditPlan
    timer: StageTimer
    denoiser: str
    callback: Callback

    def report(self, handle: FlowHandle[Any]) -> None:
        """Call back with the rows answered so far, once the first stage has begun."""
        if self.timer.stage:
            done = min(handle.rows[self.denoiser], self.plan.rows)
            self.callback(self.timer.stage, done, self.plan.rows)

    def around(self, flow: Flow[T]) -> Flow[T]:
        """`flow`, with a last report of 100 %: an empty mask or a trajectory that another edit
        extended needs fewer rows than the plan."""
        result = yield from flow
        self.callback(self.timer.stage, self.plan.rows, self.plan.rows)
        return result
