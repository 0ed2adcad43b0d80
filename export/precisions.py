"""The precision of every part of a build: the user's choice, or the family's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from engine.models import ModelFamily
from engine.netspec import Precision
from engine.precisions import DEFAULT, build_precision, parse_precisions

USUAL: Precision = "fp16"


@dataclass(frozen=True)
class Precisions:
    """The requested precisions.

    Attributes:
        default: precision of all parts that are not in `own`.
        own: part -> precision.
    """

    default: Precision = USUAL
    own: Mapping[str, Precision] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any) -> Precisions:
        """Parse "fp16", "fp16,text_encoder_3=bf16" or a dict with the key "default".

        Raises ValueError.
        """
        try:
            own = parse_precisions(value) if isinstance(value, str) else dict(value)
        except ValueError as error:
            raise ValueError(f"the precision is {value!r}; {error}") from None
        for part, name in own.items():
            if name not in get_args(Precision):
                where = "" if part == DEFAULT else f" of {part}"
                known = ", ".join(get_args(Precision))
                raise ValueError(f"the precision{where} is {name!r}, but must be one of {known}")
        return cls(cast(Precision, own.pop(DEFAULT, USUAL)), cast(Mapping[str, Precision], own))

    def check_parts(self, family: ModelFamily) -> None:
        """Raise ValueError if the model has no part of that name."""
        names = [part.name for part in family.parts]
        for part in self.own:
            if part not in names:
                raise ValueError(
                    f"a precision is given for {part!r}, which this model does not have; its parts "
                    f"are {', '.join(names)}"
                )

    def part(self, family: ModelFamily, part: str) -> Precision:
        """The precision that a part is built in."""
        return self.own.get(part) or build_precision(family, part, self.default)

    def note(self, family: ModelFamily, part: str) -> str:
        """Why a part has another precision than the default, as a clause; "" if it has the default
        or the user chose it."""
        found = self.part(family, part)
        if part in self.own or found == self.default:
            return ""
        return (
            f"is in {found}, because {self.default} overflows in this part of the model; ONNX "
            f"Runtime cannot run it on a CPU (--precision {self.default},{part}=fp32 can)"
        )
