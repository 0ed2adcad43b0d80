"""Parse precisions: one for the model, and others for single parts. Standard library only."""

from __future__ import annotations

from engine.checkpoint import Checkpoint
from engine.models import ModelFamily
from engine.netspec import Precision

DEFAULT = "default"
"""Key of the precision of all other parts, as in diffusers."""


def parse_precisions(text: str) -> dict[str, str]:
    """Part -> name of a precision, from "fp16,text_encoder_3=bf16". Raises ValueError.

    The names are not checked.
    """
    found: dict[str, str] = {}
    for item in text.split(","):
        part, equals, precision = item.strip().rpartition("=")
        key = part.strip() if equals else DEFAULT
        if not key or key in found:
            raise ValueError(
                "pass one precision, and PART=PRECISION for parts that need another one, such as "
                "fp16,text_encoder_3=bf16"
            )
        found[key] = precision.strip()
    return found


def build_precision(family: ModelFamily, part: str, precision: Precision) -> Precision:
    """The precision in which a part is built if `precision` is requested.

    Parts that PyTorch runs in bf16, because fp16 overflows, are built in bf16. VAEs, which PyTorch
    runs in fp32, are built in the requested precision: the build compares them with fp32 and falls
    back if necessary.
    """
    usual = family.part_precision(part, precision)
    return usual if usual == "bf16" else precision


def denoiser_precision(checkpoint: Checkpoint, precision: Precision) -> Precision:
    """The precision of the denoiser in a build with `precision`."""
    part = checkpoint.network(checkpoint.names.denoiser).part
    return build_precision(checkpoint.family, part, precision)
