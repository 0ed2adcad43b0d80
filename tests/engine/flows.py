"""Rows, flows and helpers that the tests of the batcher share."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.backends.fake import CHANNELS, TEXT_WIDTH, TOKENS, FakeBackend, FakeNetworks
from engine.batcher import Batcher
from engine.buffers import Buffers
from engine.rows import Flow, Row

LATENT = (CHANNELS, 4, 4)


def row(value: float, net: str = "unet") -> Row:
    if net == "text":
        return Row("text", (torch.full((TOKENS,), int(value)),))
    return Row(
        net,
        (torch.full(LATENT, value), torch.tensor(value), torch.full((TOKENS, TEXT_WIDTH), value)),
    )


def alone(value: float) -> Tensor:
    (output,) = Buffers(FakeNetworks().find("unet", LATENT)).run([row(value)])
    assert isinstance(output, Tensor)
    return output


def asks(groups: list[list[float]]) -> Flow[list[Tensor]]:
    """A flow that yields one list of rows after another and returns every answer."""
    answers: list[Tensor] = []
    for group in groups:
        answers += yield [row(value) for value in group]
    return answers


def drain(batcher: Batcher) -> None:
    while batcher.step():
        pass


def backend(networks: FakeNetworks) -> FakeBackend:
    return networks.find("unet", LATENT)


def keyed(value: float, key: object, net: str = "unet") -> Row:
    return row(value, net)._replace(key=key)


def asks_rows(*groups: list[Row]) -> Flow[list[Tensor]]:
    answers: list[Tensor] = []
    for group in groups:
        answers += yield group
    return answers
