"""Check the arguments of `DiffEditPipeline`'s methods and convert them to plain Python values.

`CHECKS` maps the name of each argument to its check. `EditRequest` checks the options of an edit.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, get_args

from diffedit import checks, file_arguments
from diffedit.checks import InvalidRequest, Range, call_error, short_repr
from diffedit.dtypes import checked_dtype
from diffedit.request import MASKED_METHODS, EditRequest
from engine.checkpoint import Checkpoint
from engine.netspec import Size

P = ParamSpec("P")
R = TypeVar("R")
BackendName = Literal["auto", "torch", "onnxruntime", "tensorrt"]
BACKENDS: tuple[str, ...] = get_args(BackendName)
SIDE = Range(1, 8192, whole=True)
"""Height and width of the networks' canvas, in pixels."""
BATCH_SIZE = Range(1, 256, whole=True)
IN_FLIGHT = Range(1, 100_000, whole=True)
DEVICE = re.compile(r"cpu|cuda(?::(0|[1-9][0-9]{0,3}))?")
VARIANT = re.compile(r"\w[\w.-]*")


def checked_arguments(method: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a method by `CHECKS`, and pass it plain Python values.

    A call with an unknown, missing or repeated argument raises InvalidRequest, not TypeError.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise call_error(method, kwargs, error) from None
        for name, value in bound.arguments.items():
            if name in CHECKS:
                bound.arguments[name] = CHECKS[name](value)
        return method(*bound.args, **bound.kwargs)

    return checked


def check_size(checkpoint: Checkpoint, size: Size | None) -> None:
    """Raise InvalidRequest unless the model can work at `size`."""
    if size is not None:
        try:
            checkpoint.check_size(size)
        except ValueError as error:
            raise InvalidRequest(str(error), field="size") from None


def check_finds_mask(request: EditRequest) -> None:
    """Raise InvalidRequest unless the request's method has a mask."""
    if request.method not in MASKED_METHODS:
        raise InvalidRequest(
            f"method is {request.method!r}, which edits everywhere, so there is no mask to find; "
            f"use {' or '.join(map(repr, MASKED_METHODS))}.",
            field="method",
        )


def _model(value: object) -> str | Path:
    model = checks.path("model", value, "a model folder, or a hub id")
    file_arguments.expanded("model", model)
    return model


def _backend(value: object) -> str:
    return checks.choice("backend", value, BACKENDS)


def _engines(value: object) -> Path | None:
    folder = file_arguments.path_or_none("engines", value)
    if folder is not None and folder.is_file():
        raise InvalidRequest(f"engines is {folder}, which is a file; pass its folder.")
    return folder


def _device(value: object) -> str | None:
    """Return the device's name, after checking that this machine has it."""
    if value is None:
        return None
    if _is_torch(value, "device"):
        value = str(value)
    found = DEVICE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise InvalidRequest(
            f"There is no device {short_repr(value)}; use cpu, cuda or cuda:N, because only CPUs "
            "and NVIDIA GPUs are supported."
        )
    if found[0] != "cpu":
        _check_gpu(found[0], int(found[1] or 0))
    return found[0]


def _check_gpu(device: str, index: int) -> None:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise InvalidRequest(f"device is {device}, but PyTorch finds no NVIDIA GPU; use cpu.")
    if index >= count:
        raise InvalidRequest(
            f"device is {device}, but the last GPU of this machine is cuda:{count - 1}; use that, "
            "or one before it."
        )


def _is_torch(value: object, kind: str) -> bool:
    """Whether a value is a `torch.device` or `torch.dtype`; by name, to not import torch."""
    return (type(value).__module__, type(value).__name__) == ("torch", kind)


def _size(value: object) -> Size | None:
    if value is None:
        return None
    sides = [SIDE.convert(side) for side in value] if isinstance(value, tuple | list) else []
    if len(sides) != 2 or None in sides:
        square = f" (for a square: ({value}, {value}))" if SIDE.convert(value) else ""
        raise InvalidRequest(
            f"size is {short_repr(value)}, but must be (height, width) in pixels, each {SIDE}"
            f"{square}; leave it out to choose it for each photograph."
        )
    return int(sides[0] or 0), int(sides[1] or 0)


def _pin(value: object) -> int | None:
    if value is None:
        return None
    return int(checks.number("pin_batch_size", value, BATCH_SIZE, "any batch size"))


def _word(name: str, value: object) -> str | None:
    """Return text, or None. Raises InvalidRequest for blank text."""
    if value is None:
        return None
    word = checks.text(name, value, 200)
    if not word.strip():
        raise InvalidRequest(f"{name} is blank ({word!r}); leave it out to use the default.")
    return word


def _variant(value: object) -> str | None:
    word = _word("variant", value)
    if word is not None and not VARIANT.fullmatch(word):
        raise InvalidRequest(
            f"variant is {word!r}, but must be a part of a file name; pass a word such as 'fp16'."
        )
    return word


def _request(value: object) -> EditRequest:
    if isinstance(value, EditRequest):
        return value
    raise InvalidRequest(
        f"request is {short_repr(value)}, but must be an EditRequest; pass "
        "EditRequest(image, prompt, ...)."
    )


def _requests(value: object) -> Iterable[Any]:
    single = isinstance(value, EditRequest | str | bytes | Mapping)
    if isinstance(value, Iterable) and not single:
        return value
    raise InvalidRequest(
        f"requests is {short_repr(value)}, but must be a list or another iterable of "
        "EditRequests; put a single one in a list."
    )


def _in_flight(value: object) -> int:
    return int(checks.number("in_flight", value, IN_FLIGHT, 8))


def _function(name: str) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        if value is None or callable(value):
            return value
        raise InvalidRequest(
            f"{name} is {short_repr(value)}, which cannot be called; pass a function or None."
        )

    return check


def _flag(name: str) -> Callable[[object], bool]:
    return lambda value: checks.flag(name, value, False)


CHECKS: dict[str, Callable[[Any], object]] = {
    "model": _model,
    "backend": _backend,
    "engines": _engines,
    "device": _device,
    "dtype": checked_dtype,
    "offload_text": _flag("offload_text"),
    "ignore_memory": _flag("ignore_memory"),
    "size": _size,
    "compile": _flag("compile"),
    "pin_batch_size": _pin,
    "allow_tf32": _flag("allow_tf32"),
    "lora": file_arguments.loras,
    "path": file_arguments.single_file,
    "base": file_arguments.base,
    "prediction_type": file_arguments.prediction_type,
    "vae": functools.partial(file_arguments.path_or_none, "vae"),
    "embeddings": file_arguments.embeddings,
    "clip_skip": file_arguments.clip_skip,
    "scheduler": file_arguments.scheduler,
    "on_progress": _function("on_progress"),
    "warm": _flag("warm"),
    "revision": functools.partial(_word, "revision"),
    "variant": _variant,
    "cache_dir": functools.partial(file_arguments.path_or_none, "cache_dir"),
    "local_files_only": _flag("local_files_only"),
    "request": _request,
    "requests": _requests,
    "in_flight": _in_flight,
    "return_errors": _flag("return_errors"),
    "callback": _function("callback"),
    "on_preview": _function("on_preview"),
    "mask_only": _flag("mask_only"),
    "group": functools.partial(_word, "group"),
}
"""Argument -> a function that returns its value as plain Python, or raises InvalidRequest."""
