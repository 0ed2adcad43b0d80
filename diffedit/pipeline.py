"""`DiffEditPipeline`: a checkpoint, a backend and a batcher behind the Python API.

It turns requests into tasks (pictures to tensors, texts to token ids), submits their flows, and
turns what comes back into pictures. The algorithm is in `diffedit.edit`, the runtime in `engine`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit import edit as flows
from diffedit import images
from diffedit.backends import choose
from diffedit.cache import TensorCache
from diffedit.hub import find_checkpoint
from diffedit.prompts import Tokenizer
from diffedit.request import EditRequest, EditResult, InvalidRequest, Stats
from diffedit.schedule import Schedule
from engine.backends import Networks
from engine.batching import Batcher, Job
from engine.rows import Flow
from engine.spec import Checkpoint, Precision, Size

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

T = TypeVar("T")
Callback = Callable[[str, int, int], None]
"""`callback(stage, done, total)`: stage "mask", "encode" or "decode"; UNet rows done and in all."""
BackendName = Literal["auto", "torch", "onnxruntime", "tensorrt"]

TEXT_CACHE_BYTES = 64 * 2**20
PATH_CACHE_BYTES = 512 * 2**20


class FoundMask(NamedTuple):
    """heatmap float32 [h, w] in [0, 1]; latent_mask bool [h, w]; mask PIL L at the input's size."""

    heatmap: NDArray[np.float32]
    latent_mask: NDArray[np.bool_]
    mask: Image


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
        self._sizes = (size,) if size else networks.sizes
        self._tokenizer = Tokenizer(checkpoint.folder / "tokenizer", checkpoint.tokens)
        self._caches = flows.Caches(TensorCache(TEXT_CACHE_BYTES), TensorCache(PATH_CACHE_BYTES))
        self._schedules: dict[int, Schedule] = {}

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
            compile: torch backend: compile UNet and VAE (slow to start, faster after).
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

    def submit(self, request: EditRequest, *, callback: Callback | None = None) -> Pending:
        """Start an edit and return at once; edits under way share network calls."""
        ready = self._prepare(request)
        flow = flows.edit(ready.task, ready.schedule, self._caches)
        return Pending(self, ready, self._start(flow, ready, callback))

    def edit_many(
        self, requests: Iterable[EditRequest], *, in_flight: int = 8, return_errors: bool = False
    ) -> Iterator[EditResult]:
        """Edit any number of requests, sharing calls; results come in order.

        Args:
            requests: consumed as results are taken, `in_flight` ahead.
            return_errors: yield a request's exception in its place instead of raising it.
        """
        pending: deque[Pending | Exception] = deque()
        waiting = iter(requests)
        try:
            while True:
                while len(pending) < in_flight and (request := next(waiting, None)) is not None:
                    pending.append(_caught(self.submit, request, return_errors))
                if not pending:
                    return
                first = pending.popleft()
                yield first if isinstance(first, Exception) else _caught(  # type: ignore[misc]
                    first.result, None, return_errors
                )
        finally:
            for left in pending:
                if isinstance(left, Pending):
                    left.cancel()

    def generate_mask(
        self, image: Any, prompt: str, source_prompt: str = "", *,
        callback: Callback | None = None, **options: Any,
    ) -> FoundMask:
        """Step 1 alone: where the two texts disagree. Options as in `EditRequest`."""
        ready = self._prepare(_request(image, prompt, source_prompt, "", options))
        flow = flows.mask_only(ready.task, ready.schedule, self._caches)
        edited = _wait(self._start(flow, ready, callback))
        mask = edited.mask.cpu().numpy()
        picture = self._mask_picture(ready, mask)
        return FoundMask(edited.heatmap.cpu().numpy(), mask, picture)

    def invert(
        self, image: Any, num_inference_steps: int = 50, strength: float = 0.8, *,
        callback: Callback | None = None,
    ) -> Tensor:
        """Step 2 alone: float32 [d + 1, C, h, w] on the CPU, index 0 = x_0."""
        options = {"num_inference_steps": num_inference_steps, "strength": strength}
        ready = self._prepare(_request(image, "-", "", "", options))
        flow = flows.encode_only(ready.task, ready.schedule, self._caches)
        return _wait(self._start(flow, ready, callback)).cpu()

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

    # -- between pictures and tensors -----------------------------------------------------------

    def _prepare(self, request: EditRequest) -> _Ready:
        photo = images.load(request.image)
        checkpoint, device = self.checkpoint, self.networks.device
        factor = checkpoint.factor
        size = images.choose_size(
            (photo.height, photo.width), self._sizes, checkpoint.native_size, factor
        )
        array, placement = images.fit(photo, size)
        user_mask = None
        picture = None
        if request.mask_image is not None:
            picture = images.load_mask(request.mask_image, photo.size)
            user_mask = torch.from_numpy(images.latent_mask(picture, placement, factor)).to(device)
        texts = {
            "source": request.source_prompt,
            "prompt": request.prompt,
            "negative": request.negative_prompt,
        }
        ids, warnings = self._tokenizer.ids_of(texts)
        stopwatch = Stopwatch(device)
        task = flows.Task(
            request=request,
            image=torch.from_numpy(array).to(device),
            region=torch.from_numpy(images.region(placement, factor)).to(device),
            source=ids["source"],
            target=ids["prompt"],
            negative=ids["negative"],
            empty=self._tokenizer.ids("")[0],
            user_mask=user_mask,
            image_key=hashlib.sha256(array.tobytes() + repr(placement).encode()).hexdigest(),
            note=stopwatch.note,
        )
        schedule = self._schedule(request.num_inference_steps)
        return _Ready(task, schedule, photo, placement, picture, warnings, stopwatch)

    def _schedule(self, steps: int) -> Schedule:
        if steps not in self._schedules:
            try:
                schedule = Schedule.from_config(self.checkpoint.configs["scheduler"], steps)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
            self._schedules[steps] = schedule
        return self._schedules[steps]

    def _start(self, flow: Flow[T], ready: _Ready, callback: Callback | None) -> Job[T]:
        known = self._caches.paths.get((ready.task.image_key, ready.schedule)) or [None]
        total = flows.expected_rows(ready.task.request, ready.schedule, len(known) - 1)

        def report(job: Job[T]) -> None:
            if callback is not None and ready.stopwatch.stage:
                callback(ready.stopwatch.stage, min(job.rows["unet"], total), total)

        self.batcher.start()
        return self.batcher.submit(flow, expected=total, on_progress=report)

    def _mask_picture(self, ready: _Ready, mask: NDArray[np.bool_]) -> Image:
        """The mask at the photograph's size: the user's own, or the found cells."""
        if ready.picture is not None:
            return ready.picture
        return images.mask_to_photo(mask, ready.placement, self.checkpoint.factor)

    def _finish(self, ready: _Ready, job: Job[flows.Edited]) -> EditResult:
        edited = _wait(job)
        mask = edited.mask.cpu().numpy()
        request, warnings = ready.task.request, list(ready.warnings)
        picture = self._mask_picture(ready, mask)
        if not mask.any():
            warnings.append(_nothing_found(ready.task))
        if edited.image is None:
            image = ready.photo.copy()
        else:
            image = images.to_photo(edited.image.float().cpu().numpy(), ready.placement)
            if request.composite:
                image = images.composite(ready.photo, image, picture)
        return EditResult(
            image=image,
            mask=picture,
            heatmap=edited.heatmap.float().cpu().numpy(),
            latent_mask=mask,
            latents=edited.latents.float().cpu().numpy(),
            stats=Stats(dict(job.rows), dict(job.calls), ready.stopwatch.seconds()),
            seed=request.seed,
            warnings=tuple(warnings),
        )


