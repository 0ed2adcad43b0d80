"""Recognize a single-file checkpoint by the names and shapes of its tensors.

Model sites distribute one `.safetensors` file in the layout of the original code: CompVis' LDM,
SGM, SD 3 or FLUX. No weight is read. Standard library only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from engine.errors import CheckpointError
from engine.models.configs import UNET_INPUTS
from engine.models.foreign_files import foreign_kind, quantization
from engine.safetensors_header import Header

UNET = "model.diffusion_model."
VAES = ("first_stage_model.", "vae.")
MARKS = {"joint_blocks.0.": "stable-diffusion-3", "double_blocks.0.": "flux"}
"""Part of a tensor's name -> the transformer family that has it."""
CONTEXT = f"{UNET}input_blocks.{{}}.1.transformer_blocks.0.attn2.to_k.weight"
WIDTHS = {768: "stable-diffusion-1", 1024: "stable-diffusion-2", 2048: "stable-diffusion-xl"}
"""Numbers per token that a U-Net takes -> kind, if the file has no text encoder."""
TITLES = {
    "stable-diffusion-1": "Stable Diffusion 1",
    "stable-diffusion-2": "Stable Diffusion 2",
    "stable-diffusion-xl": "Stable Diffusion XL",
    "stable-diffusion-3": "Stable Diffusion 3",
    "flux-dev": "FLUX.1 dev",
    "flux-schnell": "FLUX.1 schnell",
}
FAMILIES = {
    "stable-diffusion-1": "stable-diffusion",
    "stable-diffusion-2": "stable-diffusion",
    "flux-dev": "flux",
    "flux-schnell": "flux",
}
"""Kind -> name of its family, if they differ."""
TEXT_ENCODERS: Mapping[str, Mapping[str, str]] = {
    "stable-diffusion-1": {"text_encoder": "cond_stage_model.transformer."},
    "stable-diffusion-2": {"text_encoder": "cond_stage_model.model."},
    "stable-diffusion-xl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "stable-diffusion-3": {
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.clip_g.transformer.",
        "text_encoder_3": "text_encoders.t5xxl.transformer.",
    },
    "flux-dev": {
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.t5xxl.transformer.",
    },
}
"""Kind -> text encoder -> prefix of its tensors' names."""
PREDICTIONS = {"v": "v_prediction", "epsilon": "epsilon", "eps": "epsilon", "x0": "sample"}
"""`modelspec.prediction_type` of a file's metadata -> diffusers' name."""


@dataclass(frozen=True)
class SingleFile:
    """The model in a single file.

    Attributes:
        kind: key of `TITLES`, and the name of its published configs.
        parts: part -> prefix of its tensors' names, for the parts that the file has.
        prediction: what the denoiser predicts, if the file states it; None otherwise.
        zero_terminal_snr: whether the file states that its schedule ends in pure noise.
    """

    kind: str
    parts: Mapping[str, str]
    prediction: str | None = None
    zero_terminal_snr: bool = False

    @property
    def title(self) -> str:
        """For people."""
        return TITLES[self.kind]

    @property
    def family(self) -> str:
        """The name of its family."""
        return FAMILIES.get(self.kind, self.kind)

    @property
    def denoiser(self) -> str:
        """The name of the denoiser's part."""
        return "unet" if "unet" in self.parts else "transformer"

    @property
    def is_diffusion(self) -> bool:
        """Whether the model was trained by diffusion and not by rectified flow."""
        return self.denoiser == "unet"


def identify(header: Header, metadata: Mapping[str, str]) -> SingleFile:
    """Return the model of a file with this header.

    Raises CheckpointError if it is not a supported model. The message is the end of a sentence that
    begins with the file's name.
    """
    if kind := foreign_kind(header):
        raise CheckpointError(f"is {kind}")
    if problem := quantization(header):
        raise CheckpointError(problem)
    mark = next((mark for mark in MARKS if any(mark in name for name in header)), None)
    if mark is not None:
        return _transformer(header, mark)
    if not any(name.startswith(f"{UNET}input_blocks.") for name in header):
        if any(name.startswith(UNET) for name in header):
            raise CheckpointError(
                "is an incomplete Stable Diffusion checkpoint, because it lacks the U-Net's first "
                "layers; copy or download it again"
            )
        raise CheckpointError(
            f"is a safetensors file of an unknown kind (its first tensor is {min(header)}); use a "
            "model that docs/models.md lists"
        )
    return _diffusion(header, metadata)


