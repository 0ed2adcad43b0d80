"""Which options belong to some methods only. Standard library only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffedit.checks import InvalidRequest
from diffedit.chordedit_options import CHORDEDIT_OPTIONS
from diffedit.flowedit_options import FLOWEDIT_OPTIONS

if TYPE_CHECKING:
    from diffedit.request import EditRequest

OWNERS = {
    **dict.fromkeys(FLOWEDIT_OPTIONS, "flowedit"),
    **dict.fromkeys(CHORDEDIT_OPTIONS, "chordedit"),
}
"""Option -> the only method that has it."""
MISSING = {
    "flowedit": ("strength", "guidance_interval", "inversion_stride"),
    "chordedit": ("guidance_interval", "inversion_stride"),
}
"""Method -> options that it does not have. FlowEdit has n_max instead of strength; `resolve`
converts a strength to n_max."""


def has_option(method: str, name: str) -> bool:
    """Whether a method uses an option."""
    return OWNERS.get(name, method) == method and name not in MISSING.get(method, ())


def decoding_steps(request: EditRequest) -> int:
    """How many decoding steps a resolved request takes; each can have a preview."""
    if request.method == "flowedit":
        return request.n_max
    if request.method == "chordedit":
        return request.refining_rows
    return max(1, round(request.num_inference_steps * request.strength))


def check_options(request: EditRequest) -> None:
    """Raise InvalidRequest for an option of another method, and for both n_max and strength."""
    values: dict[str, Any] = vars(request)
    for name in (*OWNERS, "guidance_interval", "inversion_stride"):
        if values[name] is not None and not has_option(request.method, name):
            raise InvalidRequest(
                f"{name} is {values[name]!r}, but {_whose(name)} and method is "
                f"{request.method!r}; leave it out, or use another method.",
                field=name,
            )
    if values["n_max"] is not None and values["strength"] is not None:
        raise InvalidRequest(
            f"n_max is {request.n_max} and strength is {request.strength:g}, but both say where "
            "FlowEdit begins; leave out one of them.",
            field="n_max",
        )


def _whose(name: str) -> str:
    if name in OWNERS:
        return f"it is an option of method {OWNERS[name]!r}"
    return "it is an option of methods that invert the photograph"