@dataclass(frozen=True)
class Pending:
    """An edit under way."""

    _pipeline: DiffEditPipeline
    _ready: _Ready
    _job: Job[flows.Edited]

    def result(self) -> EditResult:
        """Wait for the end. An interrupt (Ctrl-C) while waiting cancels the edit."""
        return self._pipeline._finish(self._ready, self._job)

    def cancel(self) -> None:
        """Ask for the end: within one network call, `result` raises Cancelled."""
        self._job.cancel()

    @property
    def done(self) -> bool:
        return self._job.over


class Stopwatch:
    """When each stage began: wall time on a CPU, events in the stream on a GPU (no sync)."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._began = time.perf_counter()
        self._marks: list[tuple[str, Any]] = []

    @property
    def stage(self) -> str:
        return self._marks[-1][0] if self._marks else ""

    def note(self, stage: str) -> None:
        mark: Any = time.perf_counter()
        if self._cuda:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self._marks.append((stage, mark))

    def seconds(self) -> dict[str, float]:
        """Seconds per stage and in all; call it once the results were read from the device."""
        now: Any = time.perf_counter()
        total = now - self._began
        if self._cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
            now.synchronize()
        ends = [mark for _, mark in self._marks[1:]] + [now]
        spans = {
            stage: begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
            for (stage, begin), end in zip(self._marks, ends, strict=True)
        }
        return {**spans, "total": total}


@dataclass(frozen=True)
class _Ready:
    """A request with everything that is known before the first network call."""

    task: flows.Task
    schedule: Schedule
    photo: Image
    placement: images.Placement
    picture: Image | None
    warnings: Sequence[str]
    stopwatch: Stopwatch


def _request(
    image: Any, prompt: str, source: str, negative: str, options: dict[str, Any]
) -> EditRequest:
    request = EditRequest.from_parameters(
        image,
        {k: v for k, v in options.items() if k != "mask_image"}
        | {"prompt": prompt, "source_prompt": source, "negative_prompt": negative},
        mask_image=options.get("mask_image"),
    )
    return replace(request)


def _wait(job: Job[T]) -> T:
    try:
        return job.future.result()
    except BaseException:
        job.cancel()  # an interrupt must not leave rows in the queue; a settled job ignores it
        raise


def _caught(call: Callable[..., Any], argument: Any, catch: bool) -> Any:
    try:
        return call(argument) if argument is not None else call()
    except Exception as error:
        if not catch:
            raise
        return error


def _nothing_found(task: flows.Task) -> str:
    if task.user_mask is not None:
        return "The mask image is empty, so the picture is returned as it was."
    if task.source == task.target:
        return (
            "The two texts are the same for the text encoder, so there is nothing to edit: the "
            "picture is returned as it was."
        )
    return (
        "No place was found where the two texts disagree enough; the picture is returned as it "
        "was: name what is there and what should be there more plainly, or pass a mask."
    )