def _diffusion(header: Header, metadata: Mapping[str, str]) -> SingleFile:
    """Stable Diffusion 1, 2 or XL."""
    _check_channels(header)
    kind = _unet_kind(header)
    spec = metadata.get("modelspec.prediction_type", "").lower()
    prediction = PREDICTIONS.get(spec, spec or None)
    if "v_pred" in header:
        prediction = "v_prediction"
    parts = {"unet": UNET} | _other_parts(header, kind)
    return SingleFile(kind, parts, prediction, "ztsnr" in header)


def _unet_kind(header: Header) -> str:
    """The kind of a U-Net, by the text encoder, or else by the width of the texts."""
    encoders = {k: parts["text_encoder"] for k, parts in TEXT_ENCODERS.items()}
    for kind in ("stable-diffusion-xl", "stable-diffusion-1", "stable-diffusion-2"):
        if any(name.startswith(encoders[kind]) for name in header):
            return kind
    if any(name.startswith("conditioner.embedders.0.model.") for name in header):
        raise CheckpointError("is the SDXL refiner, which is not supported; use the base model")
    if f"{UNET}label_emb.0.0.weight" in header:
        return "stable-diffusion-xl"
    widths = [header[n]["shape"][-1] for i in range(12) if (n := CONTEXT.format(i)) in header]
    if widths and widths[0] in WIDTHS:
        return WIDTHS[widths[0]]
    raise CheckpointError(
        f"is a U-Net that takes {widths[0] if widths else 'no'} numbers per token, which no known "
        "model does"
    )


def _check_channels(header: Header) -> None:
    """Refuse U-Nets that take more than the latent."""
    first, last = (header.get(f"{UNET}{n}.weight") for n in ("input_blocks.0.0", "out.2"))
    if first is None or last is None:
        raise CheckpointError("lacks the U-Net's first or last layer; download it again")
    taken, given = first["shape"][1], last["shape"][0]
    if taken > given:
        what = UNET_INPUTS.get(taken, f"a model that takes {taken} channels")
        raise CheckpointError(f"is {what}; use the base model")
    if any(".label_emb.weight" in name for name in header):
        raise CheckpointError("is an upscaler; use the base model")


def _transformer(header: Header, mark: str) -> SingleFile:
    """Stable Diffusion 3 or FLUX.1, with or without its other parts."""
    name = next(name for name in header if mark in name)
    prefix = name[: name.index(mark)]
    kind = MARKS[mark]
    if kind == "flux":
        guided = any(n.startswith(f"{prefix}guidance_in.") for n in header)
        kind = "flux-dev" if guided else "flux-schnell"
        _check_packed_channels(header, prefix)
    return SingleFile(kind, {"transformer": prefix} | _other_parts(header, kind))


def _check_packed_channels(header: Header, prefix: str) -> None:
    """Refuse FLUX transformers that take a second picture."""
    first, last = (header.get(f"{prefix}{n}.weight") for n in ("img_in", "final_layer.linear"))
    if first is None or last is None:
        raise CheckpointError("lacks the transformer's first or last layer; download it again")
    if first["shape"][1] > last["shape"][0]:
        raise CheckpointError(
            "is FLUX.1 Fill, Depth or Canny, which takes a second picture; use FLUX.1 dev or "
            "schnell"
        )


def _other_parts(header: Header, kind: str) -> dict[str, str]:
    """The text encoders and the VAE that a file has."""
    encoders = TEXT_ENCODERS["flux-dev" if kind == "flux-schnell" else kind]
    wanted = [*encoders.items(), *(("vae", prefix) for prefix in VAES)]
    return {part: prefix for part, prefix in wanted if _has(header, prefix)}


def _has(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
