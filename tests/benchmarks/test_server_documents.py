"""Figures about the server and `batch` in the documents are those of the published results."""

from __future__ import annotations

import pytest

from benchmarks import serving
from tests.benchmarks.documents import agrees, published, rows


def test_the_batch_times_in_the_documents_are_the_published_ones() -> None:
    table = rows("docs/how-to/batch.md", "`python -m benchmarks batch` measures")
    result = published("cpu-amd-epyc-2-batch")
    wanted = {
        "one process on one core": "one process, 1 core",
        "one worker on one core": "1 worker, 1 core",
        "two workers on one core each": "2 workers, 1 core each",
        "one process on both cores": "one process, all cores",
    }
    assert table.keys() == wanted.keys()
    for label, run in wanted.items():
        assert agrees(table[label][0], result.find("line", run=run)), label


def test_the_servers_times_with_a_model_are_the_published_ones() -> None:
    table = rows("docs/server.md", "`python -m benchmarks serving --real` runs")
    result = published("cpu-amd-epyc-2-serving-demo")
    wanted = {
        "edits a second with 8 clients": "capacity, 8 clients",
        "the same relative to one client": serving.GAIN,
        "share of it still served at four times that load": serving.GOODPUT,
        "p99 of refused requests under that load": serving.REFUSED,
        "the slot of a cancelled job is free after DELETE, at most": serving.SLOT,
        "time from SIGTERM to not ready": serving.NOT_READY,
    }
    assert table.keys() == wanted.keys()
    for label, figure in wanted.items():
        assert agrees(table[label][0], result.find(figure)), label


@pytest.mark.parametrize(
    ("column", "name"), [(0, "cpu-intel-xeon-2-serving"), (1, "cpu-amd-epyc-2-serving")]
)
def test_the_servers_times_in_the_documents_are_the_published_ones(column: int, name: str) -> None:
    table, result = rows("docs/server.md", "## Performance"), published(name)
    request = "request, networks take no time"
    for label, form, preset in (
        ("time without the networks, 512 px JPEG, preset `paper`, p50", "jpeg", "paper"),
        ("the same with the preset `balanced`, p50", "jpeg", "balanced"),
        ("512 px PNG, preset `paper`, p50", "png", "paper"),
    ):
        found = result.find(request, format=form, preset=preset, percentile=50)
        assert agrees(table[label][column], found), label
    for label, figure in (
        ("throughput with 8 clients relative to one (calls of 20 ms)", serving.GAIN),
        (
            "share of the capacity of 8 clients still served at four times that load",
            serving.GOODPUT,
        ),
        ("p99 of refused requests under that load", serving.REFUSED),
    ):
        assert agrees(table[label][column].removesuffix(" times"), result.find(figure)), label
