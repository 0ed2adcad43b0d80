"""LPIPS and CLIP score equal their formulas, worked out by hand on small random networks; a missing
measure says what it needs."""

from __future__ import annotations

import hashlib
import shutil
import sys
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from benchmarks.quality.perceptual import Measure, open_measures
from demo.picture import still_life
from demo.random_checkpoint import make_tokenizer
from diffedit.request import InvalidRequest
from engine.loader import quiet

lpip = pytest.importorskip("torchmetrics.image.lpip", reason="the measures are torchmetrics'")
lpips = pytest.importorskip("torchmetrics.functional.image.lpips")


def opened(
    lpips: str | None = None, clip: Path | None = None
) -> tuple[dict[str, Measure], dict[str, str]]:
    return open_measures(lpips, str(clip) if clip else None, torch.device("cpu"))


def noise(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights that tells texts and pictures apart."""
    folder = tmp_path_factory.mktemp("clip")
    tokens = make_tokenizer(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": tokens, "max_position_embeddings": 16}
    text |= {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "pad_token_id": tokens - 1}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config)
        for weight in model.parameters():  # with CLIP's own small ones all texts are alike
            if weight.ndim > 1:
                weight.data.normal_(std=0.3)
        model.save_pretrained(folder)
        size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        CLIPProcessor(CLIPImageProcessor(**size), tokenizer).save_pretrained(folder)
    return folder


def cosine(folder: Path, picture: Image.Image, text: str) -> float:
    """100 cos of the two embeddings, straight from the model's parts."""
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
    ids = processor.tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        a = model.visual_projection(model.vision_model(pixels).pooler_output)[0].double()
        b = model.text_projection(model.text_model(**ids).pooler_output)[0].double()
    return float(100 * (a @ b) / (a.norm() * b.norm()))


def test_clip_score_is_the_cosine_of_result_and_prompt(clip: Path) -> None:
    """The last text is too long: it is cut before its end token, at which CLIP reads it."""
    (measures, missing), after = opened(clip=clip), noise(1)
    texts = ["a cat on a table", "two pears", "grass and sky", "a red ball " * 10]
    wanted = [cosine(clip, after, text) for text in texts]
    assert wanted[0] < -5 and min(wanted[1:]) > 5  # not everything is cut off at 0
    found = [measures["clip"](still_life(96, 72), after, text) for text in texts]
    assert found == [pytest.approx(max(0, figure), abs=1e-3) for figure in wanted]
    assert set(measures) == {"clip"} and set(missing) == {"lpips"}


def test_half_a_clip_is_not_measured_with(clip: Path, tmp_path: Path) -> None:
    """A text encoder alone, say, whose other half transformers would leave random."""
    sentences = [opened(clip=f)[1]["clip"] for f in (tmp_path / "none", tmp_path)]
    shutil.copytree(clip, tmp_path, dirs_exist_ok=True)
    kept = {k: v for k, v in load_file(clip / "model.safetensors").items() if "vision" not in k}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    sentences.append(opened(clip=tmp_path)[1]["clip"])
    for sentence, words in zip(sentences, ["no folder", "no CLIP model", "lacks"], strict=True):
        assert words in sentence and sentence.endswith(".") and "\n" not in sentence


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def alexnet() -> nn.Sequential:
    """AlexNet's convolutions, as torchvision has them."""
    first = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    second = [nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    last = [(nn.Conv2d(a, b, 3, 1, 1), nn.ReLU()) for a, b in ((192, 384), (384, 256), (256, 256))]
    return nn.Sequential(*first, *second, *chain(*last), nn.MaxPool2d(3, 2))


@pytest.fixture
def torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """Install a fake torchvision that has an AlexNet with random weights; return the network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = alexnet()
    (tmp_path / "checkpoints").mkdir()
    name = f"alexnet-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    (tmp_path / "checkpoints" / name).write_bytes(b"weights")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    made = SimpleNamespace(features=network)
    kinds = SimpleNamespace(DEFAULT=SimpleNamespace(url=f"https://host/{name}"))
    models = SimpleNamespace(AlexNet_Weights=kinds, alexnet=lambda weights: made)
    install(monkeypatch, "torchvision", models=models)
    install(monkeypatch, "torchvision.models", **vars(models))
    monkeypatch.setattr(lpip, "_TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(lpips, "_TORCHVISION_AVAILABLE", True)
    return network


def by_hand(network: nn.Sequential, one: Image.Image, other: Image.Image) -> float:
    """Zhang et al. 2018, equation 1, with the released weights of the layers."""
    released = Path(lpips.__file__).parent / "lpips_models" / "alex.pth"
    weights = torch.load(released, weights_only=True, map_location="cpu")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = torch.from_numpy(np.stack([np.asarray(one), np.asarray(other)])).float()
    x = ((x / 127.5 - 1 - shift) / scale).permute(0, 3, 1, 2)
    total, layers = 0.0, iter(range(5))
    with torch.no_grad():
        for step in network:
            x = step(x)
            if isinstance(step, nn.ReLU):
                unit = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
                weight = weights[f"lin{next(layers)}.model.1.weight"][0]
                total += float(((unit[0] - unit[1]).square() * weight).sum(0).mean())
    return total


def test_lpips_is_the_weighted_distance_of_features(torchvision: nn.Sequential) -> None:
    measure = opened(lpips="alex")[0]["lpips"]
    before, after = still_life(96, 72), noise(3)
    wanted = by_hand(torchvision, before, after)
    assert wanted > 0.01
    for there, figure in ((after, wanted), (before, 0)):  # the second does not remember the first
        assert measure(before, there, "any") == pytest.approx(figure, abs=1e-5)
    assert np.isnan(measure(before.crop((0, 0, 96, 20)), noise(0, 96, 20), "any"))


@pytest.mark.usefixtures("torchvision")
def test_weights_that_are_missing_are_named_not_downloaded(tmp_path: Path) -> None:
    (file,) = (tmp_path / "checkpoints").iterdir()
    file.unlink()
    assert f"download https://host/{file.name} to {file}." in opened(lpips="alex")[1]["lpips"]


@pytest.mark.parametrize("blocked", ["torchvision", "torchmetrics.image.lpip"])
def test_a_missing_package_is_one_sentence_and_no_end(
    monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)
    measures, missing = opened(lpips="alex")
    assert not measures and "does not load (" in missing["lpips"]
    assert "install torchmetrics, and the torchvision that fits" in missing["lpips"]


def test_lpips_is_measured_or_says_why_not() -> None:
    measures, missing = opened(lpips="squeeze")
    why = missing.get("lpips", "")
    assert (
        "install" in why
        or "download http" in why
        or (measures["lpips"](noise(0), noise(1), "any") > 0)
    )


def test_a_measure_has_to_be_requested_by_a_name_it_has() -> None:
    assert opened() == ({}, {n: f"it was not requested; add --{n}." for n in ("lpips", "clip")})
    with pytest.raises(InvalidRequest, match="no network 'resnet'; use one of alex, vgg, squeeze"):
        opened(lpips="resnet")
