"""The PyTorch module of one build job, with sample inputs and fp32 outputs.

Each is computed at its first use, so that a build with nothing to do loads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from engine.checkpoint import Checkpoint
from engine.lora.file import Lora
from engine.netspec import Precision
from export.build_jobs import BuildJob
from export.networks import Wrapped, load, sample, wrap
from export.resources import give_back_memory
from export.verify import reference


class TorchReference:
    """One network of one checkpoint at one size.

    Args:
        checkpoint, loras: the source of the weights.
        job: the network and size.
    """

    def __init__(self, checkpoint: Checkpoint, job: BuildJob, loras: Sequence[Lora]) -> None:
        self._checkpoint = checkpoint
        self._job = job
        self._loras = loras
        self._module: nn.Module | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def inputs(self, rows: int) -> tuple[Tensor, ...]:
        """The first `rows` rows of the sample."""
        return sample(self._job.spec, rows, vocabulary=self._vocabulary())

    def outputs(self, rows: int) -> tuple[Tensor, ...]:
        """PyTorch's outputs for `inputs(rows)` in fp32, cached."""
        if not self._outputs or len(self._outputs[0]) < rows:
            module = self._take()
            network = wrap(self._job.network, module, "fp32")
            self._outputs = reference(network, self.inputs(rows))
            self._module = module
        return tuple(output[:rows] for output in self._outputs)

    def network(self, precision: Precision) -> Wrapped:
        """Return the network in a precision. The caller owns it."""
        return wrap(self._job.network, self._take(), precision)

    def free(self) -> None:
        """Release the weights, and return their memory to the system."""
        self._module = None
        give_back_memory()

    def _vocabulary(self) -> int:
        """Number of token ids in the network's vocabulary; 1 if it reads no text."""
        texts = self._checkpoint.family.text_inputs
        return next((t.vocabulary for t in texts if t.network == self._job.network.name), 1)

    def _take(self) -> nn.Module:
        module, self._module = self._module, None
        return module if module is not None else self._load()

    def _load(self) -> nn.Module:
        return load(self._checkpoint, self._job.network.part, self._loras)
