"""The few errors a user meets. Each message is one sentence: what, why, what to do."""


class DiffEditError(Exception):
    """The common base: everything this project raises on purpose for a user to read."""


class CheckpointError(DiffEditError):
    """A model folder or hub id is missing, incomplete, unsafe or of an unsupported architecture."""


class EngineMismatch(DiffEditError):
    """Compiled files do not fit: another model, GPU, version, size, or bytes that were changed."""


class BuildError(DiffEditError):
    """An export or a compilation failed; nothing half-written was left behind."""


class NonFiniteError(DiffEditError):
    """A network answered NaN or infinity.

    Attributes:
        network: "text", "vae_encode", "unet" or "vae_decode".
        stage: "mask", "encode" or "decode".
    """

    def __init__(self, network: str, stage: str) -> None:
        super().__init__(
            f"The {network} gave NaN or infinite values in the {stage} stage; its precision is too "
            "narrow for this model or the weights are damaged: try dtype='fp32' (or engines built "
            "with --precision fp32)."
        )
        self.network = network
        self.stage = stage


class Cancelled(DiffEditError):
    """The request was cancelled before it finished."""


def out_of_memory(error: BaseException) -> bool:
    """PyTorch's own out-of-memory errors are RuntimeErrors, told apart by name and text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
