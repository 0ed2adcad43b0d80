"""`Edit`: one of several edits of a photograph in one request. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from diffedit import checks
from diffedit.checks import InvalidRequest, named_fields, short_repr, unknown
from diffedit.visible_text import without_blanks

if TYPE_CHECKING:
    from diffedit.request import EditRequest

MAX_TEXT = 4096
"""Maximum characters of a prompt. A text encoder reads far less: 77 tokens."""
MAX_EDITS = 16
"""Edits of one request. Each adds a row to every step."""
ARROW = "->"
METHODS = ("diffedit", "masked-sdedit")
"""The methods that make several edits in one pass."""


@named_fields
@dataclass(frozen=True)
class Edit:
    """One edit: two texts.

    Attributes:
        prompt: Q, what should be there. 1 to 4096 characters, not blank.
        source_prompt: R, what is there. Up to 4096 characters. Default "": the unconditional text.

    Raises:
        InvalidRequest: a text is not valid.
    """

    prompt: str
    source_prompt: str = ""

    def __post_init__(self) -> None:
        shown = self.prompt
        for field in fields(self):
            given = checks.text(field.name, getattr(self, field.name), MAX_TEXT)
            object.__setattr__(self, field.name, without_blanks(given))
        if not self.prompt:
            raise InvalidRequest(
                f"prompt is blank ({short_repr(shown)}), but it describes the edited "
                "picture; write a few words such as 'a bowl of pears'."
            )

    @classmethod
    def of(cls, value: object) -> Edit:
        """Convert a value to an Edit. Raises InvalidRequest.

        Args:
            value: an Edit, a mapping of its fields, a pair (source, prompt), or "source -> prompt".

        Examples:
            >>> Edit.of("a red cup -> a green cup")
            Edit(prompt='a green cup', source_prompt='a red cup')
        """
        if isinstance(value, Edit):
            return value
        if isinstance(value, Mapping):
            return cls._of_mapping(value)
        if isinstance(value, str) and ARROW in value:
            value = [part.strip() for part in value.split(ARROW)]
        if isinstance(value, tuple | list) and len(value) == 2:
            return cls(value[1], value[0])
        raise InvalidRequest(
            f"An edit is {short_repr(value)}, but must be an Edit, its fields as a mapping, a pair "
            f"(source, prompt), or text with one arrow such as 'a red cup {ARROW} a green cup'.",
            field="edits",
        )

    @classmethod
    def _of_mapping(cls, value: Mapping[Any, Any]) -> Edit:
        names = tuple(field.name for field in fields(cls))
        for name in value:
            if name not in names:
                raise unknown("field of an edit", name, names)
        return cls(**value)


EditSource: TypeAlias = Edit | Mapping[str, str] | Sequence[str]
"""What `Edit.of` reads: an Edit, its fields, a pair (source, prompt), or "source -> prompt"."""


def checked_edits(value: object) -> tuple[Edit, ...]:
    """The edits of a request. Raises InvalidRequest, with the number of a wrong one."""
    if isinstance(value, str | bytes | Mapping | Edit) or not isinstance(value, Iterable):
        raise InvalidRequest(
            f"edits is {short_repr(value)}, but must be a list of edits; put a single one in a "
            "list.",
            field="edits",
        )
    values = list(value)
    if len(values) > MAX_EDITS:
        raise InvalidRequest(
            f"edits has {len(values)} edits, but at most {MAX_EDITS} are allowed in one pass; "
            "apply the others to the result.",
            field="edits",
        )
    return tuple(_checked(number, one) for number, one in enumerate(values, 1))


def _checked(number: int, value: object) -> Edit:
    try:
        return Edit.of(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"Edit {number}: {error}", field="edits") from None


def check_edits(request: EditRequest) -> None:
    """Raise InvalidRequest for options that contradict `edits`, which is not empty."""
    for name in ("prompt", "source_prompt"):
        if getattr(request, name):
            raise InvalidRequest(
                f"{name} is {short_repr(getattr(request, name))}, but edits is given, which has "
                f"the texts of every edit; add it to edits, and leave out {name}.",
                field="edits",
            )
    if request.mask_image is not None:
        raise InvalidRequest(
            "mask_image is given, but each of the edits finds its own mask; leave out one of them.",
            field="edits",
        )
    if request.method not in METHODS:
        raise InvalidRequest(
            f"method is {request.method!r}, which makes one edit at a time; leave out edits or use "
            f"method={' or '.join(map(repr, METHODS))}.",
            field="edits",
        )
    if request.focus:
        raise InvalidRequest(
            f"focus is {request.focus!r}, but a window is chosen around one edit; leave out focus, "
            "or make the edits one after the other.",
            field="edits",
        )
