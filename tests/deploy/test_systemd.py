"""The systemd unit and its environment file."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.deployment import DEPLOY, UNIT, check_options, shutdown_seconds


class Unit(configparser.RawConfigParser):
    """A unit file: names may repeat and are case-sensitive."""

    def __init__(self) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=("=",))

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def service() -> Any:
    unit = Unit()
    unit.read_string(re.sub(r"\\\n\s*", "", UNIT.read_text()))
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    return unit["Service"]


def test_unit_is_sandboxed(service: Any) -> None:
    for name in "DynamicUser NoNewPrivileges PrivateTmp ProtectHome LockPersonality".split():
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""
    assert "SystemCallFilter=@system-service" in UNIT.read_text()
    assert service["MemoryDenyWriteExecute"] == "no"  # the reason is in the unit


def test_unit_restarts_after_an_engine_failure(service: Any, settings: Any) -> None:
    from diffedit.server import run

    assert int(service["RestartForceExitStatus"]) == run.EX_SOFTWARE
    assert service["Restart"] == "on-failure"
    assert int(service["TimeoutStopSec"]) >= shutdown_seconds(settings) + 10


def test_unit_starts_the_server_with_keys(service: Any) -> None:
    words = service["ExecStart"].split()
    assert words[1] == "serve" and "${CREDENTIALS_DIRECTORY}/keys" in words
    assert words[words.index("--api-keys") + 1] == "${CREDENTIALS_DIRECTORY}/keys"
    assert service["LoadCredential"].startswith("keys:")
    check_options(words[2:])


def test_environment_file_shows_the_defaults(settings: Any) -> None:
    lines = (DEPLOY / "diffedit-trt.env").read_text().splitlines()
    given = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", "\n".join(lines), re.MULTILINE))
    check_options(given.pop("DIFFEDIT_OPTIONS").split())
    assert given.pop("DIFFEDIT_MODEL")
    for name, value in given.items():
        field = name.removeprefix("DIFFEDIT_SERVE_").lower()
        assert float(value) == getattr(settings, field)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    true = shutil.which("true") or "/bin/true"
    copy.write_text(UNIT.read_text().replace("/opt/diffedit-trt/bin/diffedit-trt", true))
    for command in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(
            ["systemd-analyze", *command, str(copy)], capture_output=True, text=True, check=False
        )
        if "unrecognized option" in done.stderr:
            pytest.skip("this systemd is older than 250")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Unknown" not in done.stderr and "Failed to parse" not in done.stderr
