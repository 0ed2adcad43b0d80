"""Check the arguments of `DiffEditPipeline.from_pretrained` that are files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from diffedit import checks
from diffedit.checks import InvalidRequest, Range, short_repr
from engine.models.distilling_lora import SCHEDULERS
from engine.models.noise_schedule import PREDICTION_TYPES

LORA_SCALE = Range(-100, 100)
CLIP_SKIP = Range(0, 100, whole=True)


def path_or_none(name: str, value: object) -> Path | None:
    """Return a path with "~" expanded; None stays None."""
    return None if value is None else expanded(name, checks.path(name, value))


def expanded(name: str, path: str | Path) -> Path:
    """Expand "~". Raises InvalidRequest if there is no such user, or the user has no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidRequest(
            f"{name} is {str(path)!r}, but there is no such home folder; write the whole path."
        ) from None


def single_file(value: object) -> str | Path:
    """Refuse a folder."""
    path = checks.path("path", value, "a single .safetensors file")
    if expanded("path", path).is_dir():
        raise InvalidRequest(f"path is {path}, which is a folder; use from_pretrained for it.")
    return path


def base(value: object) -> str | Path | None:
    """Return a folder or a hub id."""
    if value is None:
        return None
    named = checks.path("base", value, "a model folder, or a hub id")
    expanded("base", named)
    return named


def _pairs(value: Iterable[object]) -> Iterable[object]:
    """The items of a list; those of a dict are (key, value)."""
    return value.items() if isinstance(value, Mapping) else value


def embeddings(value: object) -> tuple[tuple[Path, str | None], ...]:
    """(file, token) of each textual inversion."""
    if isinstance(value, str | bytes | Path) or not isinstance(value, Iterable):
        raise InvalidRequest(
            f"embeddings is {short_repr(value)}, but must be a list; pass files, each alone or as "
            "(file, token)."
        )
    return tuple(_embedding(item) for item in _pairs(value))


def _embedding(value: object) -> tuple[Path, str | None]:
    pair = value if isinstance(value, tuple | list) else (value, None)
    if len(pair) != 2 or not isinstance(pair[1], str | None):
        raise InvalidRequest(
            f"embeddings contains {short_repr(value)}; pass a file or (file, token)."
        )
    return expanded("embeddings", checks.path("embeddings", pair[0], "a file")), pair[1]


def clip_skip(value: object) -> int:
    """Return a whole number from 0 on."""
    return int(checks.number("clip_skip", value, CLIP_SKIP, 0))


def prediction_type(value: object) -> str | None:
    """Return the prediction type of a U-Net; None stays None."""
    return None if value is None else checks.choice("prediction_type", value, PREDICTION_TYPES)


def scheduler(value: object) -> str | None:
    """Return the scheduler of a distilling LoRA; None stays None."""
    return None if value is None else checks.choice("scheduler", value, tuple(SCHEDULERS))


def loras(value: object) -> tuple[tuple[Path, float], ...]:
    """(file, scale) of each LoRA."""
    if isinstance(value, str | bytes | Path) or not isinstance(value, Iterable):
        raise InvalidRequest(
            f"lora is {short_repr(value)}, but must be a list; pass files, each alone or as "
            "(file, scale)."
        )
    return tuple(_lora(item) for item in _pairs(value))


def _lora(value: object) -> tuple[Path, float]:
    pair = value if isinstance(value, tuple | list) else (value, 1.0)
    if len(pair) != 2:
        raise InvalidRequest(f"lora contains {short_repr(value)}; pass a file or (file, scale).")
    path = expanded("lora", checks.path("lora", pair[0], "a LoRA file"))
    return path, float(checks.number("the scale of lora", pair[1], LORA_SCALE, 1.0))
