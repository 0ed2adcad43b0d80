"""`DiffEditPipeline`: a checkpoint, a backend and a batcher behind the Python API.

It submits the flows of requests and waits for them. `diffedit.preprocessor` turns pictures into
tensors, `diffedit.algorithm.edit` is the algorithm, `engine` is the runtime.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from torch import Tensor

from diffedit.algorithm import edit as flows
from diffedit.algorithm.cache import TensorCache
from diffedit.algorithm.inputs import Caches
from diffedit.backend_selection import choose
from diffedit.handle import Callback, EditHandle, FoundMask, wait
from diffedit.preprocessor import PreparedEdit, Preprocessor
from diffedit.request import EditRequest, InvalidRequest
from diffedit.result import EditResult
from engine.backends import Networks
from engine.batcher import Batcher, FlowHandle
from engine.checkpoint import Checkpoint
from engine.hub import find_checkpoint
from engine.netspec import Precision, Size
from engine.rows import Flow

log = logging.getLogger(__name__)

T = TypeVar("T")
BackendName = Literal["auto", "torch", "onnxruntime", "tensorrt"]

TEXT_CACHE_BYTES = 64 * 2**20
PATH_CACHE_BYTES = 512 * 2**20


class DiffEditPipeline:
    """Edits photographs with one checkpoint on one backend. Safe to call from several threads.

    Attributes:
        checkpoint: the model's folder and configs.
        networks: the backend in use; `describe()` says which.
        batcher: the runtime; every request is a job of it.
    """

    def __init__(
        self, checkpoint: Checkpoint, networks: Networks, *, size: Size | None = None, why: str = ""
    ) -> None:
        if size is not None:
            try:
                checkpoint.check_size(size)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
        self.checkpoint = checkpoint
        self.networks = networks
        self.batcher = Batcher(networks)
        self._why = why
        self._preprocessor = Preprocessor(
            checkpoint, (size,) if size else networks.sizes, networks.device
        )
        self._caches = Caches(TensorCache(TEXT_CACHE_BYTES), TensorCache(PATH_CACHE_BYTES))

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        backend: BackendName = "auto",
        engines: str | Path | None = None,
        device: str | None = None,
        dtype: Precision | None = None,
        size: Size | None = None,
        compile: bool = False,
        pin_batch_size: int | None = None,
        revision: str | None = None,
        variant: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> DiffEditPipeline:
        """Open a Stable Diffusion 1.x or 2.x checkpoint in diffusers' format.

        Args:
            model: a folder or a hub id; safetensors only.
            backend: "torch", "onnxruntime", "tensorrt", or "auto": the fastest usable one.
            engines: the folder `make engines` wrote; "onnxruntime" and "tensorrt" need it.
                device: e.g. "cpu", "cuda", "cuda:1"; by default a GPU where there is one.
            dtype: torch backend: "fp32", "bf16" or "fp16"; by default the best one that is safe.
            size: (height, width) in pixels of the picture the networks see; by default the compiled
                size that wastes least, or for torch one of the photograph's aspect.
            compile: torch backend: compile UNet and VAE at their first calls, which then take
                minutes. On a CPU this needs a C++ compiler.
            pin_batch_size: run every call in this one batch size, so that results are equal to the
                bit whatever shares their calls.
            revision, variant, cache_dir, local_files_only: as in diffusers.

        Raises:
            CheckpointError: the model is missing, incomplete, unsafe or of another architecture.
            EngineMismatch: the engines do not fit the model, this machine, or were changed.
        """
        checkpoint = find_checkpoint(
            model,
            revision=revision,
            variant=variant,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        networks, why = choose(
            checkpoint,
            backend=backend,
            engines=Path(engines) if engines is not None else None,
            device=device,
            dtype=dtype,
            compile=compile,
            pin_batch_size=pin_batch_size,
        )
        log.info("backend %s: %s", networks.describe(), why)
        return cls(checkpoint, networks, size=size, why=why)

    def describe(self) -> str:
        """One line: the backend in use, and why it was taken."""
        return self.networks.describe() + (f" ({self._why})" if self._why else "")

    # -- editing --------------------------------------------------------------------------------

    def __call__(
        self,
        image: Any,
        prompt: str,
        source_prompt: str = "",
        negative_prompt: str = "",
        *,
        callback: Callback | None = None,
        **options: Any,
    ) -> EditResult:
        """Edit one photograph: see `EditRequest` for every option and its range.

        `callback(stage, done, total)` is called on the engine's thread after each network call.
        Raises InvalidRequest, NonFiniteError, Cancelled, and what the backend raises.
        """
        request = _request(image, prompt, source_prompt, negative_prompt, options)
        return self.submit(request, callback=callback).result()

    def submit(
        self,
        request: EditRequest,
        *,
        callback: Callback | None = None,
        show: Callable[[Tensor, Tensor], None] | None = None,
        mask_only: bool = False,
    ) -> EditHandle:
        """Start an edit and return at once; edits under way share network calls.

        Args:
            callback: see `__call__`.
            show: called on the engine's thread after each decoding step with the latent that the
                result would be if it ended there, and x_0, both float32 [C, h, w] on the device.
            mask_only: stop once the mask is found; the result's image is then the photograph.
        """
        ready = self._preprocessor.prepare(request, show)
        flow = flows.mask_only if mask_only else flows.edit
        job = self._start(flow(ready.task, ready.schedule, self._caches), ready, callback)
        return EditHandle(self._preprocessor, ready, job)

    @overload
    def edit_many(
        self, requests: Iterable[EditRequest], *, in_flight: int = ...
    ) -> Iterator[EditResult]: ...

    @overload
    def edit_many(
        self, requests: Iterable[EditRequest], *, in_flight: int = ..., return_errors: bool
    ) -> Iterator[EditResult | Exception]: ...

    def edit_many(
        self, requests: Iterable[EditRequest], *, in_flight: int = 8, return_errors: bool = False
    ) -> Iterator[EditResult | Exception]:
        """Edit any number of requests, sharing calls; results come in order.

        Args:
            requests: consumed as results are taken, `in_flight` ahead.
            return_errors: yield a request's exception in its place instead of raising it.
        """

        def attempt(call: Callable[[], T]) -> T | Exception:
            try:
                return call()
            except Exception as error:
                if not return_errors:
                    raise
                return error

        pending: deque[EditHandle | Exception] = deque()
        waiting = iter(requests)
        try:
            while True:
                for request in islice(waiting, in_flight - len(pending)):
                    pending.append(attempt(partial(self.submit, request)))
                if not pending:
                    return
                first = pending.popleft()
                yield first if isinstance(first, Exception) else attempt(first.result)
        finally:
            for left in pending:
                if isinstance(left, EditHandle):
                    left.cancel()

    def generate_mask(
        self,
        image: Any,
        prompt: str,
        source_prompt: str = "",
        *,
        callback: Callback | None = None,
        **options: Any,
    ) -> FoundMask:
        """Step 1 alone: where the two texts disagree. Options as in `EditRequest`."""
        request = _request(image, prompt, source_prompt, "", options)
        found = self.submit(request, callback=callback, mask_only=True).result()
        return FoundMask(found.heatmap, found.latent_mask, found.mask)

    def invert(
        self,
        image: Any,
        num_inference_steps: int = 50,
        strength: float = 0.8,
        *,
        callback: Callback | None = None,
    ) -> Tensor:
        """Step 2 alone: float32 [d + 1, C, h, w] on the CPU, index 0 = x_0."""
        options = {"num_inference_steps": num_inference_steps, "strength": strength}
        ready = self._preprocessor.prepare(_request(image, "-", "", "", options))
        flow = flows.encode_only(ready.task, ready.schedule, self._caches)
        return wait(self._start(flow, ready, callback)).cpu()

    def cache_clear(self) -> None:
        """Forget embeddings and trajectories."""
        self._caches.texts.clear()
        self._caches.paths.clear()

    def close(self) -> None:
        """Cancel what is under way and release the networks."""
        self.batcher.close()
        self.cache_clear()

    def __enter__(self) -> DiffEditPipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(
        self, flow: Flow[T], ready: PreparedEdit, callback: Callback | None
    ) -> FlowHandle[T]:
        known = self._caches.paths.get((ready.task.image_key, ready.schedule)) or [None]
        total = flows.expected_rows(ready.task.request, ready.schedule, len(known) - 1)

        def report(job: FlowHandle[T]) -> None:
            if callback is not None and ready.stopwatch.stage:
                callback(ready.stopwatch.stage, min(job.rows["unet"], total), total)

        self.batcher.start()
        return self.batcher.submit(flow, on_progress=report)


def _request(
    image: Any, prompt: str, source: str, negative: str, options: dict[str, Any]
) -> EditRequest:
    return EditRequest.from_parameters(
        image,
        {k: v for k, v in options.items() if k != "mask_image"}
        | {"prompt": prompt, "source_prompt": source, "negative_prompt": negative},
        mask_image=options.get("mask_image"),
    )
