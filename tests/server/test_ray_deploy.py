"""`serve deploy` on a real Ray: it refuses to serve other machines without API keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.helpers import ROOT, free_port

pytest.importorskip("ray", reason="needs the ray extra")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DEPLOY = """
import sys
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from diffedit.server import ray_app
ray.init(include_dashboard=False, log_to_driver=False)
options = {"model": sys.argv[1], "gpus_per_replica": 0, "cpus_per_replica": 0.1}
for host, port in zip(("0.0.0.0", "127.0.0.1"), sys.argv[2:], strict=True):
    serve.start(http_options=HTTPOptions(host=host, port=int(port)))
    try:
        print(host, "built", type(ray_app.application(options)).__name__)
    except Exception as error:
        print(host, "refused", error)
    serve.shutdown()
"""


def test_address_of_the_proxies_decides(tiny: Path) -> None:
    """The settings name no host here: they would say 127.0.0.1."""
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY, str(tiny), str(free_port()), str(free_port())],
        cwd=ROOT,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith(("0.0.0.0", "127.0.0.1"))]
    others, own = lines or (done.stderr, "")
    assert others.startswith("0.0.0.0 refused") and "--api-keys" in others
    assert own.startswith("127.0.0.1 built"), own
