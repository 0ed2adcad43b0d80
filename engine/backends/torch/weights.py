"""Load the parts of a checkpoint, each in its own precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from engine.checkpoint import Checkpoint
from engine.dtypes import TORCH_DTYPES
from engine.forecast import require_memory, text_parts, weights_of
from engine.loader import load_module
from engine.lora.file import Lora
from engine.lora.fuse import fuse
from engine.memory import available
from engine.netspec import Precision
from engine.opened_files import OpenedFiles


@dataclass(frozen=True)
class Weights:
    """How the parts of a checkpoint are loaded.

    Attributes:
        precision: the precision of all parts that `own` does not list.
        own: part -> precision, chosen by the user.
        loras: fused in fp32, before the weights are cast.
        opened: the state of files that are read again later, to detect changes.
    """

    checkpoint: Checkpoint
    device: torch.device
    precision: Precision
    own: Mapping[str, Precision]
    loras: Sequence[Lora] = ()
    opened: OpenedFiles = field(default_factory=lambda: OpenedFiles({}))

    def reopening(self, parts: Iterable[str]) -> Weights:
        """Return the same weights with the current state of the files of some parts recorded."""
        files = [file for part in parts for file in self.checkpoint.weights(part)]
        files += [lora.path for lora in self.loras] if files else []
        return replace(self, opened=OpenedFiles.now(files))

    def precision_of(self, part: str) -> Precision:
        """The user's choice, or the family's for the main precision."""
        return self.own.get(part) or self.checkpoint.family.part_precision(part, self.precision)

    def load(self, part: str) -> torch.nn.Module:
        """A part on the CPU, with the LoRAs that change it.

        Raises CheckpointError if weights are damaged, do not fit the config or have changed since
        the model was opened, and ResourceError if there is not enough memory.
        """
        self.opened.check()
        dtype = TORCH_DTYPES[self.precision_of(part)]
        module = load_module(self.checkpoint, part, dtype)
        changing = [lora for lora in self.loras if lora.changes(self.checkpoint, part)]
        if changing:
            exact = dtype == torch.float32
            wide = module if exact else load_module(self.checkpoint, part, torch.float32)
            fuse(wide, self.checkpoint, part, changing)
            with torch.no_grad():  # a library may keep single layers in fp32: the dtypes are theirs
                for parameter, fused in zip(module.parameters(), wide.parameters(), strict=True):
                    parameter.copy_(fused)
        if self.checkpoint.part(part).convolutional and dtype != torch.float32:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module

    def require_memory(self, *, offload_text: bool) -> None:
        """Raise ResourceError if the weights cannot fit into the memory that is free."""
        checkpoint = self.checkpoint
        sizes = {
            part.name: weights_of(checkpoint, part, self.precision_of(part.name)).weights
            for part in checkpoint.family.parts
        }
        texts = {part: sizes.pop(part) for part in text_parts(checkpoint)} if offload_text else {}
        what = f"Loading {checkpoint.folder} in {self.precision}"
        fix = "close other programs, use another --dtype"
        if not offload_text:
            fix += ", or unload the text encoders after use (--offload-text)"
        if self.device.type == "cpu":
            needed = sum(sizes.values()) + max(texts.values(), default=0)
            require_memory(what, needed, available(), "this machine", fix)
            return
        free, _ = torch.cuda.mem_get_info(self.device)
        needed = sum(sizes.values()) + max(texts.values(), default=0)
        require_memory(what, needed, free, f"the GPU ({self.device})", fix)
        host = sum(texts.values()) + max(sizes.values())  # where text encoders stay
        require_memory(what, host, available(), "this machine", "close other programs")


def default_precision(device: torch.device) -> Precision:
    """fp16 on CUDA; on a CPU bf16 if it has instructions for it (AMX, AVX-512), else fp32.

    A U-Net row of SD 1.5 at 512 px took 2.2 s in bf16 and 4.1 s in fp32 on two cores of an AMD
    EPYC with avx512_bf16, and 1.1 s and 3.6 s on two cores of an Intel Xeon with AMX.
    """
    if device.type == "cuda":
        return "fp16"
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if device.type == "cpu" and fast else "fp32"
