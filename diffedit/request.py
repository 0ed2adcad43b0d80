"""What a user asks for and what comes back: the one place where bounds are checked.

It knows names, types and ranges. It does not open pictures (`diffedit.imaging.decode` does, and
raises the same `InvalidRequest`), and it imports neither torch, numpy nor PIL.
"""

from __future__ import annotations

import difflib
import numbers
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from engine.errors import DiffEditError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    ImageSource: TypeAlias = Image | str | Path | bytes | NDArray[np.uint8]
    """A picture: PIL, a path, the bytes of a file, or uint8 [H, W, 3]."""

Method = Literal["diffedit", "encode-decode", "masked-sdedit", "sdedit"]
METHODS: tuple[str, ...] = get_args(Method)
MASKED_METHODS = ("diffedit", "masked-sdedit")
"""The methods that edit under a mask, so that they can take one from the user."""
MAX_TEXT = 4096
"""Characters of a text; far more than the 77 tokens of which a text encoder reads any."""


class InvalidRequest(DiffEditError, ValueError):
    """A picture, text or number that cannot be edited with; the message is one sentence."""


@dataclass(frozen=True)
class _Range:
    """The numbers a field may hold: `low` to `high`, `low` itself only when not `above`."""

    low: float
    high: float
    above: bool = False
    whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.above:
            return f"{kind} above {self.low:g} and at most {self.high:g}"
        high = "2**63 - 1" if self.high == 2**63 - 1 else f"{self.high:g}"
        return f"{kind} from {self.low:g} to {high}"

    def read(self, value: object) -> int | float | None:
        """`value` as a Python number, or None where it is outside or no number at all."""
        if isinstance(value, bool):
            return None
        number: int | float
        if isinstance(value, numbers.Integral):
            number = int(value)
        elif isinstance(value, numbers.Real) and not self.whole:
            try:
                number = float(value)
            except OverflowError:  # a fraction beyond every float
                return None
        else:
            return None
        inside = self.low <= number <= self.high  # NaN is not
        if not inside or (self.above and number == self.low):
            return None
        return number if self.whole else float(number)


RANGES: dict[str, _Range] = {
    "num_inference_steps": _Range(1, 1000, whole=True),
    "strength": _Range(0, 1, above=True),
    "guidance_scale": _Range(0, 100),
    "num_maps_per_mask": _Range(1, 64, whole=True),
    "mask_encode_strength": _Range(0, 1, above=True),
    "mask_thresholding_ratio": _Range(0, 100, above=True),
    "mask_dilation": _Range(0, 64, whole=True),
    "seed": _Range(0, 2**63 - 1, whole=True),
}
"""What every number of a request may be, ends included; `str()` says it in words."""


