"""deploy/haproxy.cfg: HAProxy accepts it, and its times fit the server's settings.

`tests/server/test_rolling_update.py` sends requests through it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.deployment import DEPLOY

TEXT = (DEPLOY / "haproxy.cfg").read_text()


def number(pattern: str) -> float:
    """The only number that follows a text of the configuration."""
    (found,) = set(re.findall(pattern + r"\D*?(\d+)", TEXT))
    return float(found)


def test_haproxy_accepts_the_configuration(tmp_path: Path) -> None:
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not installed")
    without_certificate, count = re.subn(r"ssl crt \S+ alpn \S+", "", TEXT)
    assert count == 1
    (tmp_path / "haproxy.cfg").write_text(without_certificate)
    command = [program, "-c", "-f", str(tmp_path / "haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr


def test_times_fit_the_server(settings: Any) -> None:
    noticed = number(r"check inter") / 1000 * number(r"fall")
    assert number("DRAIN_DELAY_SECONDS=") > 4 * noticed, "HAProxy notices before edits are refused"
    assert number("timeout server") > settings.request_seconds
    assert number("timeout client") > settings.request_seconds
