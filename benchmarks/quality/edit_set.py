"""An edit set: a file with one json object a line, and the pictures that it names.

    {"image": "cats/1.jpg", "prompt": "a dog", "source": "a cat", "mask": "cats/1.png", "seed": 3}

The whole file is checked before the first edit. Pictures are opened one by one; one that cannot be
read fails its own edit only.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short  # keeps messages short
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from diffedit.imaging import decode
from diffedit.request import EditRequest, InvalidRequest

KEYS = ("image", "prompt", "source", "mask", "seed", "name")
"""The keys of a line; the first two are required. null counts as left out."""
LONGEST_NAME = 200
"""Bytes of a name in UTF-8; file systems take 255, extension included."""


class SetError(InvalidRequest):
    """The file cannot be used; the message names the line and the reason."""


class EntryError(InvalidRequest):
    """A picture of one line cannot be used; the other lines can."""


@dataclass(frozen=True)
class Entry:
    """One line, checked except for its pictures.

    Attributes:
        line: its number in the file, from 1.
        name: unique, and valid as a file name.
        image: the photograph; relative paths start from the set's folder.
        source: R, the source text; empty for the unconditional text.
        prompt: Q, the target text.
        mask: the true mask, white where the edit belongs, or None.
        seed: of all noise.
    """

    line: int
    name: str
    image: Path
    source: str
    prompt: str
    mask: Path | None
    seed: int


def read_set(path: str | Path) -> list[Entry]:
    """Read every line that is not blank. Raises SetError; opens no picture."""
    path = Path(path)
    try:
        rows = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise SetError(
            f"{path} cannot be read ({error.strerror}); name a file of json lines."
        ) from None
    # Not splitlines(): json may hold U+2028 and others of its separators inside a text.
    entries = [_entry(row, n, path) for n, row in enumerate(rows, 1) if row.strip()]
    if not entries:
        raise SetError(f"{path} holds no edits; write one json object a line.")
    lines: dict[str, int] = {}
    for entry in entries:
        first = lines.setdefault(entry.name, entry.line)
        if first != entry.line:
            raise SetError(
                f"Line {entry.line} of {path} has the name {entry.name!r} of line {first}; give "
                "each its own."
            )
    return entries


def load(entry: Entry) -> tuple[Image, NDArray[np.bool_] | None]:
    """The photograph as upright RGB, and its true mask, bool [H, W] at the photograph's size.

    Raises EntryError where one is missing or damaged, or where their aspect ratios differ.
    """
    try:
        photo = decode.load(entry.image)
        if entry.mask is None:
            return photo, None
        return photo, np.asarray(decode.load_mask(entry.mask, photo.size)) > 0
    except InvalidRequest as error:
        raise EntryError(f"Line {entry.line}: {error}") from None


def _entry(row: bytes, number: int, path: Path) -> Entry:
    """Parse one line. Raises SetError."""
    where = f"Line {number} of {path}"
    parsed = _parsed(row, where)
    for key in parsed:
        if key not in KEYS:
            raise SetError(f"{where} has the unknown key {short(key)}; {_nearest(key)}")
    fields = {key: value for key, value in parsed.items() if value is not None}
    for key in ("image", "prompt"):
        if key not in fields:
            raise SetError(f"{where} has no {key}; every line needs an image and a prompt.")
    image = _path("image", fields, where)
    mask = _path("mask", fields, where) if "mask" in fields else None
    wanted = _request(fields, where)
    name = _name(fields["name"], where) if "name" in fields else _default_name(image, number)
    return Entry(
        number,
        name,
        path.parent / image,
        wanted.source_prompt,
        wanted.prompt,
        path.parent / mask if mask is not None else None,
        wanted.seed,
    )


def _parsed(row: bytes, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(row.decode("utf-8"))
    except UnicodeDecodeError:
        raise SetError(f"{where} is no UTF-8 text; save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise SetError(
            f"{where} is no json ({error.msg}, column {error.colno}); write {{...}} on one line."
        ) from None
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        raise SetError(
            f"{where} holds a number or a nesting beyond all use; write {{...}} on one line."
        ) from None
    if not isinstance(fields, dict):
        raise SetError(f"{where} is no json object; write {{...}} on one line.")
    return fields


def _request(fields: dict[str, Any], where: str) -> EditRequest:
    """Check the texts and the seed as `EditRequest` does."""
    try:
        return EditRequest(
            b"",
            fields["prompt"],
            source_prompt=fields.get("source", ""),
            seed=fields.get("seed", 0),
        )
    except InvalidRequest as error:
        said = str(error)
        if said.startswith("source_prompt"):  # the key is called source here
            said = "source" + said.removeprefix("source_prompt")
        raise SetError(f"{where}: {said}") from None


def _path(key: str, fields: dict[str, Any], where: str) -> Path:
    value = fields[key]
    if not isinstance(value, str) or not value.strip() or not _is_text(value):
        raise SetError(f"{where} has the {key} {short(value)}, but it must be a path; name a file.")
    return Path(value)


def _name(value: object, where: str) -> str:
    """A name that is safe as a file name."""
    if not isinstance(value, str) or not value.strip():
        raise SetError(f"{where} has the name {short(value)}, but it must be text; or leave it.")
    if value != _safe(value) or len(value.encode()) > LONGEST_NAME:
        raise SetError(
            f"{where} has the name {short(value)}, but files are called by it; take letters, "
            f"digits and dashes, at most {LONGEST_NAME} bytes."
        )
    return value


def _default_name(image: Path, number: int) -> str:
    return f"{_safe(image.stem)[:40] or 'edit'}-{number}"


def _safe(name: str) -> str:
    """The name with characters that a file name must not have replaced."""
    return "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name).lstrip(".")


def _is_text(value: str) -> bool:
    """Whether a path can hold it: no NUL, no surrogates."""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _nearest(key: str) -> str:
    """A suggestion for an unknown key; a key that begins like a known one comes first."""
    begins = [known for known in KEYS if key.startswith(known)]
    close = begins or difflib.get_close_matches(key, KEYS, n=1)
    return f"did you mean {close[0]!r}?" if close else f"take one of {', '.join(KEYS)}."
