"""LPIPS, CLIP score and FID equal their formulas, worked out by hand on small random networks; a
measure that cannot be taken says what it needs."""

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
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from benchmarks.quality.perceptual import INCEPTION, Perceptual
from demo.picture import still_life
from demo.random_checkpoint import make_tokenizer
from diffedit.request import InvalidRequest
from engine.loader import quiet

lpip = pytest.importorskip("torchmetrics.image.lpip", reason="the measures are torchmetrics'")
lpips = pytest.importorskip("torchmetrics.functional.image.lpips")


def opened(**wanted: Any) -> Perceptual:
    nothing = {"lpips": None, "clip": None, "fid": False, "reference": None, "device": "cpu"}
    return Perceptual.open(**{**nothing, **wanted})


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
    measure, after = opened(clip=str(clip)), noise(1)
    texts = ["a cat on a table", "two pears", "grass and sky", "a red ball " * 10]
    wanted = [cosine(clip, after, text) for text in texts]
    assert wanted[0] < -5 and min(wanted[1:]) > 5  # not everything is cut off at 0
    found = [measure.add(still_life(96, 72), after, text) for text in texts]
    assert found == [{"clip": pytest.approx(max(0, figure), abs=1e-3)} for figure in wanted]
    assert measure.result() == {} and "clip" not in measure.missing


def test_half_a_clip_is_not_measured_with(clip: Path, tmp_path: Path) -> None:
    """A text encoder alone, say, whose other half transformers would leave random."""
    sentences = [opened(clip=str(f)).missing["clip"] for f in (tmp_path / "none", tmp_path)]
    shutil.copytree(clip, tmp_path, dirs_exist_ok=True)
    kept = {k: v for k, v in load_file(clip / "model.safetensors").items() if "vision" not in k}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    sentences.append(opened(clip=str(tmp_path)).missing["clip"])
    for sentence, words in zip(sentences, ["no folder", "no CLIP model", "lacks"], strict=True):
        assert words in sentence and sentence.endswith(".") and "\n" not in sentence


