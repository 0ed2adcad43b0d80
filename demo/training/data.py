"""The training data: scenes, drawn once and kept in memory, and their captions as tokens.

65,536 scenes of 64 pixels and 32,768 of 128 take about a minute on two cores and at most 1.6 GB.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo import scenes
from demo.random_checkpoint import make_tokenizer
from demo.scenes import Pixels

HELD_OUT = scenes.training_seeds(512, start=990_000)
"""Seeds that no training step uses, for the held-out figures of the model."""

_CHUNK = 1024


def draw_scenes(seeds: range, size: int) -> tuple[Pixels, list[str]]:
    """Return pictures, uint8 [N, size, size, 3], and captions; use all cores for many scenes."""
    start = time.perf_counter()
    workers = min(os.cpu_count() or 1, 32)
    chunks = [seeds[i : i + _CHUNK] for i in range(0, len(seeds), _CHUNK)]
    if workers == 1 or len(chunks) < 2 * workers:
        images, captions = scenes.batch(seeds, size)
    else:
        # A forked process could inherit a lock that a thread of torch holds.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_ignore_interrupts) as pool:
            parts = list(pool.map(scenes.batch, chunks, [size] * len(chunks)))
        images = np.concatenate([part[0] for part in parts])
        captions = [caption for part in parts for caption in part[1]]
    print(f"drew {len(seeds)} scenes in {time.perf_counter() - start:.0f} s", flush=True)
    return images, captions


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def to_floats(images: Pixels) -> Tensor:
    """Convert uint8 [N, H, W, 3] to float32 [N, 3, H, W] in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def caption_tokenizer(folder: Path) -> Any:
    """Write a CLIPTokenizer that has one token for each word of the captions, and load it."""
    from transformers import CLIPTokenizer

    make_tokenizer(folder, scenes.WORDS)
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: Any, captions: list[str]) -> Tensor:
    """Return token ids, int64 [N, 77], padded with the end token as in Stable Diffusion."""
    tokens = tokenizer(
        captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    ids: Tensor = tokens.input_ids
    return ids
