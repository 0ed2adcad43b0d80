"""The PyTorch side of one job: its module, its sample inputs and its fp32 answers, made when first
asked for, so that a build that has nothing to do loads nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from engine.checkpoint import Checkpoint
from engine.netspec import Precision
from export.build_jobs import BuildJob
from export.lora import Lora
from export.networks import Wrapped, load, sample, wrap
from export.verify import reference


class TorchReference:
    """One network of one checkpoint at one size.

    Args:
        checkpoint, loras: where the weights come from.
        job: which network.
    """

    def __init__(self, checkpoint: Checkpoint, job: BuildJob, loras: Sequence[Lora]) -> None:
        self._checkpoint = checkpoint
        self._job = job
        self._loras = loras
        self._module: nn.Module | None = None
        self._want: Tensor | None = None

    def inputs(self, rows: int) -> tuple[Tensor, ...]:
        """The first `rows` rows of the sample."""
        vocabulary = int(self._checkpoint.configs["text_encoder"].get("vocab_size", 49408))
        return sample(self._job.spec, rows, vocabulary=vocabulary)

    def want(self, rows: int) -> Tensor:
        """What torch answers to `inputs(rows)` in fp32; kept for the next caller."""
        if self._want is None or len(self._want) < rows:
            module = self._take()
            self._want = reference(wrap(self._job.spec.name, module, "fp32"), self.inputs(rows))
            self._module = module
        return self._want[:rows]

    def network(self, precision: Precision) -> Wrapped:
        """The network at a precision; the caller owns it."""
        return wrap(self._job.spec.name, self._take(), precision)

    def _take(self) -> nn.Module:
        module, self._module = self._module, None
        return module if module is not None else self._load()

    def _load(self) -> nn.Module:
        return load(self._checkpoint, self._job.part, self._loras)

    def rest(self) -> None:
        """Let go of the weights: what follows needs the memory more."""
        self._module = None
