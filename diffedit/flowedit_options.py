"""The options of method "flowedit", and their defaults. Standard library only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffedit.checks import InvalidRequest

if TYPE_CHECKING:
    from diffedit.request import EditRequest
    from engine.models.family import Defaults, FlowEditDefaults

FLOWEDIT_OPTIONS = ("n_max", "n_min", "n_avg", "source_guidance_scale")
"""The options that no other method has."""


def flowedit_defaults(request: EditRequest, family: Defaults) -> dict[str, Any]:
    """The defaults of the options that method "flowedit" decides. n_max replaces the strength.

    Args:
        request: with method "flowedit".
        family: the defaults of the model family.

    Raises InvalidRequest for a model that was not trained by flow matching, and for levels that
    are not in the schedule.
    """
    published = family.flowedit
    if published is None:
        raise InvalidRequest(
            "method is 'flowedit', but this model was trained by diffusion and FlowEdit needs one "
            "that was trained by flow matching, such as Stable Diffusion 3 or FLUX.1; use "
            "method='diffedit'.",
            field="method",
        )
    steps = request.num_inference_steps or published.steps
    n_max, n_min = _levels(request, published, steps)
    return {
        "num_inference_steps": steps,
        "guidance_scale": published.target_guidance,
        "source_guidance_scale": published.source_guidance,
        "n_max": n_max,
        "n_min": n_min,
        "n_avg": 1,
        "strength": None,
    }


def _levels(request: EditRequest, published: FlowEditDefaults, steps: int) -> tuple[int, int]:
    """(n_max, n_min), of a schedule of `steps` levels."""
    share = request.strength or published.n_max / published.steps
    n_max = request.n_max or max(1, round(steps * share))
    if n_max > steps:
        raise InvalidRequest(
            f"n_max is {n_max}, but the schedule has {steps} levels; choose at most {steps}, or "
            "more steps.",
            field="n_max",
        )
    n_min = request.n_min or 0
    if n_min > n_max:
        raise InvalidRequest(
            f"n_min is {n_min}, but the edit begins at level {n_max} (n_max); choose at most "
            f"{n_max}.",
            field="n_min",
        )
    return n_max, n_min
