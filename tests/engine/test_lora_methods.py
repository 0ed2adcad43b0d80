"""DoRA, LoHa, LoKr and PEFT's settings, compared with PEFT's own merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.lora.adapter_config import read_configs
from engine.lora.change import weight_change
from engine.lora.names import parse
from tests.engine.lora_files import draw, saved

peft: Any = pytest.importorskip("peft")


class Network(nn.Module):
    """One layer of each kind; PEFT needs a module around them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(24, 36)
        self.square = nn.Linear(36, 36)
        self.pointwise = nn.Conv2d(24, 36, 1)
        self.conv = nn.Conv2d(24, 36, 3, padding=1)


LAYERS = ("linear", "square", "pointwise", "conv")


def trained(config: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Own weights, the tensors of an adapter with random values, and PEFT's merged weights."""
    torch.manual_seed(0)
    network = Network().requires_grad_(False)
    own = {name: getattr(network, name).weight.clone() for name in LAYERS}
    model = peft.get_peft_model(network, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                shift = 1.0 if "magnitude" in name else 0.0
                parameter.copy_(torch.randn_like(parameter) * 0.3 + shift)
    state = peft.get_peft_model_state_dict(model)
    merged = model.merge_and_unload()
    return own, state, {name: getattr(merged, name).weight.detach() for name in LAYERS}


def by_layer(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        found = parse(name, {})
        assert found is not None, name
        layers.setdefault(found.layer, {})[found.kind] = tensor.detach().float()
    return layers


def check_merge(config: Any, factors: dict[str, float] | float) -> None:
    own, state, merged = trained(config)
    layers = by_layer(state)
    assert set(layers) == set(LAYERS)
    for name, tensors in layers.items():
        factor = factors if isinstance(factors, float) else factors[name]
        got = own[name] + weight_change(tensors, own[name], factor)
        torch.testing.assert_close(got, merged[name], rtol=1e-4, atol=1e-5)
        assert (got - own[name]).norm() > 0.01


@pytest.mark.parametrize("dora", [False, True])
def test_lora_and_dora(dora: bool) -> None:
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "use_dora": dora}
    check_merge(peft.LoraConfig(target_modules=list(LAYERS), **settings), 1.5)


@pytest.mark.parametrize("effective", [False, True])
def test_loha(effective: bool) -> None:
    """`use_effective_conv2d` is the Tucker form."""
    config = peft.LoHaConfig(
        r=4, alpha=6, target_modules=list(LAYERS), use_effective_conv2d=effective
    )
    check_merge(config, 1.5)


@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_lokr(effective: bool, both: bool) -> None:
    config = peft.LoKrConfig(
        r=2,
        alpha=3,
        target_modules=list(LAYERS),
        use_effective_conv2d=effective,
        decompose_both=both,
        decompose_factor=4,
    )
    check_merge(config, 1.5)


def test_the_strength_of_every_layer_is_pefts(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 6,
        "use_rslora": True,
        "rank_pattern": {"conv": 2},
        "alpha_pattern": {"linear": 3},
    }
    config = peft.LoraConfig(target_modules=list(LAYERS), **settings)
    _, state, _ = trained(config)
    path = saved(tmp_path / "adapter_model.safetensors", state)
    config.save_pretrained(tmp_path)
    (read,) = read_configs(path, ("unet",))
    check_merge(config, {name: read.factor(name) for name in LAYERS})


@pytest.mark.parametrize("axis", ["outputs", "inputs"])
def test_dora_of_lycoris(axis: str) -> None:
    """W' = m (W + c) / ||W + c||, the norm over everything but the named axis."""
    for shape in ((6, 4), (6, 4, 3, 3)):
        weight, up, down = draw(*shape), draw(6, 2, seed=1), draw(2, *shape[1:], seed=2)
        kept = 0 if axis == "outputs" else 1
        magnitude_shape = [n if i == kept else 1 for i, n in enumerate(shape)]
        magnitude = draw(shape[kept], seed=3).abs().reshape(magnitude_shape) + 0.5
        tensors = {"down": down, "up": up.reshape(6, 2, *[1] * (len(shape) - 2))}
        tensors |= {"alpha": torch.tensor(1.0), "dora_scale": magnitude}
        got = weight + weight_change(tensors, weight)
        direction = weight + 0.5 * (up @ down.flatten(1)).reshape(shape)
        for n in range(shape[kept]):
            part = direction.select(kept, n)
            want = magnitude.flatten()[n] * part / part.norm()
            torch.testing.assert_close(got.select(kept, n), want)


def test_lokr_without_a_rank_ignores_alpha() -> None:
    """LyCORIS writes an alpha there too and does not use it."""
    first, second, weight = draw(3, 2), draw(4, 5, seed=1), draw(12, 10, seed=2)
    tensors = {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(7.0)}
    want = torch.stack([torch.cat([*(a * second for a in row)], 1) for row in first])
    torch.testing.assert_close(weight_change(tensors, weight), want.reshape(12, 10))
