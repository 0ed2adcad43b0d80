"""Checks of single arguments. Each returns a plain Python value or raises `InvalidRequest`.

Standard library only: numpy's numbers and booleans are accepted without importing numpy.
"""

from __future__ import annotations

import difflib
import errno
import functools
import inspect
import numbers
import os
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from diffedit.visible_text import forbidden
from engine.errors import DiffEditError

T = TypeVar("T")
NUL = "\0"

RENAMED = {
    "torch_dtype": "dtype",
    "pretrained_model_name_or_path": "model",
    "model_id": "model",
    "device_map": "device",
    "target_prompt": "prompt",
    "source_negative_prompt": "negative_prompt",
    "target_negative_prompt": "negative_prompt",
    "inpaint_strength": "strength",
    "denoising_strength": "strength",
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "mask": "mask_image",
    "generator": "seed",
    "callback_on_step_end": "callback",
}
"""Names of diffusers and other programs -> the name of the same option here."""
REMOVED = {
    "callback_steps": "leave it out: the callback is called after every network call.",
    "eta": "leave it out: DDIM adds no noise.",
    "height": "pass size=(height, width) to from_pretrained instead.",
    "width": "pass size=(height, width) to from_pretrained instead.",
    "image_latents": "leave it out: an edit inverts its photograph itself.",
    "num_images_per_prompt": "pass one EditRequest per seed to edit_many instead.",
    "output_type": "leave it out: a result has PIL pictures and arrays.",
    "return_dict": "leave it out: a result is always an object.",
    "safety_checker": "leave it out: no safety checker is loaded.",
    "token": "leave it out, and log in to the hub with `hf auth login`.",
    "use_safetensors": "leave it out: only safetensors are loaded.",
}
"""Options of diffusers that do not exist here -> what to do instead."""


class InvalidRequest(DiffEditError, ValueError):
    """An invalid picture, prompt or option. The message says what is wrong and how to fix it.

    Attributes:
        field: the field of `EditRequest` that is wrong, or None if the message names it.
        code: machine-readable kind of the error.
    """

    def __init__(
        self, message: str, *, field: str | None = None, code: str = "invalid_value"
    ) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


@dataclass(frozen=True)
class Range:
    """Range of a numeric option. `str()` describes it in words.

    Attributes:
        low, high: bounds; both are allowed values, but `low` is not if `above` is set.
        above: exclude `low`.
        whole: allow whole numbers only.
    """

    low: float
    high: float
    above: bool = False
    whole: bool = False

    def __str__(self) -> str:
        number = "a whole number" if self.whole else "a number"
        if self.above:
            return f"{number} above {self.low:g} and at most {self.high:g}"
        high = "2**63 - 1" if self.high == 2**63 - 1 else f"{self.high:g}"
        return f"{number} from {self.low:g} to {high}"

    def convert(self, value: object) -> int | float | None:
        """Return `value` as an int or float, or None if it is not a number in this range."""
        number = self._plain_number(value)
        if number is None or not self.low <= number <= self.high:  # also rejects NaN
            return None
        if self.above and number == self.low:
            return None
        return number

    def _plain_number(self, value: object) -> int | float | None:
        cls = type(value)
        if cls is bool:
            return None
        if cls is (int if self.whole else float):
            return value  # type: ignore[return-value]
        try:
            if self.whole:
                return int(value) if isinstance(value, numbers.Integral) else None
            return float(value) if isinstance(value, numbers.Real) else None
        except OverflowError:  # an int or Fraction beyond the range of float
            return None


def number(name: str, value: object, allowed: Range, default: object) -> int | float:
    """Return `value` as an int or float in a range. Raises InvalidRequest."""
    converted = allowed.convert(value)
    if converted is None:
        raise InvalidRequest(
            f"{name} is {short_repr(value)}, but must be {allowed}; leave it out to use {default}."
        )
    return converted


def interval(name: str, value: object) -> tuple[float, float]:
    """Return a pair of numbers, 0 <= low < high <= 1. Raises InvalidRequest."""
    pair = [Range(0, 1).convert(end) for end in value] if isinstance(value, tuple | list) else []
    if len(pair) == 2 and None not in pair and float(pair[0] or 0) < float(pair[1] or 0):
        return float(pair[0] or 0), float(pair[1] or 0)
    raise InvalidRequest(
        f"{name} is {short_repr(value)}, but must be two numbers from 0 to 1, the lower one first; "
        "leave it out to use the preset's."
    )


