"""What stands in a box of a picture: which kind of the demo's objects, and in which colour.

A small network that saw only renders (`demo.train_judge`) looks at one crop at a time and answers
with a kind and a colour, or that no whole object is there. It knows nothing of models, prompts or
edits, so it can say of any picture whether it shows what was asked for.
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
"""Where the judge that belongs to this version of the scenes lies."""

WEIGHTS, FACTS = "judge.safetensors", "judge.json"

CROP = 32
"""Side of what the network sees, in pixels."""

ENLARGED = 1.15
"""An object's box grows by this before it is cropped: what surrounds it shows where it ends."""

NOTHING = len(KINDS)
"""The class of a crop without a whole object."""

_WIDTHS = (16, 32, 48, 64, 96, 96)
_STRIDES = (1, 2, 2, 1, 2, 1)
_PIXELS = 1 << 20  # of the pictures looked at together: bounds the memory


class JudgeError(Exception):
    """Why there is no judge to be had from a folder, in one sentence."""


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What was seen in each crop: None for both where no whole object is.

    `confidence` float32 [N] is the probability the network gives its answer, kind and colour
    together.
    """

    kinds: list[str | None]
    colours: list[str | None]
    confidence: NDArray[np.float32]


class Network(nn.Module):
    """Six convolutions, an average over all places, and a linear layer for each question."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*_layers())
        self.kind = nn.Linear(_WIDTHS[-1], len(KINDS) + 1)
        self.colour = nn.Linear(_WIDTHS[-1], len(COLOURS))

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, float32 [N, kinds + 1] and [N, colours], of crops [N, 3, 32, 32] in 0..1."""
        found = self.body(4 * seen - 2).mean((2, 3))
        return self.kind(found), self.colour(found)


def _layers() -> Iterator[nn.Module]:
    before = 3
    for width, stride in zip(_WIDTHS, _STRIDES, strict=True):
        yield nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        yield nn.BatchNorm2d(width)
        yield nn.ReLU(inplace=True)
        before = width


class Judge:
    """A trained network and the facts about it; looks on the CPU."""

    def __init__(self, network: Network, facts: dict[str, Any]) -> None:
        self.network, self.facts = network.to("cpu").eval(), facts

    @classmethod
    def open(cls, folder: Path = FOLDER) -> Judge:
        """The judge in `folder`; JudgeError if it is missing, damaged or knows other classes."""
        facts = _facts(folder)
        network = Network()
        try:
            data = (folder / WEIGHTS).read_bytes()
            network.load_state_dict(load(data))
        except FileNotFoundError:
            raise _missing(folder, WEIGHTS) from None
        except (OSError, RuntimeError, SafetensorError) as error:  # torch: other names or shapes
            raise _damaged(folder, WEIGHTS) from error
        if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
            raise _damaged(folder, WEIGHTS)
        return cls(network, facts)

    def save(self, folder: Path) -> None:
        """Write it into `folder`, whole or not at all; JudgeError if that is impossible.

        The facts name the weights' digest: two files of different judges are found out.
        """
        weights = save({k: v.contiguous() for k, v in self.network.state_dict().items()})
        classes = {"kinds": KINDS, "colours": COLOURS}
        facts = {**classes, **self.facts, "sha256": hashlib.sha256(weights).hexdigest()}
        files = {WEIGHTS: weights, FACTS: f"{json.dumps(facts, indent=1)}\n".encode()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".judge-") as made:
                for name, content in files.items():
                    (Path(made) / name).write_bytes(content)
                for name in files:
                    os.replace(Path(made) / name, folder / name)
        except OSError as error:
            raise JudgeError(f"cannot write {folder}: {error}") from error

    @torch.inference_mode()
    def look(self, images: Pixels, boxes: NDArray[np.floating[Any]]) -> Verdicts:
        """What stands in one box of each picture.

        images: uint8 [N, S, S, 3], S of 16 or more. boxes: [N, 4], (left, top, right, bottom) as
        shares of the side, as `scenes.Object.box`; each within one side of the picture. ValueError
        if they are not.
        """
        _check(images, boxes)
        kinds, colours = [torch.empty((0, NOTHING + 1))], [torch.empty((0, len(COLOURS)))]
        together = max(1, _PIXELS // images.shape[1] ** 2)
        for i in range(0, len(images), together):
            part = slice(i, i + together)
            where = torch.from_numpy(boxes[part].astype(np.float32))
            pictures = to_shares(torch.from_numpy(images[part].copy()))
            kind, colour = self.network(crops(pictures, where))
            kinds.append(kind.softmax(1))
            colours.append(colour.softmax(1))
        sure, kind = torch.cat(kinds).max(1)
        painted, colour = torch.cat(colours).max(1)
        whole = kind != NOTHING
        return Verdicts(
            [KINDS[k] if k != NOTHING else None for k in kind.tolist()],
            [COLOURS[c] if w else None for c, w in zip(colour.tolist(), whole, strict=True)],
            torch.where(whole, sure * painted, sure).numpy(),
        )


def to_shares(images: Tensor) -> Tensor:
    """uint8 [N, S, S, 3] as float32 [N, 3, S, S] in 0..1."""
    return images.permute(0, 3, 1, 2).contiguous().float().div_(255)


def crops(pictures: Tensor, boxes: Tensor, blur: Tensor | None = None) -> Tensor:
    """Each picture's box, enlarged, float32 [N, 3, 32, 32].

    pictures: float32 [N, 3, S, S]; boxes: float32 [N, 4]. Bilinear with anti-aliasing, as Pillow
    resizes: two products with one matrix for each axis. Past the border the edge is repeated.
    `blur` float32 [N] softens each picture first: a Gaussian's deviation in pixels.
    """
    side = pictures.shape[-1]
    centres = side / 2 * (boxes[:, :2] + boxes[:, 2:])
    lengths = side * ENLARGED * (boxes[:, 2:] - boxes[:, :2])
    across = _taps(centres[:, 0], lengths[:, 0], side)
    down = _taps(centres[:, 1], lengths[:, 1], side)
    if blur is not None:
        soft = _gaussian(blur, side)
        across, down = across @ soft, down @ soft
    return down[:, None] @ pictures @ across[:, None].mT


def _taps(centre: Tensor, length: Tensor, side: int) -> Tensor:
    """What each of `side` pixels gives to each of 32 samples, float32 [N, 32, side]; rows sum to 1.

    A sample is a triangle over the pixels around it, as wide as the step to the next one, but no
    narrower than a pixel. centre, length: float32 [N], in pixels.
    """
    numbers = torch.arange(CROP, device=centre.device) - (CROP - 1) / 2
    step = (length / CROP)[:, None]
    reach = step.clamp(min=1.0)
    at = centre[:, None] + step * numbers
    at = at.clamp(-reach, side + reach)  # farther out there is nothing but edge
    beyond = 2 * int(reach.max().ceil())
    pixels = torch.arange(-beyond, side + beyond, device=centre.device) + 0.5
    weights = (1 - (pixels - at[..., None]).abs() / reach[..., None]).clamp(min=0)
    weights = weights / weights.sum(-1, keepdim=True)
    before, inside, after = weights.split([beyond, side, beyond], -1)
    kept: Tensor = inside.clone()
    kept[..., 0] += before.sum(-1)
    kept[..., -1] += after.sum(-1)
    return kept


def _gaussian(sigma: Tensor, side: int) -> Tensor:
    """What each pixel gives to each after blurring, float32 [N, side, side]; rows sum to 1."""
    at = torch.arange(side, device=sigma.device)
    far = (at[:, None] - at).square() / (2 * sigma.clamp(min=0.05).square())[:, None, None]
    return (-far).softmax(-1)


def _check(images: Pixels, boxes: NDArray[np.floating[Any]]) -> None:
    """ValueError if these are not N square pictures and a box for each."""
    count, *shape = images.shape if images.ndim == 4 else (0, 0, 0, 0)
    if images.dtype != np.uint8 or shape != [shape[0], shape[0], 3] or shape[0] < 16:
        raise ValueError(
            f"images are uint8 [N, S, S, 3] with S of 16 or more, not {images.dtype} "
            f"{list(images.shape)}"
        )
    if boxes.shape != (count, 4):
        raise ValueError(f"{count} images need boxes [{count}, 4], not {list(boxes.shape)}")
    near = (boxes >= -1).all() and (boxes <= 2).all()  # false for NaN as well
    if not near or not (boxes[:, :2] < boxes[:, 2:]).all():
        raise ValueError("a box is (left, top, right, bottom) in shares of the side, from -1 to 2")


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
            f"the judge in {folder} knows other kinds or colours than demo/scenes.py draws; "
            f"{_again(folder)}"
        )
    return dict(facts)


def _missing(folder: Path, name: str) -> JudgeError:
    return JudgeError(f"there is no {name} in {folder}; {_again(folder)}")


def _damaged(folder: Path, name: str) -> JudgeError:
    return JudgeError(f"{folder / name} is damaged or of another version; {_again(folder)}")


def _again(folder: Path) -> str:
    return f"train it with: python -m demo.train_judge --out {folder}"
