"""The errors of this project. Each message is one sentence: what is wrong, why, what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator


class DiffEditError(Exception):
    """Base class of every error with a message for the user."""


class CheckpointError(DiffEditError):
    """A model is missing, incomplete, unsafe, damaged or of an unsupported family."""


class ResourceError(DiffEditError):
    """A model was not loaded or built because memory or disk space ran out."""


class EngineMismatch(DiffEditError):
    """Engines do not fit: another model, GPU, version or size, or their files were changed."""


class BuildError(DiffEditError):
    """An export or a compilation failed. No incomplete file is left."""


class NonFiniteError(DiffEditError):
    """A network returned NaN or infinity.

    Attributes:
        network: the network's name, such as "unet".
        stage: "mask", "encode" or "decode".
    """

    def __init__(self, network: str, stage: str) -> None:
        super().__init__(
            f"The {network} returned NaN or infinite values in the {stage} stage: its precision is "
            "too narrow for this model, or the weights are damaged; if it is not fp32 yet, try "
            "dtype='fp32' (or engines built with --precision fp32)."
        )
        self.network = network
        self.stage = stage

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str, str]]:
        """Pickle the arguments, from which the other process builds the message."""
        return NonFiniteError, (self.network, self.stage)


class Cancelled(DiffEditError):
    """The request was cancelled before it finished."""


class EngineUnavailable(DiffEditError, RuntimeError):
    """The engine cannot run this: it was closed, has failed, or is used from the wrong place."""


MEMORY_TEXTS = (
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "CUDA out of memory",
    "Cannot allocate memory",
)
"""Parts of library error messages that mean that memory ran out."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out.

    PyTorch raises RuntimeErrors for this, which only their name and text distinguish from others.
    The system's error is an OSError, which libraries may convert to their own type.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    kinds = (RuntimeError, OSError)
    foreign = type(error).__name__ == "SafetensorError"
    return (isinstance(error, kinds) or foreign) and any(t in str(error) for t in MEMORY_TEXTS)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from, the outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        yield current
        seen.add(id(current))
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters, or its type's name."""
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
