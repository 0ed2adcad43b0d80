"""`ModelFamily`: the parts of a model family, its networks, their shapes and how to call them.

A family is one file of this package. Checkpoints, backends, export, flows and the server use it
instead of naming networks themselves. Standard library only: call functions are duck-typed, so that
the same function runs in PyTorch and is traced for ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from engine.netspec import Precision, Role, Size, TensorSpec

Configs = Mapping[str, Mapping[str, Any]]
"""Part name -> its config file."""
RequestInput = float | tuple[float, ...]
"""The values of one input of the denoiser: a scalar or a vector."""


@dataclass(frozen=True)
class Part:
    """One subfolder of a checkpoint that holds weights.

    Attributes:
        name: the subfolder, such as "unet".
        package, class_name: the class that loads it, such as "diffusers", "UNet2DConditionModel".
        convolutional: whether it consists of 2D convolutions, so that channels_last is faster.
        lora_prefixes: prefixes of its layers' names in LoRA files.
    """

    name: str
    package: str
    class_name: str
    convolutional: bool = False
    lora_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """One network, and how it is called on the module of its part.

    Attributes:
        name: its name in rows, file names and statistics.
        role: its purpose.
        part: the name of the part that holds its weights.
        call: `call(module, dtype, *inputs)` takes batched float32 or int64 tensors and returns one
            float32 tensor, or a tuple of them if the network has several outputs. `dtype` is the
            module's torch dtype.
        compiled: attribute paths of the submodules that `torch.compile` is applied to; "" is the
            module itself. Empty if compiling is not faster.
    """

    name: str
    role: Role
    part: str
    call: Callable[..., Any]
    compiled: tuple[str, ...] = ()


Guidance = Literal["classifier-free", "embedded", "distilled"]


@dataclass(frozen=True)
class FlowEditDefaults:
    """The published options of FlowEdit (Kulikov et al., arXiv 2412.08629) for a family.

    Attributes:
        steps: number of steps in the schedule.
        n_max: the level, out of `steps`, at which the edit begins.
        source_guidance: scale of the guidance under the source text.
        target_guidance: scale of the guidance under the target text.
    """

    steps: int
    n_max: int
    source_guidance: float
    target_guidance: float


@dataclass(frozen=True)
class Defaults:
    """The default sampling options of a checkpoint.

    Attributes:
        steps: number of steps, as in the examples of its publishers.
        guidance_scale: scale of the guidance; 1 is no guidance.
        guidance: "classifier-free" guidance takes two rows a step; "embedded" guidance is an input
            of the denoiser; a "distilled" denoiser has guidance in its weights and needs few steps.
        flowedit: the options of FlowEdit; None if the family was not trained by flow matching.
    """

    steps: int = 50
    guidance_scale: float = 7.5
    guidance: Guidance = "classifier-free"
    flowedit: FlowEditDefaults | None = None

    @property
    def few_steps(self) -> bool:
        """Whether the checkpoint's configs say that it is distilled to sample in a few steps."""
        return self.steps <= 8


STABLE_DIFFUSION = Defaults()
FEW_STEPS = Defaults(steps=4, guidance_scale=1.0, guidance="distilled")
"""Turbo, Lightning and schnell checkpoints, and models with an LCM LoRA."""
LCM = Defaults(steps=4, guidance_scale=8.5, guidance="embedded")
"""Distilled latent consistency models, whose U-Net takes the guidance scale."""


@dataclass(frozen=True)
class TextInput:
    """How a text becomes the input of one text network.

    Attributes:
        network: the network's name.
        tokenizer: the checkpoint's subfolder with the tokenizer.
        kind: "clip" adds begin and end tokens, "t5" an end token.
        length: token ids of every text, padding included.
        vocabulary: token ids are below this number.
    """

    network: str
    tokenizer: str
    kind: Literal["clip", "t5"]
    length: int
    vocabulary: int


class ModelFamily(Protocol):
    """A family with the configs of one checkpoint."""

    @property
    def name(self) -> str:
        """Such as "stable-diffusion"."""
        ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts with weights, in the order in which they are loaded."""
        ...

    @property
    def networks(self) -> tuple[Network, ...]:
        """Every network, in the order in which an edit first uses them."""
        ...

    @property
    def configs(self) -> Configs:
        """Part name -> config; "scheduler" is the scheduler's."""
        ...

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side."""
        ...

    @property
    def channels(self) -> int:
        """Latent channels."""
        ...

    @property
    def native_size(self) -> int:
        """The side in pixels that the denoiser was trained for."""
        ...

    @property
    def size_multiple(self) -> int:
        """Both sides of a picture are multiples of this number of pixels."""
        ...

    @property
    def max_side(self) -> int | None:
        """The longest side in pixels that the denoiser can work at; None if any."""
        ...

    @property
    def text_inputs(self) -> tuple[TextInput, ...]:
        """One per text network, in the order of `networks`."""
        ...

    @property
    def zero_empty_text(self) -> bool:
        """Whether the conditioning of the empty text is zeros."""
        ...

    @property
    def embeds_guidance(self) -> bool:
        """Whether the denoiser takes the guidance scale as an input, instead of two rows a step."""
        ...

    @property
    def defaults(self) -> Defaults:
        """The default sampling options, as far as the configs determine them."""
        ...

    @property
    def uniform_sigmas(self) -> bool:
        """Rectified flow: whether the grid is k/N before the shift."""
        ...

    def image_tokens(self, size: Size) -> int:
        """Rectified flow: tokens of a picture, on which a dynamic shift depends."""
        ...

    def request_inputs(self, size: Size, guidance_scale: float) -> tuple[RequestInput, ...]:
        """The denoiser's inputs after the conditioning; they depend on the request only.

        `guidance_scale` is 1 for the mask and for the inversion.
        """
        ...

    def tensors(
        self, network: str, size: Size
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a network for pictures of `size`, (height, width) in pixels."""
        ...

    def size_of(self, network: str, shape: tuple[int, ...]) -> Size | None:
        """The picture size of rows whose first input has `shape`; None for text networks.

        Raises ValueError if no picture has rows of that shape.
        """
        ...

    def attention_scores(self, network: str, size: Size) -> int:
        """See `NetSpec.attention_scores`."""
        ...

    def part_precision(self, part: str, precision: Precision) -> Precision:
        """The precision in which PyTorch runs a part if `precision` is requested."""
        ...


@dataclass(frozen=True)
class NetworkNames:
    """The names of a family's networks by role."""

    text_encoders: tuple[str, ...]
    image_encoder: str
    denoiser: str
    image_decoder: str

    @classmethod
    def of(cls, family: ModelFamily) -> NetworkNames:
        """Collect the names from `family.networks`."""

        def named(role: Role) -> tuple[str, ...]:
            return tuple(n.name for n in family.networks if n.role == role)

        (encoder,), (denoiser,) = named("image_encoder"), named("denoiser")
        (decoder,) = named("image_decoder")
        return cls(named("text_encoder"), encoder, denoiser, decoder)
