"""Run prepared requests: plan them, start their flows, and cache results for later edits.

This module does not read pictures and does not depend on files or backends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from diffedit.algorithm import chordedit, flowedit
from diffedit.algorithm import edit as flows
from diffedit.algorithm.cache import Caches, TensorCache
from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.plan import EditPlan
from diffedit.handle import outputs_to_host
from diffedit.prepared_edit import PreparedEdit
from diffedit.progress import Callback, PreviewCallback, Progress
from engine.batcher import Batcher
from engine.buffers import to_host
from engine.flow_handle import FlowHandle
from engine.rows import Flow

T = TypeVar("T")

EDITS = {"flowedit": flowedit.edit, "chordedit": chordedit.edit}
"""Methods with a flow of their own."""
MASKS = {"chordedit": chordedit.mask_only}
TEXT_CACHE_BYTES = 64 * 2**20
TRAJECTORY_CACHE_BYTES = 512 * 2**20


class FlowRunner:
    """Starts the flows of one pipeline on its batcher. Results are copies on the CPU.

    Args:
        batcher: runs the flows.
        denoiser: the network whose rows progress counts.
    """

    def __init__(self, batcher: Batcher, denoiser: str) -> None:
        self._batcher, self._denoiser = batcher, denoiser
        self._caches = Caches(TensorCache(TEXT_CACHE_BYTES), TensorCache(TRAJECTORY_CACHE_BYTES))

    def edit(
        self,
        prepared: PreparedEdit,
        callback: Callback | None,
        on_preview: PreviewCallback | None,
        group: str | None = None,
    ) -> FlowHandle[EditOutputs]:
        """The whole edit."""
        inputs = prepared.inputs
        known = 0 if inputs.focus is not None else self._known_levels(prepared)
        plan = EditPlan.for_edit(
            inputs.request, prepared.schedule, known, embeds_guidance=inputs.embeds_guidance
        )
        steps = EDITS.get(inputs.request.method, flows.edit)
        return self._start(steps, plan, prepared, outputs_to_host, callback, on_preview, group)

    def find_mask(
        self, prepared: PreparedEdit, callback: Callback | None, group: str | None = None
    ) -> FlowHandle[EditOutputs]:
        """Step 1 alone."""
        plan = EditPlan.for_mask(prepared.inputs.request, prepared.schedule)
        steps = MASKS.get(prepared.inputs.request.method, flows.mask_only)
        return self._start(steps, plan, prepared, outputs_to_host, callback, group=group)

    def invert(self, prepared: PreparedEdit, callback: Callback | None) -> FlowHandle[Tensor]:
        """Step 2 alone: float32 [d + 1, C, h, w], x_0 first."""
        request, known = prepared.inputs.request, self._known_levels(prepared)
        plan = EditPlan.for_inversion(request, prepared.schedule, known)
        return self._start(flows.encode_only, plan, prepared, to_host, callback)

    def cache_clear(self) -> None:
        """Drop cached embeddings and trajectories."""
        self._caches.clear()

    def _known_levels(self, prepared: PreparedEdit) -> int:
        stride = prepared.inputs.request.inversion_stride
        return self._caches.known_levels((prepared.inputs.image_key, prepared.schedule, stride))

    def _start(
        self,
        steps: Callable[[EditInputs, EditPlan, Caches], Flow[T]],
        plan: EditPlan,
        prepared: PreparedEdit,
        copy: Callable[[T], T],
        callback: Callback | None,
        on_preview: PreviewCallback | None = None,
        group: str | None = None,
    ) -> FlowHandle[T]:
        """Submit a flow, reporting its progress along the plan."""
        progress = Progress(plan, prepared.timer, self._denoiser, callback, on_preview)
        preview = progress.on_preview if on_preview else None
        inputs = replace(prepared.inputs, on_stage=progress.on_stage, on_preview=preview)
        flow = progress.around(steps(inputs, plan, self._caches), copy)
        self._batcher.start()
        return self._batcher.submit(flow, on_progress=progress.report, group=group)
