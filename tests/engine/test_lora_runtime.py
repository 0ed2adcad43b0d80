"""LoRAs that PyTorch applies when it loads a model, and engines beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffedit import DiffEditPipeline, EngineMismatch, InvalidRequest
from diffedit.cli import main
from diffedit.provenance import Fused
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.loader import load_module
from engine.lora.file import Lora, parse_lora
from export.build import build
from tests.engine.conftest import without_engines
from tests.engine.lora_files import saved
from tests.shared import Folders

FAST: dict[str, Any] = {"preset": "paper", "num_inference_steps": 2, "mask_thresholding_ratio": 1.0}
DENOISERS = {
    "tiny": "unet",
    "tiny-sdxl": "unet",
    "tiny-sd3": "transformer",
    "tiny-flux": "transformer",
}
RANK, ALPHA = 3, 2.0


def attention_lora(folder: Path, part: str, prefix: str, path: Path) -> dict[str, torch.Tensor]:
    """Write a LoRA over every attention layer of a part; returns layer -> its change at scale 1."""
    module = load_module(Checkpoint.open(folder), part, torch.float32)
    generator = torch.Generator().manual_seed(4)
    state: dict[str, torch.Tensor] = {}
    changes: dict[str, torch.Tensor] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith((".to_q", ".to_v", ".q_proj")):
            down = torch.randn(RANK, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, RANK, generator=generator)
            key = f"{prefix}.{name}"
            state |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
            state[f"{key}.alpha"] = torch.tensor(ALPHA)
            changes[f"{name}.weight"] = ALPHA / RANK * up @ down
    assert changes
    saved(path, state)
    return changes


@pytest.fixture
def style(tiny: Path, tmp_path: Path) -> Path:
    path = tmp_path / "style.safetensors"
    attention_lora(tiny, "unet", "unet", path)
    return path


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", DENOISERS)
def test_the_weights_are_the_models_and_the_change(
    kind: str, dtype: Any, folders: Folders, tmp_path: Path
) -> None:
    """In every family; fused in fp32 and then cast, so half precision loses nothing more."""
    folder, part = folders(kind), DENOISERS[kind]
    changes = attention_lora(folder, part, part, tmp_path / "a.safetensors")
    checkpoint = Checkpoint.open(folder)
    loras = [Lora.open(tmp_path / "a.safetensors", -0.5)]
    networks = TorchNetworks.open(checkpoint, dtype=dtype, device="cpu", kernels=(), loras=loras)
    own = load_module(checkpoint, part, torch.float32).state_dict()
    found = networks.modules[part].state_dict()
    for name, tensor in own.items():
        wanted = tensor - 0.5 * changes[name] if name in changes else tensor
        near = 1e-5 if dtype == "fp32" else 2**-7  # one step of bf16
        torch.testing.assert_close(found[name].float(), wanted, atol=1e-6, rtol=near)


def test_several_add_up_and_stand_in_the_result(
    tiny: Path, style: Path, tmp_path: Path, photo: Image.Image
) -> None:
    words = tmp_path / "words.safetensors"
    attention_lora(tiny, "text_encoder", "text_encoder", words)

    def edit(*lora: Any) -> Any:
        with DiffEditPipeline.from_pretrained(tiny, dtype="fp32", device="cpu", lora=lora) as pipe:
            return pipe(photo, "a blue ball", "a red ball", **FAST)

    plain, one, both = edit(), edit(style), edit(style, (words, 0.25))
    assert len({result.latents.tobytes() for result in (plain, one, both)}) == 3
    assert [fused.name for fused in both.provenance.loras] == ["style.safetensors", words.name]
    assert [fused.scale for fused in both.provenance.loras] == [1.0, 0.25]
    assert isinstance(both.provenance.loras[0], Fused)
    zero = edit((style, 0.0))
    assert zero.latents.tobytes() == plain.latents.tobytes()


@pytest.mark.slow
def test_engines_must_have_the_same(micro: Path, micro_build: Path, tmp_path: Path) -> None:
    style = tmp_path / "style.safetensors"
    attention_lora(micro, "unet", "unet", style)
    engines = without_engines(micro_build, tmp_path / "engines")
    options: dict[str, Any] = {"precision": "fp32", "batches": (1, 2), "target": "onnx"}
    build(str(micro), engines, verify=False, loras=[(style, 0.5)], **options)  # the U-Net alone

    def opened(**given: Any) -> DiffEditPipeline:
        given |= {"engines": engines, "device": "cpu"}
        return DiffEditPipeline.from_pretrained(micro, **given)

    with opened(lora=[(style, 0.5)]) as pipe:  # PyTorch applies it, too
        assert pipe.networks.name == "torch" and pipe.provenance.loras[0].scale == 0.5
    with opened(lora=[(style, 0.5)], backend="onnxruntime") as pipe:
        assert pipe.networks.name == "onnxruntime"
    with opened(lora=[(style, 0.5)], backend="torch") as pipe:
        assert pipe.warnings == ()
    for backend in ("auto", "onnxruntime"):
        with pytest.raises(EngineMismatch, match=r"at 0\.5, not the requested LoRAs"):
            opened(lora=[(style, 0.8)], backend=backend)
    with opened(lora=[(style, 0.8)], backend="torch") as pipe:
        assert "are not used" in pipe.warnings[0] and pipe.provenance.loras[0].scale == 0.8


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ("style.safetensors", "but must be a list; pass files"),
        (7, "but must be a list; pass files"),
        ([("a", 1, 2)], "pass a file or"),
        ([("a.safetensors", "x")], "scale of lora is 'x'"),
        ([("a.safetensors", float("nan"))], "scale of lora is nan"),
        ([3], "lora is 3"),
    ],
)
def test_wrong_arguments_are_sentences(lora: Any, words: str, tiny: Path) -> None:
    with pytest.raises(InvalidRequest, match=words):
        DiffEditPipeline.from_pretrained(tiny, lora=lora)


def test_a_lora_of_another_family_is_refused_before_weights(
    tiny: Path, folders: Folders, tmp_path: Path
) -> None:
    folder = folders("tiny-flux")
    attention_lora(folder, "transformer", "transformer", tmp_path / "flux.safetensors")
    with pytest.raises(CheckpointError, match="belong to no layer of the model"):
        DiffEditPipeline.from_pretrained(tiny, lora=[tmp_path / "flux.safetensors"])


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("dir:x/a.safetensors:-2", ("dir:x/a.safetensors", -2.0)),
    ],
)
def test_path_and_scale(text: str, pair: tuple[str, float]) -> None:
    assert parse_lora(text) == (Path(pair[0]), pair[1])
    with pytest.raises(ValueError, match="--lora needs PATH:SCALE"):
        parse_lora("a.safetensors:strong")


def test_the_command_line(
    tiny: Path, style: Path, tmp_path: Path, photo: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    photo.save(tmp_path / "in.png")
    options = ["--model", str(tiny), "--dtype", "fp32", "--device", "cpu", "--steps", "2"]
    texts = ["--prompt", "a blue ball", "--source", "a red ball"]

    def run(*arguments: Any) -> int:
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments)])
        return int(end.value.code or 0)

    edit = ["edit", tmp_path / "in.png", *texts, *options]
    assert run(*edit, "-o", tmp_path / "plain.png") == 0
    assert run(*edit, "-o", tmp_path / "style.png", "--lora", f"{style}:0.5") == 0
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "style.png").read_bytes()
    replay = ["replay", tmp_path / "style.png", tmp_path / "in.png", *options[:6]]
    assert run(*replay, "--lora", f"{style}:0.5", "-o", tmp_path / "again.png") == 0
    capsys.readouterr()
    run(*replay, "-o", tmp_path / "other.png")
    assert "the LoRA style.safetensors (at 0.5) is missing" in capsys.readouterr().err
    assert run(*edit, "-o", tmp_path / "x.png", "--lora", "x:strong") == 2
    assert run(*edit, "-o", tmp_path / "x.png", "--lora", tmp_path / "none.safetensors") == 3
