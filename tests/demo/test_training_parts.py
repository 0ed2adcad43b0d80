"""The parts of the demo's training: tokens, networks, latents and scenes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from demo import scenes
from demo.random_checkpoint import WORDS, make_tokenizer
from demo.training import data, networks
from demo.training.networks import SIZE_LIMIT, Denoiser, make_vae
from demo.training.vae import normalize_latents


@pytest.mark.parametrize("words", [WORDS, scenes.WORDS], ids=["general", "scenes"])
def test_every_word_is_one_token(words: tuple[str, ...], tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    size = make_tokenizer(tmp_path, words)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    ids = [tokenizer(word).input_ids for word in words]
    assert [len(i) for i in ids] == [3] * len(words)  # begin, the word, end
    assert len({i[1] for i in ids}) == len(words)
    assert max(map(max, ids)) == size - 1


def test_captions_are_padded_with_the_end(tmp_path: Path) -> None:
    tokenizer = data.caption_tokenizer(tmp_path)
    tokens = data.tokenize(tokenizer, ["", "a red ball on the grass"])
    begin, end = len(tokenizer) - 2, len(tokenizer) - 1
    assert tokens.shape == (2, 77) and tokens.dtype == torch.int64
    assert tokens[0].tolist() == [begin] + [end] * 76
    assert int((tokens[1] != end).sum()) == 7


def test_networks_fit_into_the_limit(tmp_path: Path) -> None:
    tokens = len(data.caption_tokenizer(tmp_path))
    parts = Denoiser(64, tokens), make_vae(64)
    size = 2 * sum(networks.count_parameters(part) for part in parts)
    assert 0.9 * SIZE_LIMIT < size < SIZE_LIMIT - 150_000  # names, configs and the tokenizer


@torch.no_grad()
def test_plain_attention_computes_the_same() -> None:
    torch.manual_seed(0)
    vae, denoiser = make_vae(32).eval(), Denoiser(32, 600).eval()
    rows, times = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    tokens = torch.randint(0, 600, (2, 77))
    before = vae.decode(rows).sample, denoiser(rows, times, tokens)
    networks.use_plain_attention(vae)
    networks.use_plain_attention(denoiser)
    after = vae.decode(rows).sample, denoiser(rows, times, tokens)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(after, before, strict=True))


@torch.no_grad()
def test_normalising_the_latents_keeps_the_pictures() -> None:
    torch.manual_seed(0)
    vae = make_vae(32).eval()
    pictures = torch.randn(16, 3, 32, 32)
    before = vae.encode(pictures).latent_dist
    seen, std, latents = vae.decode(before.mode()).sample, before.std, before.mode()
    normalized = normalize_latents(vae, latents)
    after = vae.encode(pictures).latent_dist
    assert torch.allclose(after.mode(), normalized, atol=1e-4)
    assert torch.allclose(after.mode().mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.mode().std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(after.std, std / latents.std((0, 2, 3)).view(1, 4, 1, 1), rtol=1e-3)
    assert torch.allclose(vae.decode(after.mode()).sample, seen, atol=1e-4)


@pytest.mark.slow
def test_scenes_are_the_same_by_one_process_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_CHUNK", 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    seeds = scenes.training_seeds(37)
    images, captions = data.draw_scenes(seeds, 16)
    alone, said = scenes.batch(seeds, 16)
    assert np.array_equal(images, alone) and captions == said


def test_nothing_is_trained_on_what_is_held_out_or_reserved() -> None:
    pool = range(65_536)
    assert not set(pool) & set(data.HELD_OUT)
    assert max(data.HELD_OUT) < scenes.EVALUATION