@dataclass(frozen=True, eq=False)
class EditRequest:
    """One edit. Raises InvalidRequest, naming the field and its value, unless all of it holds.

    Numbers may be numpy's and become Python's; a bool is no number.

    Attributes:
        image: the photograph: PIL image, path, file contents, or uint8 [H, W, 3].
        prompt: Q, what should be there; not blank.
        source_prompt: R, what is there; empty for the unconditional text.
        negative_prompt: what decoding is guided away from.
        num_inference_steps: N, the grid points of the schedule, 1 to 1000.
        strength: r, how far the photograph is encoded, above 0 and at most 1.
        guidance_scale: g, 0 to 100; 1 is no guidance.
        num_maps_per_mask: n, the noises the mask is averaged over, 1 to 64.
        mask_encode_strength: how noisy the mask's latents are, above 0 and at most 1.
        mask_thresholding_ratio: where the map is clipped, in its own means; above 0, at most 100.
        mask_image: the mask to use instead of a found one, white = edit; any size of the
            photograph's aspect; for "diffedit" and "masked-sdedit" alone.
        mask_dilation: latent pixels a found mask grows by, 0 to 64.
        method: "diffedit", "encode-decode", "masked-sdedit" or "sdedit".
        composite: keep the photograph's own pixels outside the mask.
        seed: of all noise, 0 to 2**63 - 1.
    """

    image: ImageSource = field(repr=False)
    prompt: str
    source_prompt: str = ""
    negative_prompt: str = ""
    num_inference_steps: int = 50
    strength: float = 0.8
    guidance_scale: float = 7.5
    num_maps_per_mask: int = 10
    mask_encode_strength: float = 0.5
    mask_thresholding_ratio: float = 3.0
    mask_image: ImageSource | None = field(default=None, repr=False)
    mask_dilation: int = 0
    method: Method = "diffedit"
    composite: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image is None:
            raise InvalidRequest(
                "image is None, but there is nothing to edit without a picture; pass a path, a PIL "
                "image, or a uint8 array [H, W, 3]."
            )
        for name in ("prompt", "source_prompt", "negative_prompt"):
            object.__setattr__(self, name, _text(name, getattr(self, name)))
        if not self.prompt.strip():
            raise InvalidRequest(
                f"prompt is blank ({_show(self.prompt)}), but it says what the edited picture "
                "should show; write a few words such as 'a bowl of pears'."
            )
        for name in RANGES:
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        object.__setattr__(self, "composite", _flag("composite", self.composite))
        object.__setattr__(self, "method", _method(self.method))
        if self.mask_image is not None and self.method not in MASKED_METHODS:
            raise InvalidRequest(
                f"mask_image is given, but method is {self.method!r}, which has no mask; leave the "
                f"mask out or take method={' or '.join(map(repr, MASKED_METHODS))}."
            )
        if self.mask_image is not None and self.mask_dilation:
            raise InvalidRequest(
                f"mask_dilation is {self.mask_dilation}, but a given mask_image is obeyed to the "
                "pixel; grow the mask picture itself, or leave mask_dilation out."
            )

    @classmethod
    def from_parameters(
        cls,
        image: ImageSource,
        params: Mapping[str, Any],
        mask_image: ImageSource | None = None,
    ) -> EditRequest:
        """The request that `parameters` described, for this picture; absent fields by default.

        Raises InvalidRequest for an unknown name (with the nearest known one), a missing prompt,
        and whatever the constructor refuses.
        """
        if not isinstance(params, Mapping):
            raise InvalidRequest(
                f"The parameters are {_show(params)}, but must be a table of names and values; "
                "pass what parameters(request) gave."
            )
        for name in params:
            if name not in PARAMETERS:
                raise InvalidRequest(
                    f"There is no parameter {_show(name)}; {_nearest(name, PARAMETERS)}"
                )
        if "prompt" not in params:
            raise InvalidRequest(
                "The parameters hold no prompt, but it says what the edited picture should show; "
                "add one."
            )
        return cls(image, mask_image=mask_image, **params)


def parameters(request: EditRequest) -> dict[str, Any]:
    """Every field but the two pictures, as a dict that JSON keeps unchanged."""
    return {name: getattr(request, name) for name in PARAMETERS}


_FIELDS: dict[str, Field[Any]] = {f.name: f for f in fields(EditRequest)}
PARAMETERS = tuple(name for name in _FIELDS if name not in ("image", "mask_image"))
"""The names `parameters` gives, in the order of the call."""


def _show(value: object) -> str:
    """A short repr: messages never carry a whole array or book."""
    try:
        return reprlib.repr(value)
    except Exception:  # a foreign __repr__ may raise anything, and the message must not
        return f"<{type(value).__name__}>"


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(
            f"{name} is {_show(value)} of type {type(value).__name__}, but must be text; "
            "pass a str."
        )
    text = str.__str__(value)
    if len(text) > MAX_TEXT:
        raise InvalidRequest(
            f"{name} has {len(text)} characters ({_show(text)}), but at most {MAX_TEXT} are taken "
            "and a model reads about 75 words; shorten it."
        )
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise InvalidRequest(
            f"{name} is {_show(text)}, which holds a NUL or half a character and so is no text; "
            "pass plain Unicode."
        )
    return text


def _number(name: str, value: object) -> int | float:
    allowed = RANGES[name]
    number = allowed.read(value)
    if number is None:
        default = _FIELDS[name].default
        raise InvalidRequest(
            f"{name} is {_show(value)}, but must be {allowed}; leave it out for {default}."
        )
    return number


def _flag(name: str, value: object) -> bool:
    kind = type(value)
    if isinstance(value, bool) or (kind.__module__, kind.__name__.rstrip("_")) == ("numpy", "bool"):
        return bool(value)
    default = _FIELDS[name].default
    raise InvalidRequest(
        f"{name} is {_show(value)}, but must be True or False; leave it out for {default}."
    )


def _method(value: object) -> Method:
    for method in get_args(Method):
        if isinstance(value, str) and value == method:
            return method  # type: ignore[no-any-return]
    raise InvalidRequest(f"There is no method {_show(value)}; {_nearest(value, METHODS)}")


def _nearest(name: object, known: tuple[str, ...]) -> str:
    """What to write instead of an unknown name."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"take one of {', '.join(known)}."


assert all(f.default is not MISSING for n, f in _FIELDS.items() if n in RANGES)
