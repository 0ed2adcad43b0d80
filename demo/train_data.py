"""The scenes a model is trained on: drawn once, kept in memory, their captions as tokens.

Drawing costs 0.64 ms a scene of 64 pixels and 2 ms one of 128: 65,536 small ones and 32,768 large
ones take a minute on two cores, and at most 1.6 GB. Encoding costs more, and a run of two hours
meets each latent some ten times, which an 8 M model cannot learn by heart: encoding fresh scenes
for every batch would take a fifth of the time for nothing. It knows nothing of networks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo import scenes
from demo.drawing import Pixels
from demo.random_checkpoint import make_tokenizer

HELD_OUT = scenes.training_seeds(512, start=990_000)
"""Seeds of the training range that no step sees: PSNR and sheets are of these."""

_PIECE = 1024


def draw(seeds: range, size: int) -> tuple[Pixels, list[str]]:
    """Pictures, uint8 [N, size, size, 3], and captions, drawn by all cores where that pays."""
    workers = min(os.cpu_count() or 1, 32)
    pieces = [seeds[i : i + _PIECE] for i in range(0, len(seeds), _PIECE)]
    if workers == 1 or len(pieces) < 2 * workers:
        return scenes.batch(seeds, size)
    images = np.empty((len(seeds), size, size, 3), np.uint8)
    captions: list[str] = []
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads' locks
    with ProcessPoolExecutor(workers, context, initializer=_deaf) as pool:
        for drawn, said in pool.map(scenes.batch, pieces, [size] * len(pieces)):
            images[len(captions) : len(captions) + len(said)] = drawn
            captions += said
    return images, captions


def _deaf() -> None:
    """Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def to_floats(images: Pixels) -> Tensor:
    """uint8 [N, H, W, 3] as float32 [N, 3, H, W] from -1 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


class Captions:
    """CLIP tokens of captions, every word of a scene's caption one token."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTokenizer

        self.folder = folder
        self.size = make_tokenizer(folder, scenes.WORDS)
        self._tokenizer: Any = CLIPTokenizer.from_pretrained(folder)

    def tokens(self, captions: list[str]) -> Tensor:
        """int64 [N, 77], begin, words, end, padded with end, as Stable Diffusion does."""
        found = self._tokenizer(
            captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        ids: Tensor = found.input_ids
        return ids
