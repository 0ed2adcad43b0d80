"""The errors of this project. Each message is one sentence: what is wrong, why, what to do."""


class DiffEditError(Exception):
    """The base of every error that this project raises for a user to read."""


class CheckpointError(DiffEditError):
    """A model is missing, incomplete, unsafe, damaged or of an unsupported family."""


class EngineMismatch(DiffEditError):
    """Engines do not fit: another model, GPU, version or size, or their files were changed."""


class BuildError(DiffEditError):
    """An export or a compilation failed. No half-written file is left."""


class NonFiniteError(DiffEditError):
    """A network returned NaN or infinity.

    Attributes:
        network: the network's name, such as "unet".
        stage: "mask", "encode" or "decode".
    """

    def __init__(self, network: str, stage: str) -> None:
        super().__init__(
            f"The {network} returned NaN or infinite values in the {stage} stage: its precision is "
            "too narrow for this model, or the weights are damaged; try dtype='fp32' (or engines "
            "built with --precision fp32)."
        )
        self.network = network
        self.stage = stage


class Cancelled(DiffEditError):
    """The request was cancelled before it finished."""


class EngineUnavailable(DiffEditError, RuntimeError):
    """The engine cannot run this: it was closed, has failed, or is used from the wrong place."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out.

    PyTorch raises RuntimeErrors for this, which differ from others only by name and text.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters, or its type's name."""
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