def flag(name: str, value: object, default: bool) -> bool:
    """Return `value`, Python's or numpy's True or False, as a bool. Raises InvalidRequest."""
    cls = type(value)  # compared by name: this module does not import numpy
    is_numpy_bool = (cls.__module__, cls.__name__.rstrip("_")) == ("numpy", "bool")
    if isinstance(value, bool) or is_numpy_bool:
        return bool(value)
    raise InvalidRequest(
        f"{name} is {short_repr(value)}, but must be True or False; leave it out to use {default}."
    )


def text(name: str, value: object, limit: int) -> str:
    """Return valid Unicode text of at most `limit` characters. Raises InvalidRequest."""
    if not isinstance(value, str):
        raise InvalidRequest(
            f"{name} is {short_repr(value)} of type {type(value).__name__}, but must be text; "
            "pass a str."
        )
    plain = str.__str__(value)
    if len(plain) > limit:
        raise InvalidRequest(
            f"{name} has {len(plain)} characters ({short_repr(plain)}), but at most {limit} are "
            "allowed, and a model reads only about 75 words; shorten it."
        )
    if (bad := forbidden(plain)) is not None:
        what = "an unpaired surrogate" if "\ud800" <= bad <= "\udfff" else "a control character"
        raise InvalidRequest(
            f"{name} is {short_repr(plain)}, which contains {'a NUL' if bad == NUL else what} "
            f"(U+{ord(bad):04X}); remove it."
        )
    return plain


def choice(noun: str, value: object, names: Sequence[str]) -> str:
    """Return the one of `names` that `value` equals. Raises InvalidRequest with `noun` as field."""
    for name in names:
        if isinstance(value, str) and value == name:
            return name
    raise InvalidRequest(str(unknown(noun, value, names)), field=noun)


def path(name: str, value: object, example: str = "a folder") -> str | Path:
    """Return a valid path; a str stays a str. Raises InvalidRequest.

    The file need not exist. "~" is not expanded.
    """
    plain = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(plain, str) or not plain.strip():
        raise InvalidRequest(
            f"{name} is {short_repr(value)}, but must be the path of {example}; pass a str or a "
            "pathlib.Path."
        )
    try:
        os.lstat(plain)
    except ValueError as error:  # a NUL or a surrogate
        raise InvalidRequest(
            f"{name} is {short_repr(plain)}, which is not a path ({error}); pass the path of "
            f"{example}."
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidRequest(
                f"{name} is {short_repr(plain)}, which is too long for a path; pass the path of "
                f"{example}."
            ) from None
    return plain if isinstance(value, str) else Path(plain)


def unknown(noun: str, name: object, valid_names: Collection[str]) -> InvalidRequest:
    """Return the error for a name that does not exist, with a suggestion."""
    return InvalidRequest(f"There is no {noun} {short_repr(name)}; {suggestion(name, valid_names)}")


def suggestion(name: object, valid_names: Collection[str]) -> str:
    """Return the last part of a message about an unknown name: which name to use instead."""
    if RENAMED.get(str(name)) in valid_names:
        return f"it is called {RENAMED[str(name)]!r} here."
    if str(name) in REMOVED:
        return REMOVED[str(name)]
    close = difflib.get_close_matches(str(name), valid_names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(valid_names)}."


def short_repr(value: object) -> str:
    """Return a repr that is short enough for an error message."""
    try:
        return reprlib.repr(value)
    except Exception:  # __repr__ of a user's class can raise anything
        return f"<{type(value).__name__}>"


def named_fields(cls: type[T]) -> type[T]:
    """Let the constructor of a dataclass raise InvalidRequest for unknown and missing fields."""
    init: Callable[..., None] = cls.__init__
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked(*args: Any, **kwargs: Any) -> None:
        try:
            init(*args, **kwargs)
        except TypeError:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise call_error(init, kwargs, error) from None
            raise

    setattr(cls, "__init__", checked)  # noqa: B010
    return cls


def call_error(
    function: Callable[..., object], kwargs: Mapping[str, object], error: TypeError
) -> InvalidRequest:
    """Return the error for a call whose arguments do not match the function's signature.

    Args:
        function: what was called.
        kwargs: its keyword arguments.
        error: of `inspect.Signature.bind`.
    """
    parameters = [
        p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")
    ]
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in kwargs:
        if name not in names and not (takes_any and RENAMED.get(name) not in names):
            return unknown("argument", name, names)
    called = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")
    return InvalidRequest(f"{called}: {error}; its arguments are {', '.join(names)}.")
