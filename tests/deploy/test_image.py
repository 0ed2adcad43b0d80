"""The container image: stages, extras, user, signal and health check. Nothing is built."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.deploy.deployment import DEPLOY, ROOT, check_options


@pytest.fixture
def steps(tmp_path: Path) -> list[tuple[str, str]]:
    parse = pytest.importorskip("dockerfile_parse", reason="dockerfile-parse is not installed")
    copy = tmp_path / "Dockerfile"
    shutil.copy(DEPLOY / "Containerfile", copy)
    structure = parse.DockerfileParser(path=str(copy)).structure
    return [(s["instruction"], s["value"]) for s in structure if s["instruction"] != "COMMENT"]


def values(steps: list[tuple[str, str]], instruction: str) -> list[str]:
    return [value for name, value in steps if name == instruction]


def test_image_has_two_stages_with_one_base(steps: list[tuple[str, str]]) -> None:
    assert values(steps, "FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE} AS serve"]
    base = values(steps, "ARG")[0].removeprefix("PYTHON_IMAGE=")
    assert re.fullmatch(r"python:3\.1[123]-slim-\w+", base)  # a short name without a registry
    last = [name for name, _ in steps]
    last = last[len(last) - last[::-1].index("FROM") :]
    assert "ARG" not in last and "ADD" not in last and "VOLUME" not in last


def test_image_contains_no_package_index(steps: list[tuple[str, str]]) -> None:
    arguments = dict(a.split("=", 1) for a in values(steps, "ARG"))
    for name in ("PIP_INDEX_URL", "TORCH_INDEX", "TENSORRT_INDEX"):
        assert arguments[name] == '""'
    assert not any("://" in value for _, value in steps)


def test_image_installs_existing_extras(steps: list[tuple[str, str]]) -> None:
    text = (DEPLOY / "Containerfile").read_text()
    named = set(re.findall(r"EXTRAS=([a-z,]+)", text))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert named == {"onnx,server", "gpu,server"}
    assert {e for extras in named for e in extras.split(",")} <= {*project["optional-dependencies"]}
    copied = {w for v in values(steps, "COPY") if "--from" not in v for w in v.split()[:-1]}
    assert copied == {*"pyproject.toml constraints.txt README.md LICENSE".split()} | {
        *"diffedit engine export".split()
    }
    assert all((ROOT / name).exists() for name in copied)
    sent = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in sent if line.startswith("!")} == copied and "*" in sent


def test_image_runs_without_root_and_stops_on_sigterm(steps: list[tuple[str, str]]) -> None:
    (user,) = values(steps, "USER")
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", user)
    assert values(steps, "STOPSIGNAL") == ["SIGTERM"]
    environment = " ".join(values(steps, "ENV"))
    assert {"HOME=/tmp", "XDG_CACHE_HOME=/tmp/cache", "DIFFEDIT_MODEL=/model"} <= {
        *environment.split()
    }
    assert not re.search(r"(?i)password|secret|token|NVIDIA_VISIBLE", environment)


def test_image_starts_a_server_with_keys(steps: list[tuple[str, str]]) -> None:
    assert json.loads(values(steps, "ENTRYPOINT")[0]) == ["diffedit-trt"]
    command = json.loads(values(steps, "CMD")[0])
    assert command[0] == "serve" and "--insecure" not in command
    assert command[command.index("--host") + 1] == "0.0.0.0"
    check_options(command[1:])


def test_image_has_a_health_check(steps: list[tuple[str, str]]) -> None:
    (check,) = values(steps, "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"] and "/livez" in command[2]
    compile(command[2], "HEALTHCHECK", "exec")
