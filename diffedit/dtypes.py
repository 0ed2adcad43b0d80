"""The argument `dtype`: one precision, or one for each part of the model.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, get_args

from diffedit import checks
from diffedit.checks import InvalidRequest, short_repr
from engine.checkpoint import Checkpoint
from engine.netspec import Precision
from engine.precisions import DEFAULT, parse_precisions

PRECISIONS: tuple[str, ...] = get_args(Precision)
OTHER_PRECISIONS = {
    "float32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
}
"""PyTorch's names -> ours."""
DTypes = Precision | Mapping[str, Precision]


def checked_dtype(value: object) -> DTypes | None:
    """A precision, or part -> precision, as plain values.

    Text may be "bf16", or a list such as "fp16,text_encoder_3=bf16". Raises InvalidRequest.

    Examples:
        >>> checked_dtype("fp16,text_encoder_3=bf16")
        {'default': 'fp16', 'text_encoder_3': 'bf16'}
    """
    if isinstance(value, str) and ("," in value or "=" in value):
        try:
            value = parse_precisions(value)
        except ValueError as error:
            raise InvalidRequest(f"dtype is {short_repr(value)}; {error}.") from None
    if not isinstance(value, Mapping):
        return None if value is None else _precision(value)
    found = {str(part): _precision(precision) for part, precision in value.items()}
    if not found:
        raise InvalidRequest("dtype is an empty dict; add a precision, or leave it out.")
    return found


def split(dtype: DTypes | None) -> tuple[Precision | None, dict[str, Precision]]:
    """The precision of all other parts, or None, and part -> precision."""
    if not isinstance(dtype, Mapping):
        return dtype, {}
    own = dict(dtype)
    return own.pop(DEFAULT, None), own


def check_parts(checkpoint: Checkpoint, dtype: DTypes | None) -> None:
    """Raise InvalidRequest if `dtype` names a part that the model does not have."""
    names = [part.name for part in checkpoint.family.parts]
    for part in split(dtype)[1]:
        if part not in names:
            raise InvalidRequest(
                f"dtype names the part {short_repr(part)}, which this model does not have; its "
                f"parts are {', '.join(names)}."
            )


def _precision(value: object) -> Precision:
    kind = type(value)
    if (kind.__module__, kind.__name__) == ("torch", "dtype"):  # by name: this imports no torch
        value = str(value).removeprefix("torch.")
    if isinstance(value, str) and value in OTHER_PRECISIONS:
        raise InvalidRequest(
            f"There is no dtype {value!r}; it is called {OTHER_PRECISIONS[value]!r} here."
        )
    return cast(Precision, checks.choice("dtype", value, PRECISIONS))
