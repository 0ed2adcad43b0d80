"""`batch --ray` before Ray starts: its options, the workers, and a machine without Ray."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from diffedit.cli.ray_options import RayOptions
from tests.cli.conftest import Cli, check_refused

CPUS, GPUS = {"CPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray-actors", "2"], "--ray-actors is for --ray only; add --ray"),
        (["--ray-address", "auto"], "--ray-address is for --ray only"),
        (["--ray", "--ray-gpus", "1.5"], "fractions only below 1"),
        (["--ray", "--ray-cpus", "2.5"], "--ray-cpus is 2.5"),
        (["--ray", "--device", "cuda:1"], "Ray assigns a GPU"),
    ],
    ids=str,
)
def test_contradictions_are_refused(options: list[str], words: str, work: Path, cli: Cli) -> None:
    Path("edits.jsonl").write_text(json.dumps({"image": "in.png", "out": "a.png", "prompt": "a"}))
    check_refused(cli("batch", "edits.jsonl", *options), 2, words)


@pytest.mark.parametrize("package", ["ray", "ray.data", "pandas"])
def test_a_missing_package_is_named(
    package: str, work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "diffedit.cli.ray_batch", raising=False)
    if package == "pandas":  # ray.data imports it first
        pytest.importorskip("ray", reason="needs the ray extra")
        for name in [n for n in sys.modules if n.startswith("ray.data")]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    Path("edits.jsonl").write_text(json.dumps({"image": "in.png", "out": "a.png", "prompt": "a"}))
    check_refused(cli("batch", "edits.jsonl", "--ray"), 2, f"needs the package {package}", "[ray]")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_without_ray_is_refused_at_once(address: str, work: Path, cli: Cli) -> None:
    """Ray itself would wait for minutes."""
    pytest.importorskip("ray", reason="needs the ray extra")
    Path("edits.jsonl").write_text(json.dumps({"image": "in.png", "out": "a.png", "prompt": "a"}))
    outcome = cli("batch", "edits.jsonl", "--ray", "--ray-address", address)
    check_refused(outcome, 5, "Ray is not reachable", address, "check --ray-address")


@pytest.mark.parametrize(
    ("options", "nodes", "device", "expected"),
    [
        ({}, [CPUS], None, (1, 8.0, 0.0, 1)),
        ({}, [CPUS, CPUS], None, (2, 8.0, 0.0, 2)),
        ({"ray_actors": 3}, [CPUS, CPUS], None, (3, 4.0, 0.0, 4)),
        ({"ray_actors": 16}, [CPUS], None, (16, 0.5, 0.0, 16)),
        ({"ray_actors": 200}, [CPUS], None, (100, 0.08, 0.0, 100)),
        ({}, [GPUS, CPUS], None, (4, 8.0, 1.0, 4)),
        ({}, [GPUS], "cpu", (1, 32.0, 0.0, 1)),
        ({"ray_gpus": 0.5}, [GPUS], None, (8, 4.0, 0.5, 8)),
        ({"ray_cpus": 2.0}, [GPUS], None, (4, 2.0, 1.0, 4)),
        ({"ray_actors": 6}, [GPUS], None, (6, 1.0, 1.0, 4)),
        ({"ray_gpus": 1.0}, [CPUS], None, (1, 1.0, 1.0, 0)),
    ],
    ids=str,
)
def test_workers_share_the_machines(
    options: dict[str, float], nodes: list[dict[str, float]], device: str | None, expected: object
) -> None:
    actors = RayOptions(ray=True, **options).actors(nodes, 100, device)  # type: ignore[arg-type]
    assert (actors.count, actors.cpus, actors.gpus, actors.room) == expected


def test_no_more_workers_than_edits() -> None:
    actors = RayOptions(ray=True, ray_actors=8).actors([CPUS], 2, None)
    assert (actors.count, actors.cpus) == (2, 4.0)