class Colours(nn.Module):
    """Six features: the means and the spreads of the three colours."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.dtype == torch.uint8
        values = pictures.flatten(2).float() / 255
        return torch.cat((values.mean(2), values.std(2)), 1)


def frechet(one: list[Image.Image], other: list[Image.Image]) -> float:
    """|m - n|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2)), Dowson and Landau 1982."""

    def statistics(pictures: list[Image.Image]) -> tuple[NDArray[Any], NDArray[Any]]:
        values = [np.asarray(picture).reshape(-1, 3) / 255 for picture in pictures]
        rows = np.stack([np.concatenate((v.mean(0), v.std(0, ddof=1))) for v in values])
        return rows.mean(0), np.cov(rows.T)

    def root(matrix: NDArray[Any]) -> NDArray[Any]:
        values, vectors = np.linalg.eigh(matrix)
        return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)

    (m, a), (n, b) = statistics(one), statistics(other)
    return float(((m - n) ** 2).sum() + np.trace(a + b - 2 * root(root(a) @ b @ root(a))))


def tinted(seed: int, low: int) -> Image.Image:
    """A plain picture with some noise, of its own size, ground and spread."""
    random = np.random.default_rng(seed)
    ground, spread = random.integers(low, 200, 3), random.integers(1, 50, 3)
    pixels = ground + random.normal(size=(40 + seed % 7, 50, 3)) * spread
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_fid_of_results_and_inputs_is_frechets_distance() -> None:
    measure = opened(fid=True, feature=Colours())
    befores, afters = ([tinted(i, low) for i in range(40)] for low in (0, 120))
    for before, after in zip(befores, afters, strict=True):
        assert measure.add(before, after, "any") == {}
    wanted = frechet(befores, afters)
    assert wanted > 0.05 and measure.result() == {"fid": pytest.approx(wanted, rel=1e-3)}
    assert measure.warnings == [] and "fid" not in measure.missing


def test_fid_of_results_and_a_reference_leaves_the_inputs_out(tmp_path: Path) -> None:
    others = [tinted(100 + i, 60) for i in range(20)]
    (tmp_path / "class").mkdir()
    for i, picture in enumerate(others):
        picture.save(tmp_path / ("class" if i % 2 else ".") / f"{i}.PNG")
    measure = opened(fid=True, feature=Colours(), reference=tmp_path)
    afters = [tinted(i, 0) for i in range(20)]
    for after in afters:
        measure.add(noise(0, *after.size), after, "any")
    expected = {"fid": pytest.approx(frechet(others, afters), rel=1e-3)}
    assert measure.result() == expected
    measure.clear()
    assert measure.result() == {} and "fid" in measure.missing
    measure.clear()
    for after in afters:
        measure.add(after, after, "any")
    assert measure.result() == expected


def test_fid_of_few_pictures_warns_and_of_one_is_missing() -> None:
    measure = opened(fid=True, feature=Colours())
    measure.add(tinted(9, 0), tinted(9, 120), "any")
    assert measure.result() == {} and "at least two pictures" in measure.missing["fid"]
    for seed in range(4):
        measure.add(tinted(seed, 0), tinted(seed, 120), "any")
    assert set(measure.result()) == set(measure.result()) == {"fid"}
    (warning,) = measure.warnings
    assert "6 features" in warning and "here are 5" in warning and "fid" not in measure.missing


def test_a_reference_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="add --fid"):
        opened(reference=tmp_path)
    with pytest.raises(InvalidRequest, match="holds 0 pictures"):
        opened(fid=True, feature=Colours(), reference=tmp_path / "none")
    (tmp_path / "a.png").write_bytes(b"no picture")
    noise(0).save(tmp_path / "b.png")
    with pytest.raises(InvalidRequest, match=r"a\.png is not in a supported format"):
        opened(fid=True, feature=Colours(), reference=tmp_path)


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
    """A stand-in with a random AlexNet whose weights are at hand; returns the network."""
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
    measure = opened(lpips="alex")
    before, after = still_life(96, 72), noise(3)
    wanted = by_hand(torchvision, before, after)
    assert wanted > 0.01
    for there, figure in ((after, wanted), (before, 0)):  # the second does not remember the first
        assert measure.add(before, there, "any") == {"lpips": pytest.approx(figure, abs=1e-5)}
    assert measure.add(before.crop((0, 0, 96, 20)), noise(0, 96, 20), "any") == {}
    assert ["under 32 pixels" in warning for warning in measure.warnings] == [True]


@pytest.mark.usefixtures("torchvision")
def test_weights_that_are_not_at_hand_are_named_not_fetched(tmp_path: Path) -> None:
    (file,) = (tmp_path / "checkpoints").iterdir()
    file.write_bytes(b"wrong")
    assert f"{file} is damaged" in opened(lpips="alex").missing["lpips"]
    file.unlink()
    assert f"download https://host/{file.name} to {file}." in opened(lpips="alex").missing["lpips"]


def test_inceptions_weights_are_named_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    install(monkeypatch, INCEPTION.split(".")[0])
    install(monkeypatch, INCEPTION, URL_INCEPTION_V3="https://host/inception-1234.pth")
    wanted = (
        f"download https://host/inception-1234.pth to {tmp_path}/checkpoints/inception-1234.pth."
    )
    assert opened(fid=True).missing["fid"].endswith(wanted)


@pytest.mark.parametrize(
    ("blocked", "wanted", "name", "package"),
    [
        ("torchvision.models", {"lpips": "alex"}, "lpips", "torchvision"),
        (INCEPTION, {"fid": True}, "fid", "torch-fidelity and torchvision"),
        ("torchmetrics.image.fid", {"fid": True, "feature": Colours()}, "fid", "torchmetrics"),
        ("torchmetrics.multimodal.clip_score", {"clip": "any/id"}, "clip", "torchmetrics"),
    ],
)
def test_a_missing_package_is_one_sentence_and_no_end(
    monkeypatch: pytest.MonkeyPatch, blocked: str, wanted: Any, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)
    measure = opened(**wanted)
    assert measure.missing[name].startswith(f"{package} does not load (")
    assert f"); install {package}" in measure.missing[name]
    assert measure.add(noise(0), noise(1), "any") == measure.result() == {}


def test_lpips_is_measured_or_says_why_not() -> None:
    measure = opened(lpips="squeeze")
    distance = measure.add(noise(0), noise(1), "any").get("lpips", 0)
    why = measure.missing.get("lpips", "")
    assert distance > 0 or "install torchvision" in why or "download http" in why


def test_a_measure_has_to_be_asked_for_by_a_name_it_has() -> None:
    missing = opened().missing
    assert len(missing) == 3 and all(
        "not asked for; add --" in sentence for sentence in missing.values()
    )
    with pytest.raises(InvalidRequest, match="no network 'resnet'; take one of alex, vgg, squeeze"):
        opened(lpips="resnet")
