"""The result schema that every benchmark uses, and the files that hold results.

A file is `{"schema": 2, "results": [...]}`. A result holds measurements with the settings, the
machine and the commit. This module does not know how anything is measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import DiffEditError

SCHEMA = 2
COMMITTED = Path(__file__).parent / "results"
"""The results that this repository publishes: of clean commits only."""
UNCOMMITTED = COMMITTED / "uncommitted"
"""Results of trees with uncommitted changes. Nobody can check out what they measured."""


class ResultError(DiffEditError):
    """A result file cannot be read, written or compared; the message is one sentence."""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Machine:
    """The device and the software of a measurement. None: not recorded, or not present.

    Attributes:
        device: the GPU's name, or the processor's with its cores and widest instructions.
        nvidia: driver version, clocks and power as nvidia-smi reports them.
        commit, dirty: of this repository; dirty means that files were changed since the commit.
    """

    device: str
    gpu: str | None = None
    gpu_memory_gib: float | None = None
    nvidia: dict[str, str] | None = None
    cpu: str | None = None
    cores: int | None = None
    memory_gib: float | None = None
    threads: int | None = None
    python: str | None = None
    torch: str | None = None
    cuda: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    dirty: bool | None = None

    @property
    def clean(self) -> bool:
        """Whether the commit holds everything that was measured."""
        return self.commit is not None and self.dirty is False


@dataclass(frozen=True)
class Model:
    """The checkpoint: its folder's name and the bytes of its denoiser's weights."""

    name: str
    denoiser_bytes: int | None = None


@dataclass(frozen=True)
class Measurement:
    """One figure. Name and labels identify it: no other row of the result has both.

    Attributes:
        name: what was measured, e.g. "edit".
        value: the median of the repeats, or another `statistic`; None where it is not a number.
        unit: e.g. "s", "edits/s", "dB"; "" for shares and counts.
        labels: what tells rows of one name apart, e.g. {"rung": "ours, fp32"}.
        low, high: the spread: minimum and maximum, or the interval that `spread` names.
        repeats: how many values the statistic was taken of.
        extras: other facts about the row, e.g. {"rows": 44, "quality": {"mask_iou": 1.0}}.
    """

    name: str
    value: float | None
    unit: str = ""
    labels: dict[str, Any] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    repeats: int = 1
    statistic: str = "median"
    spread: str = "min-max"
    extras: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        samples: Sequence[float],
        unit: str = "s",
        labels: Mapping[str, Any] | None = None,
        **extras: Any,
    ) -> Measurement:
        """The median of samples with their minimum and maximum."""
        middle, low, high = (rounded(pick(samples)) for pick in (statistics.median, min, max))
        return cls(name, middle, unit, dict(labels or {}), low, high, len(samples), extras=extras)

    @property
    def title(self) -> str:
        """Name and labels in one line, e.g. "call (network denoiser, rows 2)"."""
        labels = ", ".join(f"{key} {value}" for key, value in self.labels.items())
        return f"{self.name} ({labels})" if labels else self.name


@dataclass(frozen=True)
class Check:
    """A bound or a target: a sentence with the measured value, and whether it was met."""

    text: str
    met: bool

    def __str__(self) -> str:
        return f"{'reached' if self.met else 'MISSED '}  {self.text}"


@dataclass(frozen=True)
class NotRun:
    """A part that could not be measured, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Result:
    """One run of one benchmark.

    Attributes:
        settings: what must be equal for two results to be compared, e.g. steps and picture size.
        configuration: how it was computed, e.g. the backend; results may differ in it.
        model: None for benchmarks without a checkpoint.
        date: when it was measured, in UTC, e.g. "2026-11-26T16:40:00+00:00".
    """

    benchmark: str
    machine: Machine
    settings: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    model: Model | None = None
    measurements: tuple[Measurement, ...] = ()
    checks: tuple[Check, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    date: str | None = field(default_factory=_now)

    def __post_init__(self) -> None:
        titles = [row.title for row in self.measurements]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ResultError(
                f"The result of {self.benchmark} has two rows {twice[0]!r}; add labels that "
                "tell them apart."
            )

    def find(self, name: str, **labels: Any) -> Measurement:
        """The measurement of this name with at least these labels. Raises KeyError."""
        for row in self.measurements:
            if row.name == name and labels.items() <= row.labels.items():
                return row
        raise KeyError(f"{self.benchmark} has no {name} with {labels}")

    def to_json(self) -> dict[str, Any]:
        """The result as json types; values that are not a number become null."""
        found: dict[str, Any] = _finite(dataclasses.asdict(self))
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Read one result. Raises KeyError or TypeError where it is not of this schema."""
        fields: dict[str, Any] = {"date": None, **data, "machine": Machine(**data["machine"])}
        lists = {"measurements": Measurement, "checks": Check, "not_run": NotRun}
        for key, kind in lists.items():
            fields[key] = tuple(kind(**one) for one in data.get(key, ()))
        if data.get("model") is not None:
            fields["model"] = Model(**data["model"])
        return cls(**fields)


def rounded(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


def dumps(results: Iterable[Result], *, lines: bool = False) -> str:
    """The text of a result file: one line of json, or with `lines` one line a measurement."""
    content = {"schema": SCHEMA, "results": [result.to_json() for result in results]}
    text = json.dumps(content, allow_nan=False)
    return text.replace('{"name": ', '\n{"name": ') if lines else text


def load(path: Path) -> list[Result]:
    """The results in a file. Raises ResultError where it is not a result file of this schema."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror or error}).") from None
    except ValueError:
        raise ResultError(f"{path} is not JSON; pass a file that a benchmark wrote.") from None
    if not isinstance(content, dict) or "schema" not in content:
        raise ResultError(f"{path} has no results; pass a file that a benchmark wrote.")
    if content["schema"] != SCHEMA:
        raise ResultError(
            f"{path} has schema {content['schema']!r}, but this version reads {SCHEMA}; measure "
            "again with this version."
        )
    try:
        return [Result.from_json(one) for one in content["results"]]
    except (ResultError, KeyError, TypeError) as error:
        raise ResultError(f"{path} does not follow the schema: {error}") from None


def save(path: Path, results: Iterable[Result]) -> None:
    """Write a file, whole or not at all. Raises ResultError where that fails, and for a result of
    uncommitted changes in the folder of published results."""
    results = list(results)
    check_publishable(path, *(result.machine for result in results))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(dumps(results, lines=True) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ResultError(f"{path} cannot be written ({error.strerror or error}).") from None


def check_publishable(path: Path, *machines: Machine) -> None:
    """Raises ResultError if `path` publishes results and a tree was not clean."""
    folder = path.resolve().parent
    if COMMITTED not in (folder, *folder.parents) or UNCOMMITTED in (folder, *folder.parents):
        return
    for one in machines:
        if not one.clean:
            tree = f"{one.commit} with uncommitted changes" if one.commit else "an unknown commit"
            raise ResultError(
                f"{path} is among the published results, but this result is of {tree}; commit "
                f"first, or write to another folder such as build/."
            )


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which json does not have, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
