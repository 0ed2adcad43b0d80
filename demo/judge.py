"""The judge: a small classifier that names the kind and the colour of the object in a box.

It was trained on renders only (`demo.train_judge`). For each crop of a picture it returns a kind
and a colour, or that the crop holds no whole object.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from demo.scenes import COLOURS, KINDS, Pixels

FOLDER = Path(__file__).parent / "judge"
"""The folder of the judge for this version of the scenes."""

WEIGHTS, FACTS = "judge.safetensors", "judge.json"

CROP = 32
"""Side of the network's input in pixels."""

ENLARGED = 1.15
"""Scale of an object's box before the crop: the surroundings show where the object ends."""

NOTHING = len(KINDS)
"""The class of a crop without a whole object."""

_WIDTHS = (16, 32, 48, 64, 96, 96)
_STRIDES = (1, 2, 2, 1, 2, 1)
_BATCH_PIXELS = 1 << 20  # pixels of the pictures in one batch, which bounds the memory


class JudgeError(Exception):
    """A judge cannot be loaded or saved; the message is one sentence for the user."""


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The kind and colour in each crop; both are None if there is no whole object.

    `confidence`, float32 [N], is the network's probability of the answer, of kind and colour
    together.
    """

    kinds: list[str | None]
    colours: list[str | None]
    confidence: NDArray[np.float32]


class Network(nn.Module):
    """Six convolutions, average pooling, and a linear layer each for kind and colour."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*_layers())
        self.kind = nn.Linear(_WIDTHS[-1], len(KINDS) + 1)
        self.colour = nn.Linear(_WIDTHS[-1], len(COLOURS))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, kinds + 1] and [N, colours]; crops: float32 [N, 3, 32, 32] in 0..1."""
        features = self.body(4 * crops - 2).mean((2, 3))
        return self.kind(features), self.colour(features)


def _layers() -> Iterator[nn.Module]:
    before = 3
    for width, stride in zip(_WIDTHS, _STRIDES, strict=True):
        yield nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        yield nn.BatchNorm2d(width)
        yield nn.ReLU(inplace=True)
        before = width


class Judge:
    """A trained network on the CPU, and the facts of its training."""

    def __init__(self, network: Network, facts: dict[str, Any]) -> None:
        self.network, self.facts = network.to("cpu").eval(), facts

    @classmethod
    def open(cls, folder: Path = FOLDER) -> Judge:
        """Load a judge; JudgeError if it is missing, damaged or has other classes."""
        facts = _facts(folder)
        network = Network()
        try:
            data = (folder / WEIGHTS).read_bytes()
            network.load_state_dict(load(data))
        except FileNotFoundError:
            raise _missing(folder, WEIGHTS) from None
        except (OSError, RuntimeError, SafetensorError) as error:  # torch: wrong names or shapes
            raise _damaged(folder, WEIGHTS) from error
        if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
            raise _damaged(folder, WEIGHTS)
        return cls(network, facts)

    def save(self, folder: Path) -> None:
        """Write the judge completely or not at all; JudgeError if it cannot be written.

        The facts contain the digest of the weights, so `open` refuses files of two judges.
        """
        weights = save({k: v.contiguous() for k, v in self.network.state_dict().items()})
        classes = {"kinds": KINDS, "colours": COLOURS}
        facts = {**classes, **self.facts, "sha256": hashlib.sha256(weights).hexdigest()}
        files = {WEIGHTS: weights, FACTS: f"{json.dumps(facts, indent=1)}\n".encode()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".judge-") as new:
                for name, content in files.items():
                    (Path(new) / name).write_bytes(content)
                for name in files:
                    os.replace(Path(new) / name, folder / name)
        except OSError as error:
            raise JudgeError(f"cannot write {folder}: {error}") from error

    @torch.inference_mode()
    def look(self, images: Pixels, boxes: NDArray[np.floating[Any]]) -> Verdicts:
        """Classify the object in one box of each picture.

        images: uint8 [N, S, S, 3], S at least 16. boxes: [N, 4], (left, top, right, bottom) as
        fractions of the side like `scenes.Object.box`, in -1..2. Raises ValueError otherwise.
        """
        _check(images, boxes)
        kinds, colours = [torch.empty((0, NOTHING + 1))], [torch.empty((0, len(COLOURS)))]
        batch = max(1, _BATCH_PIXELS // images.shape[1] ** 2)
        for i in range(0, len(images), batch):
            part = slice(i, i + batch)
            regions = torch.from_numpy(boxes[part].astype(np.float32))
            pictures = to_shares(torch.from_numpy(images[part].copy()))
            kind, colour = self.network(crops(pictures, regions))
            kinds.append(kind.softmax(1))
            colours.append(colour.softmax(1))
        kind_share, kind = torch.cat(kinds).max(1)
        colour_share, colour = torch.cat(colours).max(1)
        whole = kind != NOTHING
        return Verdicts(
            [KINDS[k] if k != NOTHING else None for k in kind.tolist()],
            [COLOURS[c] if w else None for c, w in zip(colour.tolist(), whole, strict=True)],
            torch.where(whole, kind_share * colour_share, kind_share).numpy(),
        )


def to_shares(images: Tensor) -> Tensor:
    """Convert uint8 [N, S, S, 3] to float32 [N, 3, S, S] in 0..1."""
    return images.permute(0, 3, 1, 2).contiguous().float().div_(255)


def crops(pictures: Tensor, boxes: Tensor, blur: Tensor | None = None) -> Tensor:
    """Return the enlarged box of each picture, float32 [N, 3, 32, 32].

    pictures: float32 [N, 3, S, S]; boxes: float32 [N, 4]; blur: float32 [N], the deviation in
    pixels of a Gaussian that is applied first. The resampling is bilinear with anti-aliasing as in
    Pillow, one matrix product per axis. Outside the picture its border is repeated.
    """
    side = pictures.shape[-1]
    centres = side / 2 * (boxes[:, :2] + boxes[:, 2:])
    lengths = side * ENLARGED * (boxes[:, 2:] - boxes[:, :2])
    columns = _resampling(centres[:, 0], lengths[:, 0], side)
    rows = _resampling(centres[:, 1], lengths[:, 1], side)
    if blur is not None:
        gaussian = _gaussian(blur, side)
        columns, rows = columns @ gaussian, rows @ gaussian
    return rows[:, None] @ pictures @ columns[:, None].mT


def _resampling(centre: Tensor, length: Tensor, side: int) -> Tensor:
    """Return the weights of `side` pixels for 32 samples, float32 [N, 32, side]; rows sum to 1.

    centre, length: float32 [N], in pixels. The filter is a triangle whose half-width is the
    distance between two samples, at least one pixel.
    """
    numbers = torch.arange(CROP, device=centre.device) - (CROP - 1) / 2
    step = (length / CROP)[:, None]
    reach = step.clamp(min=1.0)
    at = centre[:, None] + step * numbers
    at = at.clamp(-reach, side + reach)  # beyond this there are only border pixels
    beyond = 2 * int(reach.max().ceil())
    pixels = torch.arange(-beyond, side + beyond, device=centre.device) + 0.5
    weights = (1 - (pixels - at[..., None]).abs() / reach[..., None]).clamp(min=0)
    weights = weights / weights.sum(-1, keepdim=True)
    before, inside, after = weights.split([beyond, side, beyond], -1)
    clamped: Tensor = inside.clone()
    clamped[..., 0] += before.sum(-1)
    clamped[..., -1] += after.sum(-1)
    return clamped


def _gaussian(sigma: Tensor, side: int) -> Tensor:
    """Return the matrix of a Gaussian blur, float32 [N, side, side]; rows sum to 1."""
    at = torch.arange(side, device=sigma.device)
    far = (at[:, None] - at).square() / (2 * sigma.clamp(min=0.05).square())[:, None, None]
    return (-far).softmax(-1)


def _check(images: Pixels, boxes: NDArray[np.floating[Any]]) -> None:
    """Raise ValueError unless these are N square pictures with one box each."""
    count, *shape = images.shape if images.ndim == 4 else (0, 0, 0, 0)
    if images.dtype != np.uint8 or shape != [shape[0], shape[0], 3] or shape[0] < 16:
        raise ValueError(
            f"images are uint8 [N, S, S, 3] with S at least 16, not {images.dtype} "
            f"{list(images.shape)}"
        )
    if boxes.shape != (count, 4):
        raise ValueError(f"{count} images need boxes [{count}, 4], not {list(boxes.shape)}")
    bounded = (boxes >= -1).all() and (boxes <= 2).all()  # false for NaN
    if not bounded or not (boxes[:, :2] < boxes[:, 2:]).all():
        raise ValueError(
            "a box is (left, top, right, bottom) in fractions of the side, from -1 to 2"
        )


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        kinds, colours = facts["kinds"], facts["colours"]
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(folder, FACTS) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder, FACTS) from error
    if kinds != list(KINDS) or colours != list(COLOURS):
        raise JudgeError(
            f"the judge in {folder} has other kinds or colours than demo.scenes draws; "
            f"{_remedy(folder)}"
        )
    return dict(facts)


def _missing(folder: Path, name: str) -> JudgeError:
    return JudgeError(f"there is no {name} in {folder}; {_remedy(folder)}")


def _damaged(folder: Path, name: str) -> JudgeError:
    return JudgeError(f"{folder / name} is damaged or of another version; {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"train it with: python -m demo.train_judge --out {folder}"
