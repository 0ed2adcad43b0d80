"""Parse and check the lines of a `batch` file one by one, before a model is loaded.

A problem in one line does not stop the others: it becomes the error of that line.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffedit import checks
from diffedit.cli.errors import UsageError
from diffedit.cli.inputs import STDIN
from diffedit.cli.output_files import check_extension, check_target
from diffedit.request import PARAMETERS, RANGES, EditRequest

PATHS = ("image", "out", "mask_image")
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Line:
    """One line of the file, parsed but not yet checked.

    Attributes:
        number: line number, from 1.
        fields: the JSON object; empty if the line is not one.
        problem: why the line is not a JSON object, or "".
        folder: folder that relative paths start from.
    """

    number: int
    fields: dict[str, Any]
    problem: str
    folder: Path

    def checked(self) -> dict[str, Any]:
        """Return the JSON object; raises UsageError if the line is not one."""
        if self.problem:
            raise UsageError(
                f"Line {self.number} is not a JSON object ({self.problem}); write {{...}} on a "
                "single line."
            )
        return self.fields

    def path(self, name: str) -> Path | None:
        """Return the path in a field, or None. Raises UsageError or InvalidRequest."""
        value = self.checked().get(name)
        if _is_null(value):
            return None
        if not isinstance(value, str) or not value:
            raise UsageError(
                f"{name} must be a path, not {checks.short_repr(value)}; fix line {self.number}."
            )
        checks.path(name, value, "a file")
        return self.folder / value

    def request(self) -> EditRequest:
        """Return the request without its pictures; raises InvalidRequest for a wrong option."""
        for name in self.checked():
            if name not in (*PATHS, *PARAMETERS):
                raise checks.unknown("parameter", name, (*PATHS, *PARAMETERS))
        values = {n: v for n, v in self.checked().items() if n not in PATHS}
        return EditRequest.from_parameters(b"", without_pandas_traces(values))


@dataclass(frozen=True)
class LineEdit:
    """A checked line.

    Attributes:
        number: line number, from 1.
        image, mask_image, out: its files; only `out` has been checked.
        request: its options, without pictures.
    """

    number: int
    image: Path
    mask_image: Path | None
    out: Path
    request: EditRequest


@dataclass
class FileNames:
    """The files in all lines, by their real paths, with the number of the first line."""

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, lines: Iterable[Line]) -> FileNames:
        """Collect the inputs of all lines; `check_line` adds the outputs."""
        names = cls()
        for line in lines:
            for name in ("image", "mask_image"):
                value = line.fields.get(name)
                if isinstance(value, str) and value and "\0" not in value:
                    names.inputs.setdefault(_real(line.folder / value), line.number)
        return names


def read_lines(name: str) -> list[Line]:
    """Read all lines that are not blank; raises UsageError if there are none."""
    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{name} cannot be read ({reason}); pass a file of JSON lines.") from None
    if data.startswith(UTF16):
        raise UsageError(f"{name} is not UTF-8 text, but UTF-16; save it as UTF-8.")
    folder = Path() if name == STDIN else Path(name).parent
    # Not splitlines(), which also splits at U+2028 and others; they are valid inside JSON.
    numbered = enumerate(data.split(b"\n"), 1)
    lines = [_parse(number, raw, folder) for number, raw in numbered if _has_content(raw)]
    if not lines:
        raise UsageError(f"{name} contains no edits; write one JSON object per line.")
    return lines


def check_line(line: Line, names: FileNames) -> LineEdit:
    """Check a line and its target; reads no picture.

    Args:
        line: the line.
        names: the files of all lines; updated with this line's output.

    Raises:
        InvalidRequest: the line or an option is invalid, or the output is another line's file.
        OutputError: the output cannot be written.
    """
    out, image, mask = line.path("out"), line.path("image"), line.path("mask_image")
    if out is None or image is None:
        missing = "image" if image is None else "out"
        raise UsageError(f"Line {line.number} has no {missing}; add the path of a file.")
    check_extension(out)
    if out.suffix.lower() != ".png":
        raise UsageError(
            f"{out} is not a PNG, and only PNG stores the parameters to resume from; use .png."
        )
    first = names.outputs.setdefault(_real(out), line.number)
    if first != line.number:
        raise UsageError(f"{out} is also the output of line {first}; use different names.")
    if _real(out) in names.inputs:
        raise UsageError(
            f"{out} is also an input of line {names.inputs[_real(out)]}, and inputs are never "
            "overwritten; use another name."
        )
    check_target(out)
    return LineEdit(line.number, image, mask, out, line.request())


def without_pandas_traces(values: dict[str, Any]) -> dict[str, Any]:
    """Undo the changes of a pandas table: drop nulls (None or NaN), and read 7.0 as 7."""

    def plain(name: str, value: Any) -> Any:
        whole = name in RANGES and RANGES[name].whole
        return int(value) if whole and isinstance(value, float) and value.is_integer() else value

    return {
        name: plain(name, value)
        for name, value in values.items()
        if not (_is_null(value) and name in PARAMETERS)
    }


def _is_null(value: object) -> bool:
    return value is None or value != value  # NaN differs from itself


def _has_content(raw: bytes) -> bool:
    return bool(raw.removeprefix(codecs.BOM_UTF8).strip())


def _parse(number: int, raw: bytes, folder: Path) -> Line:
    try:
        text = raw.decode("utf-8-sig")
        fields = json.loads(text, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        return Line(number, {}, f"byte {error.start + 1} is not UTF-8 text", folder)
    except json.JSONDecodeError as error:
        return Line(number, {}, f"{error.msg}, column {error.colno}", folder)
    except ValueError as error:  # a repeated key, or a number with thousands of digits
        return Line(number, {}, str(error).split(";")[0], folder)
    except RecursionError:
        return Line(number, {}, "nested too deep", folder)
    if not isinstance(fields, dict):
        return Line(number, {}, f"it is a {type(fields).__name__}", folder)
    return Line(number, fields, "", folder)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of JSON; raises ValueError if a key is repeated."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {checks.short_repr(repeated)} is repeated")
    return values


def _real(path: Path) -> str:
    """Return the file that a path leads to. In contrast to Path.resolve, loops raise no error."""
    return os.path.realpath(path)
