"""A toy model with its trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from demo.training.hardware import Hardware
from demo.training.trainer import Plan, Trainer

CPU = Hardware(torch.device("cpu"), bf16=False)


def plan(**changes: Any) -> Plan:
    usual: dict[str, Any] = {"stage": "toy", "learning_rate": 0.01, "batch_size": 4, "minutes": 1.0}
    return Plan(**{**usual, "steps": 10, "warmup_steps": 2, "log_seconds": 0.0, **changes})


def toy(folder: Path, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    return Trainer(plan(**changes), nn.Linear(8, 8), CPU, folder / "toy")


def draw(count: int, generator: torch.Generator) -> tuple[Tensor]:
    return (torch.randn((count, 8), generator=generator),)


def toy_loss(model: Any, batch: tuple[Tensor]) -> Tensor:
    (rows,) = batch
    loss: Tensor = (model(rows) - rows.flip(1)).square().mean()
    return loss


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(t, other[k]) for k, t in a.state_dict().items())
