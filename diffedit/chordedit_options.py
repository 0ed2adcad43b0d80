"""The options of method "chordedit", and their defaults. Standard library only.

"Published" is run_pie_bench.py of github.com/ChordEdit/ChordEdit at 2ffd54b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffedit.checks import InvalidRequest

if TYPE_CHECKING:
    from diffedit.request import EditRequest
    from engine.models.family import Defaults

CHORDEDIT_OPTIONS = ("step_scale", "refining_rows")
"""The options that no other method has."""
STEPS = 20
"""Levels of the schedule: with trailing timesteps they contain the published ones, 0.9 and 0.75 of
1000. The number of rows does not depend on it."""
STRENGTH = 0.9
"""t: the published noise level of the field, as a fraction of the schedule."""
WINDOW = 0.15
"""delta: how far the field's second level is below the first one. Published."""
REFINING_LEVELS: tuple[tuple[float, ...], ...] = ((), (0.3,), (0.5, 0.3))
"""Number of refining rows -> their noise levels. One at 0.3 is published."""
STEP_SCALE, STEP_SCALE_UNDISTILLED = 1.0, 1.5
"""lambda: the published one, and that of models that are not distilled, whose fields are weaker."""


def chordedit_defaults(request: EditRequest, family: Defaults) -> dict[str, Any]:
    """The defaults of the options that method "chordedit" decides.

    Args:
        request: with method "chordedit".
        family: the defaults of the model family.

    Raises InvalidRequest for a strength that leaves no room for the second level.
    """
    strength: Any = request.strength
    if strength is not None and strength <= WINDOW:
        raise InvalidRequest(
            f"strength is {strength:g}, but method 'chordedit' also needs the noise level "
            f"{WINDOW:g} below it; choose more than {WINDOW:g}, or leave it out to use "
            f"{STRENGTH:g}.",
            field="strength",
        )
    embedded = family.guidance == "embedded"
    return {
        "num_inference_steps": STEPS,
        "strength": STRENGTH,
        "guidance_scale": family.guidance_scale if embedded else 1.0,
        "num_maps_per_mask": 1,
        "step_scale": STEP_SCALE if family.few_steps else STEP_SCALE_UNDISTILLED,
        "refining_rows": 1,
    }
