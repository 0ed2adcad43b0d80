"""`DiffEditPipeline`: a checkpoint, a backend and a batcher behind the Python API."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast, overload

from torch import Tensor

from diffedit.arguments import BackendName, check_finds_mask, check_size, checked_arguments
from diffedit.backend_selection import Choice, open_backend
from diffedit.dtypes import DTypes, check_parts
from diffedit.edit_many import edit_many
from diffedit.flow_runner import FlowRunner
from diffedit.handle import EditHandle, wait
from diffedit.notices import Notice
from diffedit.postprocessor import Postprocessor
from diffedit.preprocessor import Preprocessor
from diffedit.presets import DEFAULT_PRESET, PresetName, resolve
from diffedit.progress import Callback, PreviewCallback
from diffedit.provenance import Provenance
from diffedit.request import EditRequest, MaskCleaning
from diffedit.result import EditResult, FoundMask
from diffedit.soft_map import refine, refine_options
from engine.backends import Networks
from engine.batcher import Batcher
from engine.checkpoint import Checkpoint
from engine.derived.additions import Additions, logged
from engine.hub import find_checkpoint
from engine.models.distilling_lora import distilling_warning
from engine.netspec import Size
from engine.warm_up import Costs, run_warm_up

log = logging.getLogger(__name__)


class DiffEditPipeline:
    """Edits photographs with one checkpoint on one backend. Safe to call from several threads.

    Attributes:
        checkpoint: the model's folder, family and configs.
        networks: the backend in use; see `describe()`.
        batcher: the runtime, which runs the flows of all requests.
        costs: how long network calls take; empty before `warm_up`.
        warnings: sentences about what was opened, such as that the engines are not used. Every
            result repeats them.
        provenance: the model, what is fused into it, the backend, its precision and CPU kernels.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        networks: Networks,
        *,
        size: Size | None = None,
        reason: str = "",
        warnings: tuple[Notice, ...] = (),
    ) -> None:
        check_size(checkpoint, size)
        self.checkpoint = checkpoint
        self.networks = networks
        self.batcher = Batcher(networks)
        self.costs: Costs = {}
        self.warnings = warnings
        self._reason = reason
        sizes = (size,) if size else networks.sizes
        self._sizes = sizes or ((checkpoint.family.native_size,) * 2,)
        self.provenance = Provenance.of(checkpoint, networks)
        self._preprocessor = Preprocessor(checkpoint, sizes, networks.device, warnings)
        self._postprocessor = Postprocessor(checkpoint.names.denoiser, self.provenance)
        self._runner = FlowRunner(self.batcher, checkpoint.names.denoiser)

    @classmethod
    @checked_arguments
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        backend: BackendName = "auto",
        engines: str | Path | None = None,
        device: str | None = None,
        dtype: DTypes | str | None = None,
        size: Size | None = None,
        compile: bool = False,
        pin_batch_size: int | None = None,
        allow_tf32: bool = False,
        offload_text: bool = False,
        ignore_memory: bool = False,
        lora: Sequence[str | Path | tuple[str | Path, float]] = (),
        base: str | Path | None = None,
        prediction_type: str | None = None,
        vae: str | Path | None = None,
        embeddings: Sequence[str | Path | tuple[str | Path, str]] = (),
        clip_skip: int = 0,
        scheduler: str | None = None,
        warm: bool = False,
        on_progress: Callback | None = None,
        revision: str | None = None,
        variant: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> DiffEditPipeline:
        """Open a checkpoint; docs/models.md lists the families and kinds of files.

        Args:
            model: a folder in diffusers' format, a single .safetensors file, which is converted
                once into the cache, or a hub id. Pickles are not opened.
            backend: "torch", "onnxruntime", "tensorrt", or "auto" for the fastest usable one. With
                `engines`, "auto" never runs other weights: if the engines cannot run here and
                contain a LoRA or belong to another model, it raises EngineMismatch instead of
                using PyTorch.
            engines: the folder that `make engines` wrote; needed by "onnxruntime" and "tensorrt".
            device: such as "cpu", "cuda" or "cuda:1"; by default a GPU if there is one.
            dtype: torch backend only: "fp32", "bf16" or "fp16"; by default the fastest one that
                is safe on the device. For single parts: {"default": "fp16", "text_encoder_3":
                "bf16"}, or "fp16,text_encoder_3=bf16".
            size: (height, width) in pixels of the networks' canvas; by default the compiled size
                with the least padding, or for torch one of the photograph's aspect.
            compile: torch backend only: compile the denoiser and the VAE at their first calls,
                which then take minutes. On a CPU this needs a C++ compiler.
            pin_batch_size: fix the batch size of every call, so that results do not depend on
                other requests in the batch.
            allow_tf32: on a GPU, let torch and onnxruntime compute what is fp32 in TF32: faster,
                with 10 bits of precision instead of 23. TensorRT engines are built without it.
            offload_text: torch backend only: load each text encoder when a text is encoded, and
                unload it before another network runs. Saves memory and costs time for new texts.
            ignore_memory: load the weights even if they are larger than the free memory.
            lora: LoRA files, each alone or as (file, scale), or a dict of them; the scale is 1 by
                default. PyTorch fuses them when it loads the model; engines must have been built
                with the same LoRAs.
            base: for a single file: a folder or hub id with the parts that the file lacks, such as
                the text encoders of FLUX.
            prediction_type: for a single file: what its U-Net predicts, "epsilon" or
                "v_prediction"; by default what the file states, or the usual value for its model.
            vae: another VAE: a folder or a single .safetensors file.
            embeddings: textual inversions: .safetensors files, each alone or as (file, token). By
                default the token is the one that the file states, or the file's name.
            clip_skip: number of last CLIP layers to skip, in addition to those that the model skips
                anyway. It applies to every text; in diffusers it applies to the prompt only.
            scheduler: with a LoRA that distils the model to a few steps: "lcm", "tcd", or
                "trailing" (Lightning, Hyper-SD, Turbo). The defaults are then 4 steps without
                guidance, at the timesteps that such LoRAs know.
            warm: also call `warm_up`, which finds engines that do not run on this machine: "auto"
                then uses PyTorch, and any other backend raises EngineMismatch.
            on_progress: called as `on_progress(text, done, total)` while a file is converted.
            revision: branch, tag or commit of a hub id.
            variant: of the weight files, such as "fp16".
            cache_dir: folder of downloads; by default the hub's.
            local_files_only: never download.

        Raises:
            InvalidRequest: an unknown backend, device or dtype, or an impossible size.
            CheckpointError: the model is missing, incomplete, unsafe or of another family.
            EngineMismatch: the engines do not fit the model or this machine, or were changed.
            ResourceError: the weights do not fit into the memory that is free.
        """
        checkpoint = find_checkpoint(
            model,
            additions=Additions(
                base,
                prediction_type,
                Path(vae) if vae is not None else None,
                cast("tuple[tuple[Path, str | None], ...]", embeddings),  # by `checked_arguments`
                clip_skip,
                scheduler,
            ),
            report=on_progress or logged,
            revision=revision,
            variant=variant,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        check_size(checkpoint, size)  # before the weights are loaded
        check_parts(checkpoint, cast("DTypes | None", dtype))
        return open_backend(
            checkpoint,
            partial(cls._ready, checkpoint, size, warm),
            backend=backend,
            engines=Path(engines) if engines is not None else None,
            device=device,
            dtype=cast("DTypes | None", dtype),  # by `checked_arguments`
            offload_text=offload_text,
            ignore_memory=ignore_memory,
            compile=compile,
            pin_batch_size=pin_batch_size,
            allow_tf32=allow_tf32,
            lora=cast("Sequence[tuple[Path, float]]", lora),  # by `checked_arguments`
        )

    @classmethod
    @checked_arguments
    def from_single_file(cls, path: str | Path, **options: Any) -> DiffEditPipeline:
        """Open a checkpoint in a single file, as model sites distribute them.

        The same as `from_pretrained`, which describes the options and errors.

        Args:
            path: a .safetensors file.
        """
        return cls.from_pretrained(path, **options)

    @classmethod
    def _ready(
        cls,
        checkpoint: Checkpoint,
        size: Size | None,
        warm: bool,
        networks: Networks,
        choice: Choice,
    ) -> DiffEditPipeline:
        """Create the pipeline on an opened backend. Closes the backend if this fails."""
        try:
            log.info("backend %s: %s", networks.describe(), choice.reason)
            loras = [Path(file.path) for file in networks.details().loras]
            named = distilling_warning(loras, checkpoint.family)
            lora_notice = Notice("distilling_lora", named) if named else None
            warnings = tuple(notice for notice in (choice.warning, lora_notice) if notice)
            pipeline = cls(checkpoint, networks, size=size, reason=choice.reason, warnings=warnings)
        except BaseException:
            networks.close()
            raise
        try:
            if warm:
                pipeline.warm_up()
        except BaseException:
            pipeline.close()
            raise
        return pipeline

    def warm_up(self) -> Costs:
        """Load every network, run each of its batch sizes once, and measure the calls.

        Uses the pipeline's size, the compiled sizes, or the model's native size. Takes seconds; see
        `engine.warm_up`.

        Returns: (network, size) -> rows in the call -> seconds.

        Raises:
            EngineMismatch: an engine cannot be loaded, or does not run on this machine.
        """
        self.batcher.start()
        self.costs = run_warm_up(self.batcher, self.checkpoint.kinds(self._sizes))
        return self.costs

    def describe(self) -> str:
        """One line: the backend in use, and why it was chosen."""
        return self.networks.describe() + (f" ({self._reason})" if self._reason else "")

    @checked_arguments
    def __call__(
        self,
        image: Any,
        prompt: str = "",
        source_prompt: str = "",
        negative_prompt: str = "",
        *,
        callback: Callback | None = None,
        **options: Any,
    ) -> EditResult:
        """Edit one photograph. `EditRequest` lists every option and its range.

        Args:
            image: PIL image, path, file contents, or uint8 [H, W, 3].
            prompt: what should be there. Leave it out if `edits` has several edits for one pass.
            source_prompt: what is there; empty for the unconditional text.
            negative_prompt: what decoding is guided away from.
            callback: see `diffedit.progress.Callback`.
            options: the other fields of `EditRequest`.

        Raises:
            InvalidRequest: an option or a picture is not valid.
            NonFiniteError: a network returned NaN or infinity.
            Cancelled: the pipeline was closed while the edit was running.
            EngineUnavailable: the pipeline is closed or has failed, the process was forked, or a
                callback of another edit made this call.
        """
        request = _request(image, prompt, source_prompt, negative_prompt, options)
        return self.submit(request, callback=callback).result()

    @checked_arguments
    def submit(
        self,
        request: EditRequest,
        *,
        callback: Callback | None = None,
        on_preview: PreviewCallback | None = None,
        mask_only: bool = False,
        group: str | None = None,
    ) -> EditHandle:
        """Start an edit and return its handle immediately. Running edits share network calls.

        Args:
            request: the edit.
            callback: see `__call__`.
            on_preview: see `diffedit.progress.PreviewCallback`.
            mask_only: stop when the mask is found; the result's image is then the photograph.
            group: a name, such as that of a customer. Groups with running edits share the device's
                time equally, however many edits each has.

        Raises:
            InvalidRequest: a picture or an argument is not valid.
            EngineUnavailable: the pipeline is closed or has failed, or the process was forked.
        """
        if mask_only:
            check_finds_mask(request)
        self.batcher.check()
        prepared = self._preprocessor.prepare(request)
        if mask_only:
            handle = self._runner.find_mask(prepared, callback, group)
        else:
            handle = self._runner.edit(prepared, callback, on_preview, group)
        return EditHandle(self._postprocessor, prepared, handle)

    @checked_arguments
    def resolve(self, request: EditRequest) -> EditRequest:
        """Return the request with the defaults of its preset and of this model filled in.

        Raises:
            InvalidRequest: an option contradicts the model, such as FlowEdit with a U-Net.
        """
        return resolve(request, self.checkpoint.family.defaults)

    @overload
    def edit_many(
        self, requests: Iterable[EditRequest], *, in_flight: int = ...
    ) -> Iterator[EditResult]: ...

    @overload
    def edit_many(
        self, requests: Iterable[EditRequest], *, in_flight: int = ..., return_errors: bool
    ) -> Iterator[EditResult | Exception]: ...

    @checked_arguments
    def edit_many(
        self, requests: Iterable[EditRequest], *, in_flight: int = 8, return_errors: bool = False
    ) -> Iterator[EditResult | Exception]:
        """Edit any number of requests, which share network calls. Yields results in order.

        Args:
            requests: any iterable; it is read `in_flight` requests ahead of the results.
            in_flight: how many edits run at the same time. 1 to 100000.
            return_errors: yield the exception of a failed request instead of raising it.

        Raises:
            InvalidRequest: an argument is not valid. An edit raises the errors of `__call__`.
        """
        return edit_many(self.submit, requests, in_flight=in_flight, return_errors=return_errors)

    @checked_arguments
    def generate_mask(
        self,
        image: Any,
        prompt: str,
        source_prompt: str = "",
        *,
        callback: Callback | None = None,
        **options: Any,
    ) -> FoundMask:
        """Find the mask of an edit (step 1 of the paper) without making the edit.

        Args:
            image: PIL image, path, file contents, or uint8 [H, W, 3].
            prompt: what should be there.
            source_prompt: what is there; empty for the unconditional text.
            callback: see `diffedit.progress.Callback`.
            options: the other fields of `EditRequest`.

        Raises:
            InvalidRequest: an option or a picture is not valid, or the method has no mask.
        """
        request = _request(image, prompt, source_prompt, "", options)
        found = self.submit(request, callback=callback, mask_only=True).result()
        return FoundMask(
            found.heatmap, found.latent_mask, found.mask, found.warnings, found.soft_map
        )

    @checked_arguments
    def refine(
        self,
        found: EditResult | FoundMask,
        *,
        threshold: float | None = None,
        grow: int | None = None,
        cleaning: MaskCleaning | None = None,
        blur: float | None = None,
        invert: bool | None = None,
        feather: float | None = None,
    ) -> FoundMask:
        """Make another mask from the heatmap of an earlier one, in milliseconds: no network runs.

        Pass its `mask` to the next edit as `mask_image`. Options that are left out keep the value
        of `found`.

        Args:
            found: the result of `generate_mask`, of an edit, or of this function.
            threshold: cells with a higher value of the heatmap are edited. 0 to 0.99.
            grow: cells by which the mask is enlarged. 0 to 64.
            cleaning: as `EditRequest.mask_cleaning`.
            blur: standard deviation of the blur before the threshold, in cells; with cleaning.
                0 to 16.
            invert: edit the rest of the photograph.
            feather: width of the fade of `blend_mask`, as `EditRequest.mask_feather`. 0 to 0.25.

        Raises:
            InvalidRequest: an option is out of range, or the mask was not computed.
        """
        numbers = {"threshold": threshold, "grow": grow, "blur": blur, "feather": feather}
        options = refine_options({**numbers, "cleaning": cleaning, "invert": invert})
        return refine(found, options)

    @checked_arguments
    def invert(
        self,
        image: Any,
        num_inference_steps: int | None = None,
        strength: float | None = None,
        *,
        preset: PresetName = DEFAULT_PRESET,
        inversion_stride: int | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Encode a photograph by DDIM inversion (step 2 of the paper) without editing it.

        Args:
            image: PIL image, path, file contents, or uint8 [H, W, 3].
            num_inference_steps: as in `EditRequest`.
            strength: as in `EditRequest`.
            preset: as in `EditRequest`.
            inversion_stride: as in `EditRequest`.
            callback: see `diffedit.progress.Callback`.

        Returns: the latents x_0 to x_d, float32 [d + 1, C, h, w] on the CPU.

        Raises:
            InvalidRequest: an option or a picture is not valid.
        """
        steps = {"num_inference_steps": num_inference_steps, "strength": strength}
        own = {"inversion_stride": inversion_stride, "preset": preset, "method": "diffedit"}
        options = {**steps, **own}
        request = _request(image, "-", "", "", options)
        self.batcher.check()
        return wait(self._runner.invert(self._preprocessor.prepare(request), callback))

    def cache_clear(self) -> None:
        """Drop cached embeddings and trajectories."""
        self._runner.cache_clear()

    def close(self) -> None:
        """Cancel running edits and release the networks. Waits for the running network call.

        A pipeline that is deleted without `close` finishes its edits first and then releases the
        networks.

        Raises:
            EngineUnavailable: a callback of an edit made this call.
        """
        self.batcher.close()
        self.cache_clear()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Raise TypeError: a thread and a device belong to a pipeline."""
        raise TypeError(
            "A DiffEditPipeline cannot be pickled or copied, because its thread and its weights "
            "belong to this process: threads may share it, and every other process must open its "
            "own with from_pretrained. EditRequest and EditResult can be sent between processes."
        )

    def __enter__(self) -> DiffEditPipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _request(
    image: Any, prompt: str, source: str, negative: str, options: dict[str, Any]
) -> EditRequest:
    mask_image = options.pop("mask_image", None)
    texts = {"prompt": prompt, "source_prompt": source, "negative_prompt": negative}
    return EditRequest.from_parameters(image, options | texts, mask_image=mask_image)
